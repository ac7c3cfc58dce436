//! From `refresher up` with a stored login to the first answer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{Plan, Process, Stack, Stopwatch, eventually, filter_module, free_port};

use crate::numbers::Spread;

/// How often that is measured.
const STARTS: u32 = 5;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(30);

/// About how long all starts take.
pub fn duration() -> Duration {
    Duration::from_secs(3) * STARTS
}

/// The time until the first answer, in seconds.
pub async fn measure() -> Result<Spread> {
    eprintln!("measuring starts");
    let stack = Stack::prepare(Plan { log: "info", quiet: true, ..Plan::default() }).await?;
    stack.login().await?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let port = free_port()?.to_string();
        let mut command = stack.refresher_command(&["up", "--port", &port])?;
        command.env("ENVOY_BIN", tests::envoy_binary()?);
        command.env("TORCHBEARER_FILTER", filter_module()?);
        let url = format!("http://127.0.0.1:{port}/v1/models");
        let watch = Stopwatch::start();
        let mut up = Process::start("up", stack.dir(), &mut command)?.quiet();
        let answered = eventually(LIMIT, async || {
            let answer = stack.client.get(&url).send().await.ok()?;
            (answer.status() == 200).then(|| watch.elapsed())
        });
        let time = answered.await.with_context(|| format!("no answer: {}", up.log()))?;
        times.push(time.as_secs_f64());
        ensure!(up.ended().is_none(), "up has ended: {}", up.log());
        up.stop().await?;
    }
    Ok(Spread::of(times))
}
