//! `refresher doctor`: it names what is wrong, and says that all is good only when it is.
//!
//! The faults that are planted, each in a part that works otherwise:
//!
//! | Fault | Check that names it |
//! |---|---|
//! | a setting that does not exist | `settings` |
//! | a configuration file that others can change | `settings` |
//! | the state directory open to everybody; a grant that others can read; a link among the grants | `state` |
//! | a clock that is off, by much and by little | `clock` |
//! | no Envoy; one that is too old; one without V8; with `serve` these are warnings | `envoy` |
//! | no filter; a file that is no Wasm module | `filter` |
//! | a setting that Envoy refuses | `bootstrap` |
//! | Envoy not running; its port taken by another program | `listener` |
//! | no refresher; the socket that one left behind; one of another provider | `socket` |
//! | a provider that does not answer; one that names another issuer | `provider` |
//! | no grant; one that the provider has ended; one for another endpoint | `token`, `provider` |
//! | an open listener without client keys; a wrong client key | `client keys`, `request` |
//! | the API's certificate expired, of another name, of an unknown issuer; the API down | `api` |
//! | the API refuses the account; the API does not answer | `request` |

mod faults;
mod keys;
mod login;
mod tls;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use refresher::doctor::report::CHECKS;
use serde_json::Value;
use tests::{
    Canaries, Plan, Process, Stack, envoy_binary, eventually, filter_module, refresher_binary,
    unix_request,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(20);

/// All checks together may take 30 s.
const END: Duration = Duration::from_secs(60);

/// What `doctor` said.
struct Diagnosis {
    code: Option<i32>,
    report: Value,
}

/// A call of `doctor` for a stack, with the Envoy of the stack as the one that should listen.
struct Call {
    config: PathBuf,
    command: Command,
}

impl Call {
    fn new(stack: &Stack) -> Result<Self> {
        let config = stack.dir().join("config.toml");
        let mut command = Process::command(refresher_binary()?);
        command.env("HOME", stack.dir()).env("PROXY_PORT", stack.address.port().to_string());
        command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
        // An alarm in the log is none of the report's.
        command.env("LOG_LEVEL", "error");
        Ok(Self { config, command })
    }

    fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The same with another configuration: the stack's, changed.
    fn configured(mut self, change: impl Fn(&str) -> String) -> Result<Self> {
        let text = std::fs::read_to_string(&self.config)?;
        self.config = self.config.with_file_name("doctor.toml");
        std::fs::write(&self.config, change(&text))?;
        Ok(self)
    }

    fn arguments(&mut self, arguments: &[&str]) -> &mut Command {
        self.command.arg("--config").arg(&self.config).arg("doctor").args(arguments)
    }

    /// What it says, as JSON.
    async fn diagnose(mut self, stack: &Stack) -> Result<Diagnosis> {
        let (code, text) = finished(self.arguments(&["--json"]), stack).await?;
        let report = serde_json::from_str(&text).with_context(|| text)?;
        Ok(Diagnosis { code, report })
    }

    /// What it says, in lines.
    async fn say(mut self, stack: &Stack) -> Result<(Option<i32>, String)> {
        finished(self.arguments(&[]), stack).await
    }
}

async fn finished(command: &mut Command, stack: &Stack) -> Result<(Option<i32>, String)> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(END, running).await.context("it goes on running")??;
    let canaries = Canaries::new(&stack.provider().secrets(), &[])?;
    canaries.clear("doctor", &output.stdout)?;
    canaries.clear("doctor's log", &output.stderr)?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8(output.stderr)?;
    // A check that takes long says so.
    let waits = errors.lines().all(|line| line.starts_with("refresher: looking at: "));
    ensure!(waits, "{errors}");
    Ok((output.status.code(), text))
}

impl Diagnosis {
    fn of(&self, name: &str) -> Vec<&Value> {
        let checks = self.report["checks"].as_array().into_iter().flatten();
        checks.filter(|check| check["name"] == name).collect()
    }

    /// The verdict of each check; of several findings the worst.
    fn verdict(&self, name: &str) -> Result<&'static str> {
        let found = self.of(name);
        let has = |verdict: &str| found.iter().any(|check| check["verdict"] == verdict);
        let verdict = ["fail", "warn", "skipped", "ok"].into_iter().find(|verdict| has(verdict));
        verdict.with_context(|| format!("{name} is not there: {}", self.report))
    }

    /// Every check but these is well; these say so with these words, and what mends it.
    fn expect(&self, code: i32, odd: &[(&str, &str, &str)]) -> Result<()> {
        let report = &self.report;
        for name in CHECKS {
            let (verdict, words) = odd
                .iter()
                .find(|(odd, _, _)| *odd == name)
                .map_or(("ok", ""), |(_, verdict, words)| (verdict, words));
            let found = self.verdict(name)?;
            ensure!(found == verdict, "{name} is not {verdict}: {report:#}");
            let said = self.of(name).into_iter().any(|check| {
                let says = check["says"].as_str().unwrap_or_default();
                let mended = check["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty());
                let needs = matches!(verdict, "fail" | "warn");
                check["verdict"] == verdict && says.contains(words) && (mended || !needs)
            });
            ensure!(said, "{name} does not say {words:?}: {report:#}");
        }
        ensure!(self.code == Some(code), "{:?} instead of {code}: {report:#}", self.code);
        let summary = report["summary"].as_str().unwrap_or_default();
        ensure!(report["all_good"] == (code == 0), "{report:#}");
        ensure!(report["login_required"] == (code == 3), "{report:#}");
        ensure!(summary.contains("all good") == (code == 0), "{report:#}");
        Ok(())
    }
}

/// What did not come out as it should, so that one fault that is not named hides no other.
#[derive(Default)]
struct Missed(Vec<String>);

impl Missed {
    fn note(&mut self, fault: &str, found: Result<()>) {
        self.0.extend(found.err().map(|error| format!("{fault}: {error:#}")));
    }

    fn none(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{} not named: {}", self.0.len(), self.0.join("\n"));
        Ok(())
    }
}

/// How many requests for the models have reached the API.
fn arrived(stack: &Stack) -> usize {
    let requests = stack.provider().requests();
    requests.iter().filter(|request| request.path == "/v1/models").count()
}

/// An executable that prints this.
fn stand_in(dir: &Path, name: &str, script: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let program = dir.join(name);
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

fn small() -> Plan {
    Plan { workers: 1, ..Plan::default() }
}

/// A stack of which every worker is known to serve what is published.
async fn started() -> Result<Stack> {
    let stack = Stack::start(small()).await?;
    known(&stack).await?;
    Ok(stack)
}

/// Waits until the refresher knows the one worker of Envoy, and its main thread, to be up to date.
async fn known(stack: &Stack) -> Result<()> {
    let known = eventually(SOON, async || {
        let answer = unix_request(&stack.socket(), "GET", "/v1/overview", "").await.ok()?.json();
        let published = &answer["health"]["generation"];
        let workers = answer["workers"].as_array()?;
        let current = workers.iter().filter(|worker| worker["generation"] == *published);
        (current.count() == 2 && workers.len() == 2).then_some(())
    });
    known.await.context("the workers are not known")
}
