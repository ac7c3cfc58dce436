//! Hours of rotation in minutes: a token every two seconds, traffic, and faults at random moments.
//!
//! `soak --minutes N [--seed S]` prints a report and writes it to `target/soak/report.json`. The
//! same seed makes the same faults at the same times. It exits with 1 when a bound is broken.

mod faults;
mod memory;
mod report;
mod traffic;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use simulator::Options;
use tests::{Plan, Stack, Stopwatch, eventually, unix_now};

use faults::{Fault, Faults};
use memory::Memory;
use report::Report;
use traffic::Traffic;

/// The tokens' life: half of it is the time between two rotations.
const TOKEN_LIFE_S: u64 = 4;

/// How soon everything must be well again after the last fault.
const RECOVERY: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(conclude(run().await))
}

/// Prints how a run has ended; gives the exit status.
fn conclude(result: Result<Report>) -> u8 {
    let broken = match result {
        Ok(report) => {
            print!("{report}");
            report.broken()
        }
        Err(error) => vec![format!("{error:#}")],
    };
    for bound in &broken {
        eprintln!("soak: {bound}");
    }
    u8::from(!broken.is_empty())
}

struct Arguments {
    minutes: f64,
    seed: u64,
}

/// Reads `--name value` pairs.
fn arguments() -> Result<Arguments> {
    let mut values = HashMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        ensure!(
            ["--minutes", "--seed"].contains(&name.as_str()),
            "{name} is not known; accepted are --minutes NUMBER and --seed NUMBER"
        );
        let value = words.next().with_context(|| format!("{name} wants a number"))?;
        values.insert(name, value);
    }
    let minutes = values.get("--minutes").map_or("5", String::as_str);
    let minutes: f64 = minutes.parse().context("--minutes wants a number")?;
    ensure!((0.1..=600.0).contains(&minutes), "--minutes accepts 0.1 to 600");
    let seed = match values.get("--seed") {
        Some(seed) => seed.parse().context("--seed wants a whole number")?,
        None => unix_now(),
    };
    Ok(Arguments { minutes, seed })
}

async fn run() -> Result<Report> {
    let Arguments { minutes, seed } = arguments()?;
    println!("soak: {minutes} minutes, seed {seed}");
    let provider = Options {
        token_life: TOKEN_LIFE_S,
        approve_device: true,
        stream_chunks: 6,
        ..Options::default()
    };
    let settings = "[rotation]\nspacing = 1\n".to_owned();
    let mut stack =
        Stack::start(Plan { provider, settings, log: "info", quiet: true, ..Plan::default() })
            .await?;
    let mut traffic = Traffic::start(&stack);
    let mut faults = Faults::new(SmallRng::seed_from_u64(seed));
    let mut memory = Memory::default();
    let watch = Stopwatch::start();
    let length = Duration::from_secs_f64(minutes * 60.0);
    // The last part is without faults, so that what was broken would be seen to stay broken.
    let faulty = length.saturating_sub(RECOVERY.min(length / 4));
    while watch.elapsed() < length {
        let fault = if watch.elapsed() < faulty { faults.next() } else { Fault::None };
        faults.inject(fault, &mut stack).await?;
        traffic.observe(&stack);
        memory.sample(&stack, watch.elapsed())?;
    }
    let served = eventually(RECOVERY, async || {
        let answer = stack.client.get(stack.url("/v1/models")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    });
    if served.await.is_none() {
        bail!("nothing is served {RECOVERY:?} after the last fault: {}", stack.refresher()?.log());
    }
    let counts = traffic.stop(&stack).await;
    let report = Report::new(seed, minutes, counts, &faults, &memory, &stack);
    report.write()?;
    Ok(report)
}

#[cfg(test)]
mod status {
    use super::*;
    use report::bounds::{breaches, sound};

    #[test]
    fn only_a_run_within_all_bounds_ends_with_0() {
        assert_eq!(conclude(Ok(sound())), 0);
        for (_, report) in breaches() {
            assert_eq!(conclude(Ok(report)), 1);
        }
        assert_eq!(conclude(Err(anyhow::anyhow!("Envoy does not listen"))), 1);
    }
}
