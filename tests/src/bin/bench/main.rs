//! What can only be measured: `make bench` prints it and writes it to `target/bench/results.json`.
//! It exits with 1 when a bound is broken. A run of all parts also renews `tests/bench`, where the
//! README's figures and plots come from; `bench plot` draws these anew.
//!
//! Proxies have one core for themselves; the load, the API and everything else have another. All
//! variants run side by side and are measured in turns.

mod cores;
mod load;
mod numbers;
mod plots;
mod prices;
mod profile;
mod published;
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
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tests::{Plan, Stack, Stopwatch, allow_open_files, unix_request};

use report::Report;
use variant::Setting;

/// Open files: the storm's connections have two ends, here and in Envoy, and so have those behind it.
const OPEN_FILES: u64 = 5 * rotation::REJECTED as u64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["sidecar", upstream] => on_runtime(sidecar::run(upstream)).map(|()| Vec::new()),
        ["plot"] => published::draw().map(|()| Vec::new()),
        parts => on_runtime(run(parts)),
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

/// What can be asked for in place of all parts: requests under the load of the ratios only.
const GLANCE: &str = "glance";

/// What is done only if it is asked for, since it needs `perf`.
const PROFILE: &str = "profile";

/// The parts that can be asked for by name, and about how long each takes; all by default.
fn parts() -> [(&'static str, Duration); 7] {
    [
        ("requests", requests::duration(false)),
        ("prices", prices::duration()),
        ("streams", streams::duration()),
        ("rotation", rotation::duration()),
        ("rejections", rotation::duration_of_rejections()),
        ("start", start::duration()),
        ("refusals", refusals::duration()),
    ]
}

/// Measures everything, or the parts that are named; gives the bounds that do not hold, in words.
async fn run(named: &[&str]) -> Result<Vec<String>> {
    let names = parts().map(|(name, _)| name);
    let accepted = |part: &str| names.contains(&part) || [GLANCE, PROFILE].contains(&part);
    if let Some(unknown) = named.iter().find(|part| !accepted(part)) {
        bail!("{unknown}: accepted are {}, {GLANCE}, {PROFILE} and plot", names.join(", "));
    }
    let wanted = |part: &str| named.is_empty() || named.contains(&part);
    let (glance, profile) = (named.contains(&GLANCE), named.contains(&PROFILE));
    let due = parts().into_iter().filter(|(part, _)| wanted(part)).map(|(_, time)| time);
    let due = due.chain(glance.then(|| requests::duration(true)));
    let due: Duration = due.chain(profile.then(profile::duration)).sum();
    eprintln!("this takes about {:.0} minutes", due.as_secs_f64() / 60.0);

    let watch = Stopwatch::start();
    allow_open_files(OPEN_FILES)?;
    let mut report = Report::default();
    if wanted("requests") || wanted("prices") || wanted("streams") || glance || profile {
        cores::separate()?;
        let mut stack =
            Stack::prepare(Plan { log: "info", quiet: true, ..Plan::default() }).await?;
        stack.login().await?;
        stack.start_refresher().await?;
        // Some variants have the token in a file; that of the stack's must have it in none.
        let (dir, socket) = (TempDir::new()?, stack.socket());
        let bundle = unix_request(&socket, "GET", "/v1/bundle", "").await?.json();
        let token = bundle.pointer("/credentials/default/access_token");
        let setting = Setting {
            dir: dir.path(),
            socket: &socket,
            refresher: stack.refresher()?.id(),
            // Each part that measures variants has an API of its own.
            upstream: "http://localhost".parse()?,
            trusted_ca: None,
            access_token: token.and_then(|token| token.as_str()).context("no token is there")?,
            workers: 1,
        };
        if wanted("requests") || glance {
            report.requests = requests::measure(&setting, glance).await?;
        }
        if wanted("prices") {
            report.prices = prices::measure(&setting).await?;
        }
        if profile {
            report.profile = profile::measure(&setting).await?;
        }
        if wanted("streams") {
            report.streams = streams::measure(&setting).await?;
        }
        report.refresher_rss_kib = Some(stack.refresher()?.resident_kib()?);
    }
    cores::share()?;
    if wanted("rotation") {
        report.rotations = rotation::measure(TempDir::new()?.path()).await?;
    }
    if wanted("rejections") {
        report.rejections_s = Some(rotation::rejections().await?);
    }
    if wanted("start") {
        report.start_s = Some(start::measure().await?);
    }
    if wanted("refusals") {
        report.refusals = Some(refusals::measure().await?);
    }
    print!("{report}");
    eprintln!("this took {:.1} minutes", watch.elapsed().as_secs_f64() / 60.0);
    let results = report.write()?;
    if named.is_empty() {
        published::renew(&results)?;
    }
    Ok(report.broken())
}
