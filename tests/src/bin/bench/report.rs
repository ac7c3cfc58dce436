//! The report: as JSON, as a table, and the bounds that it has to keep.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tests::filter_module;

use crate::numbers::Spread;
use crate::prices::Price;
use crate::refusals::Refusals;
use crate::variant::Kind;
use crate::{cores, profile, requests, rotation, streams};

/// Where the report is written.
const FOLDER: &str = "target/bench";

/// The streams of the ratios.
const STREAMS: usize = 100;

/// Where the load takes more of its core than this, it may be what is measured.
const BUSY: f64 = 0.9;

/// What was measured; parts that were not asked for are empty.
#[derive(Default)]
pub struct Report {
    /// Requests.
    pub requests: Vec<requests::Row>,
    /// Calls of the host.
    pub prices: Vec<Price>,
    /// Whose code takes the time of requests.
    pub profile: Vec<profile::Row>,
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
    /// In words, with the unit.
    what: &'static str,
    value: Spread,
    bound: Option<Bound>,
}

/// What a figure has to be.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Bound {
    /// Whether it is kept.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

impl Report {
    fn row(&self, kind: Kind) -> Option<&requests::Row> {
        self.requests.iter().find(|row| row.kind == kind && row.load == requests::RATIOS)
    }

    fn stream(&self, kind: Kind, streams: usize) -> Option<&streams::Row> {
        self.streams.iter().find(|row| row.kind == kind && row.streams == streams)
    }

    fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        let mut add = |name, what, bound, value: Option<Spread>| {
            ratios.extend(value.map(|value| Ratio { name, what, value, bound }));
        };
        let (own, bare) = (self.row(Kind::TwoPlaces), self.row(Kind::Bare));
        let over = |own: f64, other: f64| own / other;
        let cpu = |other, how| Some(own?.cpu_against(self.row(other)?, how));
        add(
            "cpu_us_above_empty",
            "CPU of a request above that with an empty filter, µs",
            Some(Bound::AtMost(6.0)),
            cpu(Kind::Empty, |own, empty| own - empty),
        );
        add(
            "cpu_over_bare",
            "CPU of a request over that of bare Envoy",
            Some(Bound::AtMost(1.35)),
            cpu(Kind::Bare, over),
        );
        add(
            "cpu_over_sidecar_proxy",
            "CPU of a request over that of bare Envoy and a hyper proxy",
            Some(Bound::AtMost(0.85)),
            cpu(Kind::Sidecar, over),
        );
        let python = || Some(own?.rps_over(self.row(Kind::FastApi)?));
        add(
            "rps_over_fastapi",
            "Requests per second over those of the FastAPI proxy",
            Some(Bound::AtLeast(40.0)),
            python(),
        );
        add(
            "rss_kib_above_bare",
            "Resident memory of an Envoy with one worker above that of bare Envoy, KiB",
            None,
            own.zip(bare).map(|(own, bare)| own.rss_above(bare)),
        );
        add(
            "load_core_share",
            "Share of its core that the load takes with bare Envoy",
            Some(Bound::AtMost(BUSY)),
            bare.map(requests::Row::load_share),
        );
        let stream = |kind| self.stream(kind, STREAMS);
        let events = |kind| Some(stream(kind)?.events_over(stream(Kind::Bare)?));
        add(
            "sse_events_over_bare",
            "Events per second of 100 streams over those of bare Envoy",
            Some(Bound::AtLeast(0.97)),
            events(Kind::TwoPlaces),
        );
        add(
            "sse_events_over_bare_with_usage",
            "The same with usage counted",
            Some(Bound::AtLeast(0.90)),
            events(Kind::WithUsage),
        );
        add(
            "sse_load_core_share",
            "Share of its core that the load takes with 100 streams and bare Envoy",
            Some(Bound::AtMost(BUSY)),
            stream(Kind::Bare).map(streams::Row::load_share),
        );
        let rotation = (!self.rotations.is_empty())
            .then(|| Spread::of(self.rotations.iter().map(rotation::Row::p99_ms)));
        add(
            "rotation_p99_ms",
            "From a token's publication until no worker uses the last, p99 with 1, 4 or 16 workers, ms",
            Some(Bound::AtMost(10.0)),
            rotation.map(Spread::worst),
        );
        add(
            "rejections_2000_s",
            "2,000 requests that meet a refused token, until the last is answered 200, s",
            Some(Bound::AtMost(2.0)),
            self.rejections_s.map(Spread::worst),
        );
        add(
            "start_to_first_answer_s",
            "From `refresher up` to the first answer, s",
            Some(Bound::AtMost(1.5)),
            self.start_s,
        );
        let size = filter_module().ok().and_then(|path| std::fs::metadata(path).ok());
        add(
            "wasm_kib",
            "Size of `filter.wasm`, KiB",
            Some(Bound::AtMost(300.0)),
            size.map(|size| Spread::of([size.len() as f64 / 1024.0])),
        );
        add(
            "refresher_rss_kib",
            "Resident memory of the refresher after the requests and streams, KiB",
            None,
            self.refresher_rss_kib.map(|kib| Spread::of([kib as f64])),
        );
        ratios
    }

    /// The bounds that do not hold, in words.
    pub fn broken(&self) -> Vec<String> {
        let ratios = self.ratios();
        let say = |ratio: &Ratio| {
            let bound = ratio.bound.filter(|bound| !bound.holds(ratio.value.median))?;
            Some(format!("{} is {:.3}; {bound} is due", ratio.name, ratio.value.median))
        };
        let refusals = self.refusals.as_ref().map(Refusals::broken).unwrap_or_default();
        ratios.iter().filter_map(say).chain(refusals).collect()
    }

    fn json(&self) -> Result<Value> {
        let ratio = |ratio: Ratio| {
            let mut value = ratio.value.json();
            if let Some(value) = value.as_object_mut() {
                value.insert("what".to_owned(), ratio.what.into());
                value.insert("bound".to_owned(), json!(ratio.bound));
            }
            (ratio.name.to_owned(), value)
        };
        let streams = self
            .streams
            .iter()
            .filter_map(|row| Some(row.json(self.stream(Kind::Bare, row.streams)?)));
        Ok(json!({
            "machine": {"cpu": cores::model()?, "envoy": cores::envoy_version()?},
            "ratios": self.ratios().into_iter().map(ratio).collect::<Map<_, _>>(),
            "rows": self.requests.iter().map(requests::Row::json).collect::<Vec<_>>(),
            "host_calls": self.prices.iter().map(Price::json).collect::<Vec<_>>(),
            "profile": self.profile.iter().map(profile::Row::json).collect::<Vec<_>>(),
            "streams": streams.collect::<Vec<_>>(),
            "rotations": self.rotations.iter().map(rotation::Row::json).collect::<Vec<_>>(),
            "refusals": self.refusals.as_ref().map(Refusals::json),
        }))
    }

    /// Writes it into the folder of the bench, and gives what is written.
    pub fn write(&self) -> Result<String> {
        std::fs::create_dir_all(FOLDER)?;
        let text = serde_json::to_string_pretty(&self.json()?)? + "\n";
        std::fs::write(format!("{FOLDER}/results.json"), &text)?;
        Ok(text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut load = None;
        for row in &self.requests {
            if load.replace(row.load) != Some(row.load) {
                writeln!(f, "\n{}, {} connections", row.load.transport(), row.load.connections)?;
                writeln!(
                    f,
                    "{:32} {:>14} {:>10} {:>8} {:>8} {:>10}",
                    "", "µs CPU", "requests/s", "p50 µs", "p99 µs", "load core"
                )?;
            }
            let cpu = row.cpu_us();
            writeln!(
                f,
                "{:32} {:6.1} ±{:5.1} {:12.0} {:8.0} {:8.0} {:8.0} %",
                row.kind.name(),
                cpu.median,
                (cpu.max - cpu.min) / 2.0,
                row.rps().median,
                row.p50_us().median,
                row.p99_us().median,
                row.load_share().median * 100.0
            )?;
        }
        if !self.prices.is_empty() {
            writeln!(f, "\ncalls of the host, the first of a request and each further one")?;
        }
        for price in &self.prices {
            writeln!(f, "{}", price.line())?;
        }
        if !self.profile.is_empty() {
            writeln!(f, "\nwhose code takes the time of a request")?;
        }
        for row in &self.profile {
            writeln!(f, "{row}")?;
        }
        for (place, row) in self.streams.iter().enumerate() {
            if place.is_multiple_of(streams::KINDS.len()) {
                writeln!(f, "\n{} streams", row.streams)?;
                writeln!(
                    f,
                    "{:32} {:>14} {:>10} {:>8} {:>8} {:>10}",
                    "", "µs CPU", "events/s", "p50 µs", "p99 µs", "load core"
                )?;
            }
            writeln!(
                f,
                "{:32} {:14.1} {:10.0} {:8.0} {:8.0} {:8.0} %",
                row.kind.name(),
                row.cpu_us().median,
                row.events_per_s().median,
                row.p50_us().median,
                row.p99_us().median,
                row.load_share().median * 100.0
            )?;
        }
        for row in &self.rotations {
            writeln!(f, "rotation, {:2} workers: {}", row.workers, row.json())?;
        }
        writeln!(f)?;
        for Ratio { name, value, bound, .. } in self.ratios() {
            let Spread { median, min, max } = value;
            let bound = bound.map(|bound| bound.to_string()).unwrap_or_default();
            writeln!(f, "{name:32} {median:10.3}  ({min:.3} to {max:.3})  {bound}")?;
        }
        self.refusals.as_ref().map_or(Ok(()), |refusals| write!(f, "{refusals}"))
    }
}
