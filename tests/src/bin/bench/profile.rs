//! Whose code takes the time of a request, from samples that `perf` takes of Envoy's threads. More
//! cannot be told of it, since Envoy's program comes without symbols.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ::tests::{Process, envoy_binary};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::numbers::Spread;
use crate::requests::{self, RATIOS, Round};
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// What is compared.
const KINDS: [Kind; 4] = [Kind::Bare, Kind::Empty, Kind::TwoPlaces, Kind::WithUsage];

/// How often samples are taken of each, in turns, and for how long.
const ROUNDS: u32 = 15;
const TIME: Duration = Duration::from_secs(1);

/// In a second: few enough that to take them costs next to nothing.
const FREQUENCY: u32 = 499;

/// How long `perf` may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// About how long it takes to measure all.
pub fn duration() -> Duration {
    let begin = Duration::from_millis(500);
    KINDS.map(|_| (TIME + begin) * (ROUNDS + 1)).into_iter().sum()
}

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Envoy,
    /// What V8 has compiled of a module, and its own code for calls.
    Wasm,
    Kernel,
    /// The C library and the like.
    Library,
}

impl Owner {
    const ALL: [Self; 4] = [Self::Envoy, Self::Wasm, Self::Kernel, Self::Library];

    fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Wasm => "wasm",
            Self::Kernel => "kernel",
            Self::Library => "library",
        }
    }

    /// That of a sample, from a line of `perf script`: an address, and what is mapped there.
    fn of(line: &str, envoy: &str) -> Option<Self> {
        let (_, mapped) = line.trim_end().strip_suffix(')')?.split_once('(')?;
        Some(match mapped {
            "[vdso]" => Self::Library,
            "//anon" => Self::Wasm,
            // Where a program that compiles at run time could tell its symbols.
            _ if mapped.starts_with("/tmp/perf-") || mapped.starts_with("[JIT]") => Self::Wasm,
            _ if mapped == envoy => Self::Envoy,
            _ if mapped.starts_with('/') => Self::Library,
            "[unknown]" => return None,
            _ => Self::Kernel,
        })
    }
}

/// A variant with its samples.
pub struct Row {
    kind: Kind,
    cpu_us: Spread,
    samples: Vec<Owner>,
}

/// Measures all, under the load of the ratios. The API is this function's, whatever the setting says.
pub async fn measure(setting: &Setting<'_>) -> Result<Vec<Row>> {
    let upstream = Upstream::start(None).await?;
    let setting = Setting { upstream: upstream.url()?, trusted_ca: None, ..setting.clone() };
    let mut turns = Vec::new();
    for kind in KINDS {
        let variant = Variant::start(kind, &setting).await?;
        // Warms up.
        requests::round(&variant, RATIOS, TIME).await?;
        turns.push((variant, Vec::new(), Vec::new()));
    }
    eprintln!("taking samples");
    for _ in 0..ROUNDS {
        for (variant, rounds, samples) in &mut turns {
            rounds.push(sampled(variant, setting.dir, samples).await?.cpu_us);
        }
    }
    let row = |(variant, rounds, samples): (Variant, Vec<f64>, Vec<Owner>)| {
        let kind = variant.kind;
        ensure!(!samples.is_empty(), "no samples of {}", kind.name());
        Ok(Row { kind, cpu_us: Spread::of(rounds), samples })
    };
    turns.into_iter().map(row).collect()
}

/// One turn of a variant.
async fn sampled(variant: &Variant, dir: &Path, samples: &mut Vec<Owner>) -> Result<Round> {
    let file = dir.join("samples");
    let envoy = variant.first_process()?.to_string();
    let mut record = Process::command("perf");
    record.args(["record", "--event", "cpu-clock", "--freq", &FREQUENCY.to_string()]);
    record.args(["--pid", &envoy, "--output"]).arg(&file);
    record.args(["--", "sleep", &TIME.as_secs_f64().to_string()]);
    let mut record = Process::start("perf-record", dir, &mut record)
        .context("on Debian, perf is in the package linux-perf")?
        .quiet();
    let round = requests::round(variant, RATIOS, TIME).await?;
    let status = record.wait(PATIENCE).await?;
    ensure!(status.success(), "perf takes no samples: {}", record.log());

    let mut script = Process::command("perf");
    script.args(["script", "--fields", "ip,dso", "--input"]).arg(&file);
    let output = script.output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf tells no samples: {told}");
    let envoy = envoy_binary()?.canonicalize()?.display().to_string();
    let text = String::from_utf8_lossy(&output.stdout);
    samples.extend(text.lines().filter_map(|line| Owner::of(line, &envoy)));
    Ok(round)
}

impl Row {
    /// Microseconds of a request in each one's code.
    fn shares(&self) -> impl Iterator<Item = (Owner, f64)> {
        let share = |owner| {
            let own = self.samples.iter().filter(|found| **found == owner).count();
            own as f64 / self.samples.len() as f64
        };
        Owner::ALL.into_iter().map(move |owner| (owner, share(owner) * self.cpu_us.median))
    }

    /// For the report.
    pub fn json(&self) -> Value {
        let shares = self.shares().map(|(owner, us)| (owner.name().to_owned(), json!(us)));
        json!({
            "name": self.kind.name(),
            "samples": self.samples.len(),
            "cpu_us_per_request": self.cpu_us.json(),
            "us": shares.collect::<Map<_, _>>(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:32} {:6.1} µs:", self.kind.name(), self.cpu_us.median)?;
        self.shares().try_for_each(|(owner, us)| write!(f, "  {} {us:.1}", owner.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_what_is_mapped_at_its_address() {
        let of = |mapped: &str| Owner::of(&format!("    55f7b6e985c7 ({mapped})"), "/opt/envoy");
        assert_eq!(of("/opt/envoy"), Some(Owner::Envoy));
        assert_eq!(of("/tmp/perf-20234.map"), Some(Owner::Wasm));
        assert_eq!(of("//anon"), Some(Owner::Wasm));
        assert_eq!(of("[JIT] tid 20234"), Some(Owner::Wasm));
        assert_eq!(of("[kernel.kallsyms]"), Some(Owner::Kernel));
        assert_eq!(of("[nf_tables]"), Some(Owner::Kernel));
        assert_eq!(of("/usr/lib/x86_64-linux-gnu/libc.so.6"), Some(Owner::Library));
        assert_eq!(of("[vdso]"), Some(Owner::Library));
        assert_eq!(of("[unknown]"), None);
        assert_eq!(Owner::of("", "/opt/envoy"), None);
    }
}
