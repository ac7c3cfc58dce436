//! Where the page is served, and how it is reached.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use tests::{Plan, Process, Stack, envoy_binary, eventually, filter_module, own_port};
use tokio::net::TcpStream;

use super::{SOON, invitation, page_command, plan};

#[tokio::test]
async fn up_serves_the_page_on_loopback_and_says_where_without_a_ticket_in_its_log() -> Result<()> {
    // The port that is asked for is taken, so the next free one is used.
    let taken = own_port()?;
    let port = taken.local_addr()?.port();
    let settings = format!("[status_page]\nport = {port}\n[envoy]\nconcurrency = 1\n");
    let stack = Stack::prepare(Plan { settings, ..Plan::default() }).await?;
    stack.login().await?;
    let mut command = stack.refresher_command(&["up", "--port", "0"])?;
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    let mut up = Process::start("up", stack.dir(), command.env("LOG_LEVEL", "trace"))?;
    let line = |line: &str| line.starts_with("status page: ").then(|| line.to_owned());
    let line = up.printed(3 * SOON, line).await?;
    let address = line.split(' ').nth(2).context("no address")?.to_owned();
    ensure!(line.ends_with("(\"refresher page\" opens it)") && !line.contains('#'), "{line}");

    let invitation = invitation(&stack).await?;
    let (base, ticket) = invitation.split_once('#').context("no ticket")?;
    ensure!(base == address && ticket.len() == 43, "{base} instead of {address}");
    let served: u16 = base.trim_end_matches('/').rsplit(':').next().context("port")?.parse()?;
    ensure!(served > port && served < port + 20, "{served} after {port}");
    // All of 127.0.0.0/8 is this machine: a listener on every interface would answer here.
    let other = (Ipv4Addr::new(127, 0, 0, 2), served);
    ensure!(TcpStream::connect(other).await.is_err(), "reachable elsewhere");
    ensure!(stack.client.get(base).send().await?.status() == StatusCode::OK);
    ensure!(!up.log().contains(ticket), "the ticket is in the log");
    up.stop().await?;
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, served)).await.is_err(), "still served");
    Ok(())
}

#[tokio::test]
async fn serve_has_no_page_unless_it_is_switched_on_and_page_says_so() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    let page = ["page", "--no-browser"];
    let refusal = page_command(&mut stack.refresher_command(&page)?).await?;
    let errors = String::from_utf8_lossy(&refusal.stderr).into_owned();
    ensure!(refusal.status.code() == Some(1) && errors.contains("no refresher serves"), "{errors}");
    stack.start_refresher().await?;
    let refusal = page_command(&mut stack.refresher_command(&page)?).await?;
    let errors = String::from_utf8_lossy(&refusal.stderr).into_owned();
    ensure!(errors.contains("set status_page.enabled = true"), "{errors}");
    ensure!(refusal.status.code() == Some(1) && refusal.stdout.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_browser_is_led_to_the_page_by_a_private_file_and_not_by_its_arguments() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.start_refresher().await?;
    // A browser that notes how it was called.
    let (program, note) = (stack.dir().join("browser"), stack.dir().join("note"));
    std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" > {}\n", note.display()))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))?;
    let mut command = stack.refresher_command(&["page"])?;
    let output = page_command(command.env("BROWSER", &program)).await?;
    let url = String::from_utf8(output.stdout)?.trim().to_owned();
    let ticket = url.split_once('#').context("no ticket")?.1.to_owned();
    let called = eventually(SOON, async || {
        std::fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n'))
    });
    let called = called.await.context("no browser was started")?;
    let file = stack.state_dir().join("page.html");
    ensure!(called.trim() == format!("file://{}", file.display()), "{called}");
    ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    ensure!(std::fs::read_to_string(&file)?.contains(&url), "it does not lead there");

    // Once the ticket is used, the file is gone and the ticket no good.
    let base = url.split_once("/#").context("no ticket")?.0.to_owned();
    let redeem = async || {
        let body = serde_json::json!({"ticket": ticket});
        let request = stack.client.post(format!("{base}/api/session")).json(&body);
        Ok::<_, anyhow::Error>(request.header("origin", &base).send().await?.status())
    };
    ensure!(redeem().await? == StatusCode::OK && !file.exists());
    ensure!(redeem().await? == StatusCode::FORBIDDEN);
    Ok(())
}
