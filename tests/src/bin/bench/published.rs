//! What a run of all parts leaves in the repository: its results, plots of them, and the README's
//! tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::numbers::{Spread, with_commas};
use crate::plots;
use crate::report::Bound;
use crate::requests::{self, Load};
use crate::variant::Kind;

/// What is read of the results.
#[derive(Deserialize)]
pub struct Results {
    machine: Machine,
    ratios: BTreeMap<String, Ratio>,
    rows: Vec<Row>,
    host_calls: Vec<HostCall>,
    streams: Vec<Streams>,
}

#[derive(Deserialize)]
struct Machine {
    cpu: String,
    envoy: String,
}

#[derive(Deserialize)]
struct Ratio {
    what: String,
    #[serde(flatten)]
    value: Spread,
    bound: Option<Bound>,
}

/// A variant under a load.
#[derive(Deserialize)]
pub struct Row {
    name: String,
    transport: String,
    connections: usize,
    rounds: u32,
    /// Time on the processor.
    pub cpu_us_per_request: Spread,
    rps: Spread,
    /// Half of the requests took longer.
    pub p50_us: Spread,
    /// One in a hundred took longer.
    pub p99_us: Spread,
    rss_kib: Spread,
}

#[derive(Deserialize)]
struct HostCall {
    call: String,
    first_us: Spread,
    further_us: Spread,
}

/// A variant with so many streams.
#[derive(Deserialize)]
pub struct Streams {
    name: String,
    streams: usize,
    /// Over all streams.
    pub events_per_s: Spread,
    /// Half of the events took longer.
    pub delay_p50_us: Spread,
    /// One in a hundred took longer.
    pub delay_p99_us: Spread,
}

impl Results {
    /// The row of a variant under a load.
    pub fn row(&self, kind: Kind, load: Load) -> Result<&Row> {
        let transport = load.transport();
        let mut rows = self.rows.iter();
        let row = rows.find(|row| {
            row.name == kind.name()
                && row.transport == transport
                && row.connections == load.connections
        });
        row.with_context(|| format!("no row of {}, {load:?}", kind.name()))
    }

    /// The row of a variant with so many streams.
    pub fn stream(&self, kind: Kind, streams: usize) -> Result<&Streams> {
        let row = self.streams.iter().find(|row| row.name == kind.name() && row.streams == streams);
        row.with_context(|| format!("no row of {}, {streams} streams", kind.name()))
    }

    /// The tables, in Markdown.
    fn tables(&self) -> Result<String> {
        let rounds = self.row(Kind::Bare, requests::RATIOS)?.rounds;
        let Machine { cpu, envoy } = &self.machine;
        let mut text = format!(
            "Envoy {envoy} with one worker, which has one core ({cpu}) for itself; HTTP/1.1, plain API, \
             {} connections; the median of {rounds} rounds (least to greatest):\n\n\
             | | CPU of a request, µs | Requests per second | p50, µs | p99, µs | Memory, MiB |\n\
             |---|---|---|---|---|---|\n",
            requests::RATIOS.connections
        );
        for kind in Kind::ALL {
            let row = self.row(kind, requests::RATIOS)?;
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                kind.name(),
                spread(row.cpu_us_per_request),
                spread(row.rps),
                short(row.p50_us.median),
                short(row.p99_us.median),
                short(row.rss_kib.median / 1024.0)
            )?;
        }
        text.push_str("\n| Measured | | Bound | |\n|---|---|---|---|\n");
        for Ratio { what, value, bound } in self.ratios.values() {
            let outcome = bound
                .map_or("", |bound| if bound.holds(value.median) { "kept" } else { "**broken**" });
            let bound = bound.map(|bound| bound.to_string()).unwrap_or_default();
            writeln!(text, "| {what} | {} | {bound} | {outcome} |", spread(*value))?;
        }
        text.push_str(
            "\n| Call of the host by a Wasm filter | The first of a request, µs | Each further, µs |\n\
             |---|---|---|\n",
        );
        for HostCall { call, first_us, further_us } in &self.host_calls {
            writeln!(text, "| {call} | {} | {} |", spread(*first_us), spread(*further_us))?;
        }
        Ok(text)
    }
}

fn spread(Spread { median, min, max }: Spread) -> String {
    if min == max {
        return short(median);
    }
    format!("{} ({} to {})", short(median), short(min), short(max))
}

/// Three digits, or more before the point.
fn short(number: f64) -> String {
    match number.abs() {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        ..999.5 => format!("{number:.0}"),
        _ => with_commas(number.round()),
    }
}

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Keeps these results, and draws them.
pub fn renew(results: &str) -> Result<()> {
    std::fs::write(tests_folder().join("bench/results.json"), results)?;
    draw()
}

/// Draws the results that are kept: the plots, and the README's tables.
pub fn draw() -> Result<()> {
    let folder = tests_folder().join("bench");
    let results: Results =
        serde_json::from_str(&std::fs::read_to_string(folder.join("results.json"))?)?;
    for (name, svg) in plots::all(&results)? {
        std::fs::write(folder.join(name), svg)?;
    }
    let path = tests_folder().with_file_name("README.md");
    let readme = std::fs::read_to_string(&path)?;
    Ok(std::fs::write(path, with_tables(&readme, &results.tables()?)?)?)
}

/// The README with these tables between its marks.
fn with_tables(readme: &str, tables: &str) -> Result<String> {
    let (begin, end) = ("<!-- bench -->\n", "<!-- end of bench -->");
    let (before, rest) = readme.split_once(begin).context("the README has no mark of the bench")?;
    let (_, after) = rest.split_once(end).context("the README has no end of the bench")?;
    Ok(format!("{before}{begin}{tables}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Results {
        serde_json::from_str(include_str!("../../../bench/results.json")).unwrap()
    }

    #[test]
    fn the_readmes_tables_are_those_of_the_kept_results() {
        let readme = include_str!("../../../../README.md");
        assert!(
            readme == with_tables(readme, &kept().tables().unwrap()).unwrap(),
            "they differ: run `bench plot`"
        );
    }

    #[test]
    fn the_plots_are_those_of_the_kept_results() {
        for (name, svg) in plots::all(&kept()).unwrap() {
            let file = std::fs::read_to_string(tests_folder().join("bench").join(name)).unwrap();
            assert!(svg == file, "{name} differs: run `bench plot`");
            let readme = include_str!("../../../../README.md");
            assert!(readme.contains(&format!("(tests/bench/{name})")), "the README lacks {name}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.0, 1.2345, -0.5, 9.996, 12.34, 99.96, 259.4, 999.6, 12345.6, 1234567.0];
        let expected =
            ["0.00", "1.23", "-0.50", "10.0", "12.3", "100", "259", "1,000", "12,346", "1,234,567"];
        assert_eq!(written.map(short), expected);
    }
}
