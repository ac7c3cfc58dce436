//! What the service manager is asked for: its own programs, `systemctl` and `launchctl`.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::{Command, Output};

use super::plan::{Kind, LABEL, NAME, Plan, Scope};

/// Why the service manager did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be run.
    #[error(
        "{program}: cannot be run; \"refresher service install --print\" shows what it would get"
    )]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It failed.
    #[error("{call}: ended with {status}: {said}")]
    Failed {
        /// What was run.
        call: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
}

/// One call of the service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    program: &'static str,
    arguments: Vec<OsString>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        self.arguments.iter().try_for_each(|word| write!(f, " {}", word.display()))
    }
}

impl Call {
    fn new(program: &'static str, words: &[&str]) -> Self {
        Self { program, arguments: words.iter().map(Into::into).collect() }
    }

    fn output(&self) -> Result<Output, Error> {
        let output = Command::new(self.program).args(&self.arguments).output();
        output.map_err(|source| Error::Run { program: self.program, source })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or fails.
    pub fn run(&self) -> Result<(), Error> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(Error::Failed { call: self.to_string(), status: output.status, said })
    }
}

fn systemctl(scope: Scope, words: &[&str]) -> Call {
    let mut call = Call::new("systemctl", if scope == Scope::User { &["--user"] } else { &[] });
    call.arguments.extend(words.iter().map(Into::into));
    call
}

fn unit() -> String {
    format!("{NAME}.service")
}

/// launchd's name for the place of the service.
fn domain(scope: Scope) -> String {
    match scope {
        Scope::User => format!("gui/{}", rustix::process::getuid().as_raw()),
        Scope::System => "system".to_owned(),
    }
}

fn launchctl(words: &[&str]) -> Call {
    Call::new("launchctl", words)
}

/// The calls after the file was written; `replaced`: in place of a different one.
pub fn install(plan: &Plan, file: &Path, replaced: bool) -> Vec<Call> {
    match plan.kind {
        Kind::Systemd => {
            let mut calls = vec![
                systemctl(plan.scope, &["daemon-reload"]),
                systemctl(plan.scope, &["enable", "--now", &unit()]),
            ];
            if replaced {
                calls.push(systemctl(plan.scope, &["restart", &unit()]));
            }
            calls
        }
        Kind::Launchd => {
            let domain = domain(plan.scope);
            let service = format!("{domain}/{LABEL}");
            let loaded = launchctl(&["print", &service]).output();
            let loaded = loaded.is_ok_and(|output| output.status.success());
            let mut bootstrap = launchctl(&["bootstrap", &domain]);
            bootstrap.arguments.push(file.into());
            let mut calls = Vec::new();
            if loaded && replaced {
                calls.push(launchctl(&["bootout", &service]));
            }
            if !loaded || replaced {
                calls.push(launchctl(&["enable", &service]));
                calls.push(bootstrap);
            }
            calls
        }
    }
}

/// The calls before the file is removed.
pub fn stop(plan: &Plan, _file: &Path) -> Vec<Call> {
    match plan.kind {
        Kind::Systemd => vec![systemctl(plan.scope, &["disable", "--now", &unit()])],
        Kind::Launchd => {
            let service = format!("{}/{LABEL}", domain(plan.scope));
            let loaded = launchctl(&["print", &service]).output();
            let loaded = loaded.is_ok_and(|output| output.status.success());
            loaded.then(|| launchctl(&["bootout", &service])).into_iter().collect()
        }
    }
}

/// The calls after that.
pub fn forget(plan: &Plan) -> Vec<Call> {
    match plan.kind {
        Kind::Systemd => vec![systemctl(plan.scope, &["daemon-reload"])],
        Kind::Launchd => Vec::new(),
    }
}

/// Whether the service is enabled, and whether it runs, in the manager's words.
///
/// # Errors
///
/// When the manager cannot be run.
pub fn ask(plan: &Plan) -> Result<(String, String), Error> {
    match plan.kind {
        Kind::Systemd => {
            let word = |question: &str| {
                let output = systemctl(plan.scope, &[question, &unit()]).output()?;
                let text = String::from_utf8_lossy(&output.stdout);
                let word = text.lines().next().unwrap_or_default().trim();
                Ok(if word.is_empty() { "unknown".to_owned() } else { word.to_owned() })
            };
            Ok((word("is-enabled")?, word("is-active")?))
        }
        Kind::Launchd => {
            let output =
                launchctl(&["print", &format!("{}/{LABEL}", domain(plan.scope))]).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let running = text.lines().any(|line| line.trim() == "state = running");
            let enabled = if output.status.success() { "enabled" } else { "disabled" };
            Ok((enabled.to_owned(), if running { "active" } else { "inactive" }.to_owned()))
        }
    }
}

/// systemd's version: `systemd 252 (252.38-1)`.
pub fn systemd_version() -> Option<u32> {
    let output = Call::new("systemctl", &["--version"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.strip_prefix("systemd ")?.split(|c: char| !c.is_ascii_digit()).next()?;
    number.parse().ok()
}

/// Whether this user may make the namespaces that a sandbox of the user's own manager needs.
pub fn has_namespaces() -> bool {
    let attempt = ["--user", "--map-root-user", "--mount", "--", "true"];
    Call::new("unshare", &attempt).run().is_ok()
}
