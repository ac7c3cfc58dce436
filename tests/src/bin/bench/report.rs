//! The report: as JSON, as a table, and the bounds that it has to keep.

use std::fmt;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tests::filter_module;

use crate::numbers::Spread;
use crate::refusals::Refusals;
use crate::variant::Kind;
use crate::{requests, rotation, streams};

/// Where the report is written.
const FOLDER: &str = "target/bench";

/// The streams of the ratios.
const STREAMS: usize = 100;

/// What was measured; parts that were not asked for are empty.
#[derive(Default)]
pub struct Report {
    /// Requests.
    pub requests: Vec<requests::Row>,
    /// Streams.
    pub streams: Vec<streams::Row>,
    /// Rotations.
    pub rotations: Vec<rotation::Row>,
    /// Seconds until all requests on a refused token are answered.
    pub rejections_s: Option<Spread>,
    /// Seconds until the first answer.
    pub start_s: Option<Spread>,
    /// Of a refresher that has served the Envoys of all variants.
    pub refresher_rss_kib: Option<u64>,
    /// Times of refusals.
    pub refusals: Option<Refusals>,
}

/// A figure with the bound that it has to keep.
struct Ratio {
    name: &'static str,
    value: Spread,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::None => true,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::None => Ok(()),
        }
    }
}

impl Report {
    fn row(&self, kind: Kind) -> Option<&requests::Row> {
        self.requests.iter().find(|row| {
            row.kind == kind && (row.tls, row.protocol, row.connections) == requests::RATIOS
        })
    }

    fn stream(&self, kind: Kind, streams: usize) -> Option<&streams::Row> {
        self.streams.iter().find(|row| row.kind == kind && row.streams == streams)
    }

    fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        let mut add = |name, value: Option<Spread>, bound| {
            ratios.extend(value.map(|value| Ratio { name, value, bound }));
        };
        let ours = self.row(Kind::TwoPlaces);
        let cpu = |other, how| Some(ours?.cpu_against(self.row(other)?, how));
        add("cpu_us_above_empty", cpu(Kind::Empty, |own, empty| own - empty), Bound::AtMost(6.0));
        add("cpu_over_bare", cpu(Kind::Bare, |own, bare| own / bare), Bound::AtMost(1.35));
        let sidecar = cpu(Kind::Sidecar, |own, sidecar| own / sidecar);
        add("cpu_over_sidecar_proxy", sidecar, Bound::AtMost(0.85));
        let faster = || {
            let (own, python) = (ours?.rps(), self.row(Kind::FastApi)?.rps());
            Some(Spread {
                median: own.median / python.median,
                min: own.min / python.max,
                max: own.max / python.min,
            })
        };
        add("rps_over_fastapi", faster(), Bound::AtLeast(40.0));
        let events =
            |kind| Some(self.stream(kind, STREAMS)?.events_over(self.stream(Kind::Bare, STREAMS)?));
        add("sse_events_over_bare", events(Kind::TwoPlaces), Bound::AtLeast(0.97));
        add("sse_events_over_bare_with_usage", events(Kind::WithUsage), Bound::AtLeast(0.90));
        let rotation = (!self.rotations.is_empty())
            .then(|| Spread::of(self.rotations.iter().map(rotation::Row::p99_ms)));
        // The slowest of all numbers of workers.
        let slowest = rotation.map(|all| Spread { median: all.max, ..all });
        add("rotation_p99_ms", slowest, Bound::AtMost(10.0));
        add("rejections_2000_s", self.rejections_s, Bound::AtMost(2.0));
        add("start_to_first_answer_s", self.start_s, Bound::AtMost(1.5));
        let size = filter_module().ok().and_then(|path| std::fs::metadata(path).ok());
        let kib = size.map(|size| Spread::of([size.len() as f64 / 1024.0]));
        add("wasm_kib", kib, Bound::AtMost(300.0));
        let resident = self.refresher_rss_kib.map(|kib| Spread::of([kib as f64]));
        add("refresher_rss_kib", resident, Bound::None);
        ratios
    }

    /// The bounds that do not hold, in words.
    pub fn broken(&self) -> Vec<String> {
        let ratios = self.ratios();
        let broken = ratios.iter().filter(|ratio| !ratio.bound.holds(ratio.value.median));
        let say = |ratio: &Ratio| {
            format!("{} is {:.3}; {} is due", ratio.name, ratio.value.median, ratio.bound)
        };
        let refusals = self.refusals.as_ref().map(Refusals::broken).unwrap_or_default();
        broken.map(say).chain(refusals).collect()
    }

    fn json(&self) -> Value {
        let ratio = |ratio: Ratio| {
            let mut value = ratio.value.json();
            if let Some(value) = value.as_object_mut() {
                let bound = match ratio.bound {
                    Bound::AtMost(most) => json!({"at_most": most}),
                    Bound::AtLeast(least) => json!({"at_least": least}),
                    Bound::None => Value::Null,
                };
                value.insert("bound".to_owned(), bound);
            }
            (ratio.name.to_owned(), value)
        };
        let streams = self
            .streams
            .iter()
            .filter_map(|row| Some(row.json(self.stream(Kind::Bare, row.streams)?)));
        json!({
            "ratios": self.ratios().into_iter().map(ratio).collect::<Map<_, _>>(),
            "rows": self.requests.iter().map(requests::Row::json).collect::<Vec<_>>(),
            "streams": streams.collect::<Vec<_>>(),
            "rotations": self.rotations.iter().map(rotation::Row::json).collect::<Vec<_>>(),
            "refusals": self.refusals.as_ref().map(Refusals::json),
        })
    }

    /// Writes it into the folder of the bench.
    pub fn write(&self) -> Result<()> {
        std::fs::create_dir_all(FOLDER)?;
        let text = serde_json::to_string_pretty(&self.json())?;
        Ok(std::fs::write(format!("{FOLDER}/results.json"), text)?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut load = None;
        for row in &self.requests {
            let own = (row.tls, row.protocol, row.connections);
            if load.replace(own) != Some(own) {
                let api = if row.tls { "TLS" } else { "plain" };
                let protocol = row.protocol.name();
                writeln!(f, "\n{protocol}, {api} API, {} connections", row.connections)?;
                writeln!(
                    f,
                    "{:32} {:>14} {:>10} {:>8} {:>8}",
                    "", "µs CPU", "requests/s", "p50 µs", "p99 µs"
                )?;
            }
            let cpu = row.cpu_us();
            writeln!(
                f,
                "{:32} {:6.1} ±{:5.1} {:12.0} {:8.0} {:8.0}",
                row.kind.name(),
                cpu.median,
                (cpu.max - cpu.min) / 2.0,
                row.rps().median,
                row.p50_us().median,
                row.p99_us().median
            )?;
        }
        for row in &self.streams {
            let events = row.events_per_s().median;
            writeln!(f, "{:32} {:5} streams {events:10.0} events/s", row.kind.name(), row.streams)?;
        }
        for row in &self.rotations {
            writeln!(f, "rotation, {:2} workers: {}", row.workers, row.json())?;
        }
        writeln!(f)?;
        for Ratio { name, value, bound } in self.ratios() {
            let Spread { median, min, max } = value;
            writeln!(f, "{name:32} {median:10.3}  ({min:.3} to {max:.3})  {bound}")?;
        }
        self.refusals.as_ref().map_or(Ok(()), |refusals| write!(f, "{refusals}"))
    }
}
