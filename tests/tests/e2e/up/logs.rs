//! Envoy's log, and how requests end when `up` does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{Stack, eventually, http_client};

use super::{Up, chat, is_free, lives, machine, up_command};

const SOON: Duration = Duration::from_secs(30);

/// The log's files from the oldest to the present one.
fn files(stack: &Stack) -> Vec<PathBuf> {
    let log = |number: u32| {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        stack.state_dir().join(format!("envoy/envoy.log{suffix}"))
    };
    (0..=9).rev().map(log).filter(|path| path.exists()).collect()
}

/// The numbers that requests were given, in the order of the access log.
fn numbers(stack: &Stack) -> Vec<u32> {
    let text: String = files(stack).iter().flat_map(fs::read_to_string).collect();
    let lines = text.lines().filter_map(|line| line.split_once("/v1/models/")?.1.split('"').next());
    lines.filter_map(|number| number.parse().ok()).collect()
}

#[tokio::test]
async fn the_log_is_bounded_and_loses_no_line() -> Result<()> {
    let settings = "[envoy]\nconcurrency = 1\nlog_max_bytes = 65536\nlog_files = 9\n";
    let stack = machine(true, settings).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let mut sent = 0;
    // Until it has been rotated three times, under load all the time.
    while files(&stack).len() < 4 {
        ensure!(sent < 20_000, "{} files after {sent} requests", files(&stack).len());
        up.get(&stack, &format!("/v1/models/{sent}")).send().await?;
        sent += 1;
    }
    let all: Vec<u32> = (0..sent).collect();
    let whole = eventually(SOON, async || (numbers(&stack) == all).then_some(())).await;
    whole.with_context(|| format!("{} of {sent} lines are there", numbers(&stack).len()))?;
    for file in files(&stack) {
        let stat = fs::metadata(&file)?;
        ensure!(stat.permissions().mode() & 0o777 == 0o600, "{}", file.display());
    }

    // Nobody waits for a refresher that is stopped: Envoy writes by itself.
    up.process.signal(Signal::STOP)?;
    for number in sent..sent + 200 {
        let answer = up.get(&stack, &format!("/v1/models/{number}")).send().await?;
        ensure!(answer.status() != 503, "{}", answer.status());
    }
    up.process.signal(Signal::CONT)?;
    let all: Vec<u32> = (0..sent + 200).collect();
    let whole = eventually(SOON, async || (numbers(&stack) == all).then_some(())).await;
    whole.context("lines are lost while the refresher is stopped")
}

#[tokio::test]
async fn at_a_stop_streams_end_and_new_connections_are_refused() -> Result<()> {
    let stack = machine(true, "[envoy]\nconcurrency = 1\ndrain_timeout = 60\n").await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let envoy = up.envoy().context("no Envoy runs")?;
    let url = format!("http://{}/v1/chat/completions", up.address);
    let client = http_client()?;
    let mut answer = client.post(&url).json(&chat(6, 500)).send().await?;
    ensure!(answer.status() == 200);
    let mut text = String::new();
    let first = answer.chunk().await?.context("no chunk")?;
    text.push_str(std::str::from_utf8(&first)?);

    up.process.signal(Signal::TERM)?;
    let refused = eventually(SOON, async || {
        let fresh = http_client().ok()?.get(&url).send().await;
        fresh.is_err_and(|error| error.is_connect()).then_some(())
    });
    refused.await.context("new connections are accepted")?;
    // While the stream goes on, and not because Envoy is gone.
    ensure!(lives(envoy), "new connections are accepted up to the end");
    while let Some(chunk) = answer.chunk().await? {
        text.push_str(std::str::from_utf8(&chunk)?);
    }
    ensure!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    let (mut process, address) = (up.process, up.address);
    ensure!(process.wait(SOON).await?.success() && is_free(address));
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    let stack = machine(true, "[envoy]\nconcurrency = 1\ndrain_timeout = 3600\n").await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let url = format!("http://{}/v1/chat/completions", up.address);
    let answer = http_client()?.post(&url).json(&chat(6, 3_600_000)).send().await?;
    ensure!(answer.status() == 200);
    let mut process = up.process;
    process.signal(Signal::TERM)?;
    process
        .printed(SOON, |line| line.contains("another signal ends them").then_some(()))
        .await
        .context("it does not say that requests are under way")?;
    let refused = eventually(SOON, async || {
        let fresh = http_client().ok()?.get(&url).send().await;
        fresh.is_err_and(|error| error.is_connect()).then_some(())
    });
    refused.await.context("new connections are accepted while it waits")?;
    ensure!(process.ended().is_none(), "it does not wait for the stream");
    process.signal(Signal::TERM)?;
    ensure!(process.wait(SOON).await?.success() && is_free(up.address));
    Ok(())
}
