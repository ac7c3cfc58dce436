//! What a run has shown.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use simulator::Summary;

use crate::allowance::{Failed, Failure};
use crate::faults::Losses;
use crate::memory::{Memory, Series};
use crate::plan::{Fault, Planned};
use crate::traffic::Record;

/// How much a program may seem to grow over a run, in KiB: what allocators keep varies.
const REFRESHER_GROWTH_KIB: f64 = 2048.0;
const ENVOY_GROWTH_KIB: f64 = 16384.0;

/// The least that is expected of rotations: one in so many seconds.
const ROTATION_S: f64 = 8.0;

/// How many failures are told.
const EXAMPLES: usize = 10;

/// What happened between the beginning of one kind of fault and the next fault.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// None: while nothing went wrong.
    fault: Option<Fault>,
    /// When it began, from the start of the run, in seconds.
    begun_s: Vec<f64>,
    requests: u64,
    allowed_failures: u64,
    unexpected_failures: u64,
    streams_cut: u64,
}

impl Row {
    fn name(&self) -> &'static str {
        self.fault.map_or("none", Fault::name)
    }
}

/// The memory of a program.
#[derive(Clone, Copy, Debug, Default)]
struct Grown {
    last_kib: f64,
    slope_kib_per_hour: f64,
    growth_kib: f64,
}

impl Grown {
    fn of(series: &Series) -> Self {
        let slope_kib_per_hour = series.slope_kib_per_hour();
        let growth_kib = series.growth_kib();
        Self { last_kib: series.last_kib(), slope_kib_per_hour, growth_kib }
    }
}

/// The report of a run.
pub struct Report {
    seed: u64,
    minutes: f64,
    rotations: u64,
    streams: u64,
    without_bearer: u64,
    spent_twice: u64,
    lost_answers: u64,
    refresher: Grown,
    envoy: Grown,
    rows: Vec<Row>,
    /// How much later than planned a fault has begun, at most.
    latest_s: f64,
    /// Why the run ended before its time, if it did.
    error: Option<String>,
    /// The first failures that nothing excuses.
    examples: Vec<String>,
}

/// What a report is made of.
pub struct Findings {
    pub seed: u64,
    pub minutes: f64,
    pub summary: Summary,
    pub record: Record,
    pub without_bearer: u64,
    /// The faults that happened, and when they began.
    pub begun: Vec<(Planned, std::time::Duration)>,
    pub losses: Losses,
    pub memory: Memory,
    pub error: Option<String>,
}

impl Report {
    /// Puts it together.
    pub fn new(findings: &Findings) -> Self {
        let Findings { record, losses, memory, begun, .. } = findings;
        let late = begun.iter().map(|(planned, at)| at.saturating_sub(planned.at).as_secs_f64());
        let (rows, examples) = judge(findings);
        let spent_twice = findings.summary.spent_twice.saturating_sub(losses.lost_answers);
        Self {
            seed: findings.seed,
            minutes: findings.minutes,
            rotations: findings.summary.refreshes,
            streams: record.streams,
            without_bearer: findings.without_bearer,
            spent_twice,
            lost_answers: losses.lost_answers,
            refresher: Grown::of(&memory.refresher),
            envoy: Grown::of(&memory.envoy),
            rows,
            latest_s: late.fold(0.0, f64::max),
            error: findings.error.clone(),
            examples,
        }
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        self.rows.iter().map(of).sum()
    }

