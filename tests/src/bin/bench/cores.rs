//! Which core is whose, and how much of it each takes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the proxies that are compared.
pub const PROXIES: usize = 0;

/// The core of the load and the API.
const LOAD: usize = 1;

/// From now on this thread, and what it starts, leave the proxies' core alone.
pub fn separate() -> Result<()> {
    set(&[LOAD])
}

/// From now on this thread, and what it starts, have both cores.
pub fn share() -> Result<()> {
    set(&[PROXIES, LOAD])
}

fn set(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).context("two cores are needed")
}

/// The time that this process has had on the processor.
pub fn own_time() -> Result<Duration> {
    time(std::process::id())
}

/// The time that a process has had on the processor: that of all threads, from the scheduler's
/// count in nanoseconds.
pub fn time(process: u32) -> Result<Duration> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let path = task?.path().join("schedstat");
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let time: u64 = text.split(' ').next().unwrap_or_default().parse()?;
        total += time;
    }
    ensure!(total > 0, "this kernel does not count the time of threads (CONFIG_SCHED_INFO)");
    Ok(Duration::from_nanos(total))
}

/// The processor's model, as the system tells it.
pub fn model() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": ")).map(|(_, name)| name.trim().to_owned());
    // Not every architecture's has a name.
    Ok(name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// Envoy's version.
pub fn envoy_version() -> Result<String> {
    let output = Command::new(tests::envoy_binary()?).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Behind its path and a word: commit, version, state of the tree and more, between slashes.
    let version = text.split_once("version: ").and_then(|(_, text)| text.split('/').nth(1));
    Ok(version.context("Envoy does not tell its version")?.to_owned())
}
