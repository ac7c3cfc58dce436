//! Which Envoys there are tests for, and what is said of one that is too old for two filters.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{Plan, Process, Stack, envoy_binary, filter_module};
use tokio::process::Command;

const VERSIONS: &str = include_str!("../../matrix/versions");

/// How long a program may take to say that it does not start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The oldest minor of Envoy 1 in which two filters can be used.
const TWO_FILTERS: u32 = 37;

fn versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = VERSIONS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    })
}

fn minor(version: &str) -> Result<u32> {
    let minor = version.split('.').nth(1).with_context(|| version.to_owned())?;
    Ok(minor.parse()?)
}

#[test]
fn the_table_tells_of_every_envoy_that_is_tested() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let [makefile, readme] = ["Makefile", "README.md"].map(|file| root.join(file));
    let (makefile, readme) = (fs::read_to_string(makefile)?, fs::read_to_string(readme)?);
    let pinned = makefile.lines().find_map(|line| line.strip_prefix("ENVOY_VERSION := "));
    let pinned = pinned.context("the pinned version")?;
    ensure!(versions().any(|(version, _)| version == pinned), "{pinned} is not in the matrix");
    let (_, table) = readme.split_once("<!-- matrix -->").context("the table's begin")?;
    let (table, _) = table.split_once("<!-- end of matrix -->").context("the table's end")?;
    for (version, setting) in versions() {
        ensure!((setting == "two") == (minor(version)? >= TWO_FILTERS), "{version}: {setting}");
        ensure!(
            table.contains(&format!("| {version} | ")),
            "the README tells nothing of {version}"
        );
    }
    Ok(())
}

async fn said(command: &mut Command) -> Result<(bool, String)> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running).await.context("it goes on running")??;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn an_envoy_that_would_crash_with_two_filters_is_refused_with_the_reason() -> Result<()> {
    let envoy = envoy_binary()?;
    let (_, version) = said(Process::command(&envoy).arg("--version")).await?;
    let version = version.split('/').nth_back(3).context(version.clone())?.to_owned();
    let refused = minor(&version)? < TWO_FILTERS;
    let stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    let command = |arguments: &[&str]| -> Result<Command> {
        let mut command = stack.refresher_command(arguments)?;
        command.env("ENVOY_BIN", &envoy).env("TORCHBEARER_FILTER", filter_module()?);
        Ok(command)
    };
    let reason = "accepted: 1.37 or newer";
    let (_, doctor) = said(&mut command(&["doctor"])?).await?;
    let line = doctor.lines().find(|line| line.starts_with("envoy ")).context(doctor.clone())?;
    ensure!(line.contains(&version), "{line}");
    ensure!(line.contains(" fail ") == refused && line.contains(reason) == refused, "{line}");
    if refused {
        let (started, up) = said(&mut command(&["up", "--port", "0"])?).await?;
        ensure!(!started && up.contains(&version) && up.contains(reason), "{up}");
    }
    Ok(())
}