    /// The bounds that do not hold, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken: Vec<String> = self.error.iter().cloned().collect();
        let mut zero = |what: &str, count: u64| {
            if count > 0 {
                broken.push(format!("{what}: {count}, expected 0"));
            }
        };
        zero("unexpected failures", self.sum(|row| row.unexpected_failures));
        zero("grants spent twice", self.spent_twice);
        zero("requests without the bearer", self.without_bearer);
        zero("streams cut", self.sum(|row| row.streams_cut));
        let least = (self.minutes * 60.0 / ROTATION_S) as u64;
        if self.rotations < least {
            broken.push(format!("rotations: {}, expected at least {least}", self.rotations));
        }
        for (name, grown, most) in [
            ("refresher", self.refresher, REFRESHER_GROWTH_KIB),
            ("envoy", self.envoy, ENVOY_GROWTH_KIB),
        ] {
            let growth = grown.growth_kib;
            if growth > most {
                broken.push(format!("{name} grew by {growth:.0} KiB, accepted are {most:.0}"));
            }
        }
        let idle = self.rows.iter().filter(|row| row.fault.is_some() && row.requests == 0);
        broken.extend(idle.map(|row| format!("{}: no request met it", row.name())));
        if !broken.is_empty() {
            let examples = self.examples.iter();
            broken.extend(examples.map(|example| format!("for example: {example}")));
        }
        broken
    }

    /// Writes `report.json` into this folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(&self.json())?;
        Ok(std::fs::write(folder.join("report.json"), text)?)
    }

    fn json(&self) -> Value {
        let faults = self.rows.iter().map(|row| {
            json!({
                "fault": row.name(),
                "count": row.begun_s.len(),
                "begun_s": row.begun_s,
                "requests": row.requests,
                "allowance": row.fault.map_or("nothing", Fault::allowance),
                "allowed_failures": row.allowed_failures,
                "unexpected_failures": row.unexpected_failures,
                "streams_cut": row.streams_cut,
            })
        });
        json!({
            "seed": self.seed,
            "minutes": self.minutes,
            "rotations": self.rotations,
            "requests": self.sum(|row| row.requests),
            "streams": self.streams,
            "unexpected_failures": self.sum(|row| row.unexpected_failures),
            "grants_spent_twice": self.spent_twice,
            "unanswered_exchanges": self.lost_answers,
            "requests_without_bearer": self.without_bearer,
            "streams_cut": self.sum(|row| row.streams_cut),
            "refresher_rss_kib": self.refresher.last_kib,
            "envoy_rss_kib": self.envoy.last_kib,
            "refresher_rss_slope_kib_per_hour": self.refresher.slope_kib_per_hour.round(),
            "envoy_rss_slope_kib_per_hour": self.envoy.slope_kib_per_hour.round(),
            "latest_start_s": self.latest_s,
            "faults": faults.collect::<Vec<_>>(),
            "broken": self.broken(),
        })
    }
}

/// Puts every request into the row of its fault: a failure that a fault excuses into that one's, all
/// else into that of the latest fault. With the first failures that nothing excuses.
fn judge(findings: &Findings) -> (Vec<Row>, Vec<String>) {
    let Findings { record, losses, begun, .. } = findings;
    let faults = Fault::ALL.into_iter().map(Some).chain([None]);
    let mut rows: Vec<Row> = faults
        .map(|fault| {
            let of_it = begun.iter().filter(|(planned, _)| Some(planned.fault) == fault);
            let begun_s = of_it.map(|(_, at)| (at.as_secs_f64() * 1000.0).round() / 1000.0);
            let requests = record.requests.get(&fault).copied().unwrap_or_default();
            Row { fault, begun_s: begun_s.collect(), requests, ..Row::default() }
        })
        .collect();
    let mut examples = Vec::new();
    for failed in &record.failures {
        let excuse = losses.excuses.iter().find(|excuse| excuse.covers(failed));
        let fault = excuse.map_or(failed.during, |excuse| Some(excuse.fault));
        let Some(row) = rows.iter_mut().find(|row| row.fault == fault) else { continue };
        match (excuse, failed.failure) {
            (Some(_), _) => row.allowed_failures += 1,
            (None, Failure::Cut) => row.streams_cut += 1,
            (None, _) => row.unexpected_failures += 1,
        }
        if excuse.is_none() && examples.len() < EXAMPLES {
            examples.push(told(failed, row.name()));
        }
    }
    // What did not happen, and met no request, is not told.
    rows.retain(|row| row.fault.is_none() || !row.begun_s.is_empty());
    (rows, examples)
}

fn told(failed: &Failed, during: &str) -> String {
    let (began, ended) = (failed.began.as_secs_f64(), failed.ended.as_secs_f64());
    format!("{began:.3} s to {ended:.3} s, {during}: {}", failed.seen)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = |grown: Grown| {
            let Grown { last_kib, slope_kib_per_hour, .. } = grown;
            format!("{last_kib:.0} KiB, {slope_kib_per_hour:+.0} KiB an hour")
        };
        for (name, value) in [
            ("rotations", self.rotations.to_string()),
            ("requests", self.sum(|row| row.requests).to_string()),
            ("streams", self.streams.to_string()),
            ("failures", self.sum(|row| row.unexpected_failures).to_string()),
            ("grants spent twice", self.spent_twice.to_string()),
            ("unanswered exchanges", format!("{} (each cost a login)", self.lost_answers)),
            ("requests without bearer", self.without_bearer.to_string()),
            ("streams cut", self.sum(|row| row.streams_cut).to_string()),
            ("refresher memory", memory(self.refresher)),
            ("envoy memory", memory(self.envoy)),
        ] {
            writeln!(f, "{name:>24}  {value}")?;
        }
        for row in &self.rows {
            let (count, failures) = (row.begun_s.len(), row.unexpected_failures + row.streams_cut);
            writeln!(
                f,
                "{:>24}  {count:>2} times, {:>6} requests, {} failures allowed, {failures} not",
                row.name(),
                row.requests,
                row.allowed_failures
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests;
