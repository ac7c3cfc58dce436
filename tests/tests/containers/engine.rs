//! The engine and its compose tool, by their command lines.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(90);

/// Whether there is an engine that answers.
pub fn answers() -> bool {
    let mut command = std::process::Command::new("docker");
    command.args(["version", "--format", "{{.Server.Version}}"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a docker command, and gives what it printed.
pub async fn docker<S: AsRef<OsStr>>(arguments: &[S]) -> Result<String> {
    let mut command = Command::new("docker");
    command.args(arguments);
    output(command).await
}

/// The compose tool: docker's plugin, or the program of its own that Debian has.
pub fn compose() -> Result<std::process::Command> {
    let works = |command: &mut std::process::Command| {
        command.arg("version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let plugin = || {
        let mut command = std::process::Command::new("docker");
        command.arg("compose");
        command
    };
    if works(&mut plugin()) {
        return Ok(plugin());
    }
    if works(&mut std::process::Command::new("docker-compose")) {
        return Ok(std::process::Command::new("docker-compose"));
    }
    bail!("docker-compose is missing; on Debian: apt-get install docker-compose")
}

/// Runs a command that has to succeed, and gives what it printed.
pub async fn output(mut command: Command) -> Result<String> {
    let what = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .with_context(|| format!("{what} does not end"))?
        .with_context(|| what.clone())?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {printed}\n{said}", output.status);
    }
    Ok(printed)
}
