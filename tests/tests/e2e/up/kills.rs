//! An Envoy that is killed again and again, and what it costs to start.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tests::{Stack, Stopwatch, eventually, http_client};

use super::{SMALL, Up, chat, lives, machine, up_command};

/// How soon a killed Envoy serves again as a rule: below two seconds, thrice that on a slow machine
/// with other tests beside this one.
const BACK: Duration = Duration::from_secs(6);

/// What such a machine may need once in a while.
const GENEROUS: Duration = Duration::from_secs(20);

/// How often it is killed.
const KILLS: usize = 20;

/// Asks on a connection of its own, so that a dead one does not count.
async fn asks_anew(up: &Up) -> Result<StatusCode> {
    let url = format!("http://{}/v1/models", up.address);
    let request = http_client()?.get(url).timeout(Duration::from_secs(1));
    Ok(request.send().await?.status())
}

/// Opens a stream and reads of it until it ends or is cut off, and then opens the next.
async fn streams(client: reqwest::Client, url: String) {
    loop {
        if let Ok(mut answer) = client.post(&url).json(&chat(200, 20)).send().await {
            while let Ok(Some(_)) = answer.chunk().await {}
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn kill(id: i32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(id).context("no process id")?, Signal::KILL)?)
}

#[tokio::test]
async fn twenty_kills_are_followed_by_twenty_returns_each_at_once() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let url = format!("http://{}/v1/chat/completions", up.address);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        clients.spawn(streams(http_client()?, url.clone()));
    }
    let mut times = Vec::new();
    for round in 0..KILLS {
        let before = up.envoy().context("no Envoy runs")?;
        let watch = Stopwatch::start();
        kill(before)?;
        let back = eventually(GENEROUS, async || (asks_anew(&up).await.ok()? == 200).then_some(()));
        back.await.with_context(|| format!("not back after kill {round}: {}", up.process.log()))?;
        times.push(watch.elapsed());
        ensure!(!lives(before));
    }
    clients.abort_all();
    times.sort();
    let [.., longest] = &times[..] else { anyhow::bail!("no times") };
    let median = times.get(KILLS / 2).context("no median")?;
    println!("back after {median:?} (median), {longest:?} (longest), {KILLS} times");
    // A pause that grew from kill to kill would show in the median, however slow the machine is.
    ensure!(*median < BACK, "{times:?}");
    Ok(())
}

#[tokio::test]
async fn an_envoy_that_does_not_come_up_is_tried_again_with_pauses() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let bootstrap = stack.state_dir().join("envoy/bootstrap.json");
    let good = std::fs::read(&bootstrap)?;
    std::fs::write(&bootstrap, "{}}")?;
    kill(up.envoy().context("no Envoy runs")?)?;
    let failed = |number: usize| {
        let log = up.process.log();
        log.lines().any(|line| line.contains(&format!("failures={number}"))).then_some(log)
    };
    let log = eventually(Duration::from_secs(30), async || failed(3)).await;
    let log = log.context("it is not tried again")?;
    ensure!(log.contains("envoy exited with"), "{log}");
    std::fs::write(&bootstrap, good)?;
    let back = eventually(Duration::from_secs(30), async || {
        (asks_anew(&up).await.ok()? == 200).then_some(())
    });
    back.await.context("it does not serve again")?;
    Ok(())
}

/// Starts `up` and waits for the first 200.
async fn first_200(name: &str, stack: &Stack) -> Result<(Up, Duration)> {
    let watch = Stopwatch::start();
    let up = Up::start_as(name, stack, &mut up_command(stack, &[])?).await?;
    let served = eventually(Duration::from_secs(30), async || {
        (asks_anew(&up).await.ok()? == 200).then_some(())
    });
    served.await.context("it does not serve")?;
    Ok((up, watch.elapsed()))
}

#[tokio::test]
async fn from_a_stored_login_to_the_first_200_it_takes_a_moment() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let checked = stack.state_dir().join("envoy/checked");
    for name in ["first", "second"] {
        let (up, took) = first_200(name, &stack).await?;
        println!("{name} start: {took:?} to the first 200");
        ensure!(took < GENEROUS, "{took:?}");
        let noted = std::fs::read_to_string(&checked).context("nothing is noted of Envoy")?;
        ensure!(noted.contains("envoy"), "{noted}");
        ensure!(up.process.stop().await?.success());
    }
    Ok(())
}
