//! Client keys, with a whole `refresher up`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{Process, Stack, envoy_binary, filter_module};
use tokio::io::AsyncWriteExt as _;

use super::{Call, arrived, small};

const KEY: &str = "key-of-alice-0123456789";

const START: Duration = Duration::from_secs(60);

#[tokio::test]
async fn with_client_keys_one_is_needed_to_say_that_all_is_good() -> Result<()> {
    let mut plan = small();
    plan.settings = "[envoy]\nconcurrency = 1\n".to_owned();
    let stack = Stack::prepare(plan).await?;
    stack.login().await?;
    let mut command = stack.refresher_command(&["up", "--port", "0"])?;
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    let mut up = Process::start("up", stack.dir(), command.env("PROXY_API_KEY", KEY))?;
    let address = |line: &str| {
        let (_, rest) = line.split_once("listening on http://")?;
        rest.split_once("/v1")?.0.parse::<SocketAddr>().ok()
    };
    let address = up.printed(START, address).await?;

    super::known(&stack).await?;
    // Where it listens is known from Envoy itself.
    let call = || {
        Ok::<_, anyhow::Error>(Call::new(&stack)?.env("PROXY_PORT", "0").env("PROXY_API_KEY", KEY))
    };
    let found = call()?.env("TORCHBEARER_CLIENT_KEY", KEY).diagnose(&stack).await?;
    found.expect(0, &[("listener", "ok", &format!("Envoy listens on {address}"))])?;
    ensure!(arrived(&stack) > 0, "no request reached the API");

    // It runs, and could not start again.
    let missing = stack.dir().join("missing");
    let call_again = call()?.env("TORCHBEARER_CLIENT_KEY", KEY).env("ENVOY_BIN", missing);
    let odd = [("envoy", "fail", "cannot be run"), ("bootstrap", "skipped", "no Envoy")];
    call_again.diagnose(&stack).await?.expect(1, &odd)?;

    // The refresher has a way in of its own, and `up` has told it where Envoy listens.
    let without = call()?.diagnose(&stack).await?;
    without.expect(0, &[("request", "ok", "to the refresher's request through Envoy")])?;
    let mut command = call()?;
    let mut doctor = command
        .arguments(&["--key-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = doctor.stdin.take().context("no standard input")?;
    stdin.write_all(format!("{KEY}\n").as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(super::END, doctor.wait_with_output()).await??;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(0) && text.contains("\nall good"), "{text}");
    ensure!(!text.contains(KEY), "the key is shown");

    // The configuration would open the listener to everybody.
    let mut open = Call::new(&stack)?.env("PROXY_HOST", "0.0.0.0").env("PROXY_PORT", "0");
    let (code, text) = super::finished(open.arguments(&["--json"]), &stack).await?;
    let found = super::Diagnosis { code, report: serde_json::from_str(&text)? };
    ensure!(found.verdict("client keys")? == "fail", "{}", found.report);
    let said = found.of("client keys")[0]["says"].to_string();
    ensure!(said.contains("0.0.0.0 is not on loopback") && code == Some(1), "{said}");
    up.stop().await?;
    Ok(())
}
