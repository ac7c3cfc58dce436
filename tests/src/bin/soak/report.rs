//! What a run has shown.

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};
use tests::Stack;

use crate::faults::Faults;
use crate::memory::Memory;
use crate::traffic::Counts;

/// How much a program may seem to grow over a run, in KiB: what allocators keep varies.
const REFRESHER_GROWTH_KIB: f64 = 2048.0;
const ENVOY_GROWTH_KIB: f64 = 16384.0;

/// The report of a run.
pub struct Report {
    seed: u64,
    minutes: f64,
    rotations: u64,
    counts: Counts,
    spent_twice: u64,
    lost_answers: u64,
    refresher: [f64; 2],
    envoy: [f64; 2],
    faults: Vec<(&'static str, u64)>,
}

impl Report {
    /// Puts it together.
    pub fn new(
        seed: u64,
        minutes: f64,
        counts: Counts,
        faults: &Faults,
        memory: &Memory,
        stack: &Stack,
    ) -> Self {
        let summary = stack.provider().summary();
        let slope =
            |series: &crate::memory::Series| [series.slope_kib_per_hour(), series.growth_kib()];
        Self {
            seed,
            minutes,
            rotations: summary.refreshes,
            counts,
            spent_twice: summary.spent_twice.saturating_sub(faults.lost_answers),
            lost_answers: faults.lost_answers,
            refresher: slope(&memory.refresher),
            envoy: slope(&memory.envoy),
            faults: faults.counts().iter().map(|(fault, count)| (fault.name(), *count)).collect(),
        }
    }

    /// Failures that no lost answer explains: after one, requests are refused until a new login.
    fn unexpected_failures(&self) -> u64 {
        let explained = self.lost_answers > 0;
        self.counts.failures + if explained { 0 } else { self.counts.logged_out }
    }

    /// The bounds that do not hold, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut zero = |what: &str, count: u64| {
            if count > 0 {
                broken.push(format!("{what}: {count}, expected 0"));
            }
        };
        zero("unexpected failures", self.unexpected_failures());
        zero("grants spent twice", self.spent_twice);
        zero("requests without the bearer", self.counts.without_bearer);
        zero("streams cut", self.counts.streams_cut);
        let least = (self.minutes * 60.0 / 8.0) as u64;
        if self.rotations < least {
            broken.push(format!("rotations: {}, expected at least {least}", self.rotations));
        }
        for (name, [_, growth], most) in [
            ("refresher", self.refresher, REFRESHER_GROWTH_KIB),
            ("envoy", self.envoy, ENVOY_GROWTH_KIB),
        ] {
            if growth > most {
                broken.push(format!("{name} grew by {growth:.0} KiB, accepted are {most:.0}"));
            }
        }
        if !broken.is_empty() {
            let examples = self.counts.examples.iter();
            broken.extend(examples.map(|example| format!("for example: {example}")));
        }
        broken
    }

    /// Writes `target/soak/report.json`.
    pub fn write(&self) -> Result<()> {
        std::fs::create_dir_all("target/soak")?;
        std::fs::write("target/soak/report.json", serde_json::to_string_pretty(&self.json())?)?;
        Ok(())
    }

    fn json(&self) -> Value {
        let faults = self.faults.iter().map(|(name, count)| json!({"fault": name, "count": count}));
        json!({
            "seed": self.seed,
            "minutes": self.minutes,
            "rotations": self.rotations,
            "requests": self.counts.requests,
            "streams": self.counts.streams,
            "unexpected_failures": self.unexpected_failures(),
            "grants_spent_twice": self.spent_twice,
            "unanswered_exchanges": self.lost_answers,
            "requests_without_bearer": self.counts.without_bearer,
            "streams_cut": self.counts.streams_cut,
            "refresher_rss_slope_kib_per_hour": self.refresher[0].round(),
            "envoy_rss_slope_kib_per_hour": self.envoy[0].round(),
            "faults": faults.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [refresher, _] = self.refresher;
        let [envoy, _] = self.envoy;
        for (name, value) in [
            ("rotations", self.rotations.to_string()),
            ("requests", self.counts.requests.to_string()),
            ("streams", self.counts.streams.to_string()),
            ("failures", self.unexpected_failures().to_string()),
            ("grants spent twice", self.spent_twice.to_string()),
            ("unanswered exchanges", format!("{} (each cost a login)", self.lost_answers)),
            ("requests without bearer", self.counts.without_bearer.to_string()),
            ("streams cut", self.counts.streams_cut.to_string()),
            ("refresher memory", format!("{refresher:+.0} KiB an hour")),
            ("envoy memory", format!("{envoy:+.0} KiB an hour")),
        ] {
            writeln!(f, "{name:>24}  {value}")?;
        }
        for (name, count) in &self.faults {
            writeln!(f, "{name:>24}  {count} times")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod bounds {
    use super::*;

    /// Ten minutes, each bound just kept.
    pub fn sound() -> Report {
        Report {
            seed: 1,
            minutes: 10.0,
            rotations: 75,
            counts: Counts { requests: 1000, streams: 100, ..Counts::default() },
            spent_twice: 0,
            lost_answers: 0,
            refresher: [99_999.0, REFRESHER_GROWTH_KIB],
            envoy: [99_999.0, ENVOY_GROWTH_KIB],
            faults: Vec::new(),
        }
    }

    /// The same with one bound broken in each, and how that is told.
    pub fn breaches() -> Vec<(&'static str, Report)> {
        let counts = |counts: Counts| Report { counts, ..sound() };
        vec![
            (
                "unexpected failures: 1, expected 0",
                counts(Counts { failures: 1, ..Counts::default() }),
            ),
            (
                "unexpected failures: 2, expected 0",
                counts(Counts { logged_out: 2, ..Counts::default() }),
            ),
            ("grants spent twice: 1, expected 0", Report { spent_twice: 1, ..sound() }),
            (
                "requests without the bearer: 1, expected 0",
                counts(Counts { without_bearer: 1, ..Counts::default() }),
            ),
            ("streams cut: 1, expected 0", counts(Counts { streams_cut: 1, ..Counts::default() })),
            ("rotations: 74, expected at least 75", Report { rotations: 74, ..sound() }),
            (
                "refresher grew by 2049 KiB, accepted are 2048",
                Report { refresher: [0.0, REFRESHER_GROWTH_KIB + 1.0], ..sound() },
            ),
            (
                "envoy grew by 16385 KiB, accepted are 16384",
                Report { envoy: [0.0, ENVOY_GROWTH_KIB + 1.0], ..sound() },
            ),
        ]
    }

    #[test]
    fn each_bound_alone_is_told() {
        assert_eq!(sound().broken(), Vec::<String>::new());
        for (told, report) in breaches() {
            assert_eq!(report.broken(), [told]);
        }
    }

    #[test]
    fn a_lost_answer_explains_refusals_for_want_of_a_login_and_nothing_else() {
        let lost = |counts| Report { counts, lost_answers: 1, ..sound() }.broken();
        let refused = Counts { logged_out: 9, ..Counts::default() };
        assert_eq!(lost(refused.clone()), Vec::<String>::new());
        let failed = lost(Counts { failures: 1, ..refused });
        assert_eq!(failed, ["unexpected failures: 1, expected 0"]);
    }

    #[test]
    fn a_broken_bound_comes_with_examples() {
        let examples = vec!["503: no".to_owned()];
        let counts = Counts { failures: 1, examples, ..Counts::default() };
        let broken = Report { counts, ..sound() }.broken();
        assert_eq!(broken, ["unexpected failures: 1, expected 0", "for example: 503: no"]);
    }
}
