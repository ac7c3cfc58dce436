//! Hours of rotation in minutes: a token every three seconds, traffic, and one fault after the other.
//!
//! `soak --minutes N [--seed S] [--out FOLDER]` prints a report and writes it to
//! `target/soak/report.json`, or into that folder. The same seed makes the same faults in the same
//! order at the same times. It exits with 1 when a bound is broken, or a fault had no effect.

mod allowance;
mod door;
mod faults;
mod machine;
mod memory;
mod needs;
mod plan;
mod report;
mod rig;
mod traffic;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{eventually, unix_now};

use faults::Losses;
use memory::Memory;
use needs::Needs;
use plan::{Planned, SLOT, plan};
use report::{Findings, Report};
use rig::Rig;
use traffic::Traffic;

/// How soon everything must be well again after the last fault. So long nothing goes wrong at the end,
/// so that what was broken would be seen to stay broken.
const RECOVERY: Duration = Duration::from_secs(20);

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);

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
    out: PathBuf,
}

/// Reads `--name value` pairs.
fn arguments() -> Result<Arguments> {
    let mut values = HashMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        ensure!(
            ["--minutes", "--seed", "--out"].contains(&name.as_str()),
            "{name} is not known; accepted are --minutes NUMBER, --seed NUMBER and --out FOLDER"
        );
        let value = words.next().with_context(|| format!("{name} wants a value"))?;
        values.insert(name, value);
    }
    let minutes = values.get("--minutes").map_or("5", String::as_str);
    let minutes: f64 = minutes.parse().context("--minutes wants a number")?;
    ensure!((1.0..=600.0).contains(&minutes), "--minutes accepts 1 to 600");
    let seed = match values.get("--seed") {
        Some(seed) => seed.parse().context("--seed wants a whole number")?,
        None => unix_now(),
    };
    let out = values.get("--out").map_or("target/soak", String::as_str).into();
    Ok(Arguments { minutes, seed, out })
}

async fn run() -> Result<Report> {
    let Arguments { minutes, seed, out } = arguments()?;
    let needs = Needs::find()?;
    println!("soak: {minutes} minutes, seed {seed}");
    let mut rig = Rig::start(needs).await?;
    let mut run = Run {
        traffic: Traffic::start(&rig.stack)?,
        memory: Memory::default(),
        losses: Losses::default(),
        begun: Vec::new(),
    };
    let length = Duration::from_secs_f64(minutes * 60.0);
    let ended = run.go(&mut rig, &plan(seed, length.saturating_sub(RECOVERY)), length).await;
    let Run { traffic, memory, losses, begun } = run;
    let (record, without_bearer) = traffic.stop().await?;
    let report = Report::new(&Findings {
        seed,
        minutes,
        summary: rig.stack.provider().summary(),
        record,
        without_bearer,
        begun,
        losses,
        memory,
        error: ended.err().map(|error| format!("{error:#}")),
    });
    report.write(&out)?;
    Ok(report)
}

/// A run under way.
struct Run {
    traffic: Traffic,
    memory: Memory,
    losses: Losses,
    begun: Vec<(Planned, Duration)>,
}

impl Run {
    /// Makes all faults happen, and looks whether everything is well at the end.
    async fn go(&mut self, rig: &mut Rig, plan: &[Planned], length: Duration) -> Result<()> {
        for planned in plan {
            self.rest(rig, planned.at).await?;
            let recorder = self.traffic.recorder();
            recorder.begin(Some(planned.fault));
            self.begun.push((*planned, recorder.elapsed()));
            faults::inject(*planned, rig, recorder, &mut self.losses).await?;
        }
        let last = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        self.rest(rig, SLOT * last).await?;
        self.traffic.recorder().begin(None);
        self.rest(rig, length).await?;
        let url = rig.stack.url("/v1/models");
        let served = eventually(RECOVERY, async || {
            let answer = rig.stack.client.get(&url).send().await.ok()?;
            (answer.status() == 200).then_some(())
        });
        served.await.with_context(|| format!("nothing is served {RECOVERY:?} after the last fault"))
    }

    /// Looks on until so much of the run is over.
    async fn rest(&mut self, rig: &Rig, until: Duration) -> Result<()> {
        loop {
            self.traffic.observe();
            let elapsed = self.traffic.recorder().elapsed();
            self.memory.sample(&rig.stack, elapsed)?;
            if elapsed >= until {
                return Ok(());
            }
            tokio::time::sleep(LOOK.min(until.saturating_sub(elapsed))).await;
        }
    }
}

#[cfg(test)]
mod status {
    use super::*;
    use report::tests::{breaches, sound};

    #[test]
    fn only_a_run_within_all_bounds_ends_with_0() {
        assert_eq!(conclude(Ok(sound())), 0);
        for (_, report) in breaches() {
            assert_eq!(conclude(Ok(report)), 1);
        }
        assert_eq!(conclude(Err(anyhow::anyhow!("Envoy does not listen"))), 1);
    }
}
