//! What can only be measured: `make bench` prints it and writes it to `target/bench/results.json`.
//! It exits with 1 when a bound is broken.
//!
//! Proxies have one core for themselves; the load, the API and everything else have another. All
//! variants run side by side and are measured in turns.

mod load;
mod numbers;
mod refusals;
mod report;
mod requests;
mod rotation;
mod sidecar;
mod start;
mod streams;
mod upstream;
mod variant;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;
use tests::{Plan, Stack};

use report::Report;

/// The core of the load and the API. The proxies have another.
const CORE: usize = 1;

/// What those proxies put in that do not ask the refresher. As long as a token that is a JWT.
const TOKEN: &str = match str::from_utf8(&[b'a'; 700]) {
    Ok(token) => token,
    Err(_) => "",
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["sidecar", upstream] => on_runtime(sidecar::run(upstream)).map(|()| Vec::new()),
        parts => pin().and_then(|()| on_runtime(run(parts))),
    };
    match outcome {
        Ok(broken) => {
            broken.iter().for_each(|bound| eprintln!("bench: {bound}"));
            ExitCode::from(u8::from(!broken.is_empty()))
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: there is one core for it.
fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn pin() -> Result<()> {
    let mut core = CpuSet::new();
    core.set(CORE);
    sched_setaffinity(None, &core).context("two cores are needed")
}

/// The parts that can be asked for by name; all by default.
const PARTS: [&str; 7] =
    ["requests", "glance", "streams", "rotation", "rejections", "start", "refusals"];

/// Measures everything, or the parts that are named; gives the bounds that do not hold, in words.
async fn run(parts: &[&str]) -> Result<Vec<String>> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("{unknown}: accepted are {}", PARTS.join(", "));
    }
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let mut report = Report::default();
    let mut stack = Stack::prepare(Plan { log: "info", quiet: true, ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let (dir, socket) = (stack.dir().to_owned(), stack.socket());
    let glance = parts.contains(&"glance");
    if wanted("requests") || glance {
        report.requests = requests::measure(&dir, &socket, TOKEN, glance).await?;
    }
    if wanted("streams") {
        report.streams = streams::measure(&dir, &socket, TOKEN, requests::ROUNDS).await?;
    }
    report.refresher_rss_kib = Some(stack.refresher()?.resident_kib()?);
    drop(stack);
    if wanted("rotation") {
        report.rotations = rotation::measure(TempDir::new()?.path()).await?;
    }
    if wanted("rejections") {
        report.rejections_s = Some(rotation::rejections().await?);
    }
    if wanted("start") {
        report.start_s = Some(start::measure().await?.0);
    }
    if wanted("refusals") {
        report.refusals = Some(refusals::measure().await?);
    }
    print!("{report}");
    report.write()?;
    Ok(report.broken())
}
