//! An Envoy process: started, awaited, restarted, stopped.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::envoy::Program;
use super::guard;
use crate::clock::Now;
use crate::{chain, http, store, surroundings};

/// How long Envoy may take until it accepts connections.
const START: Duration = Duration::from_secs(30);

/// The pause between two looks at an Envoy that is starting.
const LOOK: Duration = Duration::from_millis(20);

/// How long requests under way may go on when Envoy is stopped.
const DRAIN: Duration = Duration::from_secs(2);

/// How long Envoy may take to exit after that.
const EXIT: Duration = Duration::from_secs(3);

/// The longest pause before a restart.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// An Envoy that has run for this long did start well, in milliseconds.
const HEALTHY_MS: u64 = 60_000;

/// How much of the log an error can quote, in bytes.
const TAIL_BYTES: usize = 16 << 10;

/// Why Envoy does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be started.
    #[error("envoy cannot be started")]
    Spawn(#[source] std::io::Error),
    /// Its log cannot be written.
    #[error("{path}: cannot write Envoy's log")]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory of its files.
    #[error(transparent)]
    Directory(#[from] store::Error),
    /// Its port was taken meanwhile.
    #[error("envoy's port was taken meanwhile")]
    PortTaken,
    /// It has ended.
    #[error("envoy exited with {status}: {reason}; its log: {log}")]
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// The last error of its log.
        reason: String,
        /// Where the log is.
        log: PathBuf,
    },
    /// It does not become ready.
    #[error("envoy did not accept connections within {} s; its log: {log}", START.as_secs())]
    NotReady {
        /// Where the log is.
        log: PathBuf,
    },
}

/// Envoy's files in the state directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Its configuration.
    pub bootstrap: PathBuf,
    /// The unix socket of its admin interface.
    pub admin: PathBuf,
    /// What it prints.
    pub log: PathBuf,
}

impl Paths {
    /// The files under a state directory.
    pub fn new(state_dir: &Path) -> Self {
        let directory = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        let directory = directory.join("envoy");
        Self {
            bootstrap: directory.join("bootstrap.json"),
            admin: directory.join("admin.sock"),
            log: directory.join("envoy.log"),
        }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    group: Option<Pid>,
    log: PathBuf,
    admin: PathBuf,
}

impl Envoy {
    /// Starts Envoy in a process group of its own, so that Ctrl-C reaches us alone.
    ///
    /// # Errors
    ///
    /// When its log cannot be written or the program not be run.
    pub fn start(
        program: &Program,
        paths: &Paths,
        concurrency: Option<u32>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Log { path: paths.log.clone(), source };
        if let Some(directory) = paths.log.parent() {
            store::create_private_directory(directory)?;
        }
        // A crash leaves the admin socket behind, and Envoy would not replace it.
        let _ = std::fs::remove_file(&paths.admin);
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&paths.log)
            .map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let us = std::env::current_exe().map_err(Error::Spawn)?;
        let mut command = Command::new(us);
        command
            .arg(guard::SUBCOMMAND)
            .arg(std::process::id().to_string())
            .arg(program.path())
            .arg("--use-dynamic-base-id")
            .arg("-c")
            .arg(&paths.bootstrap)
            // Envoy knows the digest; the key itself is none of its business.
            .env_remove("PROXY_API_KEY");
        if let Some(concurrency) = concurrency {
            command.arg("--concurrency").arg(concurrency.to_string());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Spawn)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group, log: paths.log.clone(), admin: paths.admin.clone() })
    }

    /// Waits until Envoy accepts connections at `address`, and is the one that does.
    ///
    /// # Errors
    ///
    /// When it exits first, or takes too long.
    pub async fn ready(&mut self, address: SocketAddr) -> Result<(), Error> {
        let admin = self.admin.clone();
        let reachable = SocketAddr::new(surroundings::reachable(address.ip()), address.port());
        let accepting = async {
            // Its admin interface says ready only after the listeners are up; the connection then
            // shows that the port is really served.
            loop {
                let answer = http::ask_socket(&admin, "/ready", false, LOOK * 10).await;
                if answer.is_ok_and(|answer| answer.status == 200)
                    && TcpStream::connect(reachable).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = accepting => Ok(()),
            status = self.child.wait() => Err(self.exited(status.map_err(Error::Spawn)?)),
            () = tokio::time::sleep(START) => Err(Error::NotReady { log: self.log.clone() }),
        }
    }

    /// Restarts Envoy whenever it ends, until `stop`; then stops it.
    pub async fn look_after(
        mut self,
        program: &Program,
        paths: &Paths,
        concurrency: Option<u32>,
        address: SocketAddr,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        clock: fn() -> Now,
    ) {
        let mut failures = 0;
        loop {
            let started = clock();
            tokio::select! {
                () = stop.as_mut() => break,
                status = self.child.wait() => {
                    let reason = status.map_or_else(Error::Spawn, |status| self.exited(status));
                    tracing::error!(error = %chain::line(&reason), "envoy has ended");
                }
            }
            let lived_ms = clock().boot_ms.saturating_sub(started.boot_ms);
            failures = if lived_ms > HEALTHY_MS { 0 } else { failures + 1 };
            tokio::select! {
                () = stop.as_mut() => break,
                () = tokio::time::sleep(pause(failures)) => {}
            }
            match Self::start(program, paths, concurrency) {
                Ok(envoy) => self = envoy,
                Err(error) => {
                    tracing::error!(error = %chain::line(&error), "envoy not restarted");
                    continue;
                }
            }
            tokio::select! {
                () = stop.as_mut() => break,
                ready = self.ready(address) => match ready {
                    Ok(()) => tracing::info!(%address, "envoy serves again"),
                    Err(error) => {
                        tracing::error!(error = %chain::line(&error), "envoy not restarted");
                    }
                },
            }
        }
        self.stop().await;
    }

    /// Lets requests under way end, for a short while, and then ends Envoy in any case.
    pub async fn stop(mut self) {
        let drained = async {
            let drain = "/drain_listeners?graceful&skip_exit";
            if http::ask_socket(&self.admin, drain, true, DRAIN).await.is_ok() {
                while self.has_requests().await {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN, drained).await;
        self.signal(Signal::TERM);
        if tokio::time::timeout(EXIT, self.child.wait()).await.is_err() {
            tracing::warn!("envoy did not exit; killing it");
            self.signal(Signal::KILL);
            let _ = self.child.wait().await;
        }
        let _ = std::fs::remove_file(&self.admin);
    }

    async fn has_requests(&self) -> bool {
        let filter = "/stats?filter=%5Ehttp%5C..*%5C.downstream_rq_active%24";
        let Ok(answer) = http::ask_socket(&self.admin, filter, false, DRAIN).await else {
            return false;
        };
        let text = String::from_utf8_lossy(&answer.body);
        let busy = |line: &str| {
            // The admin interface counts this very request.
            !line.starts_with("http.admin.")
                && line.rsplit(": ").next().is_some_and(|count| count.trim() != "0")
        };
        text.lines().any(busy)
    }

    fn signal(&self, signal: Signal) {
        // Once awaited, the number may be another process's.
        if let (Some(group), Some(_alive)) = (self.group, self.child.id()) {
            let _ = kill_process_group(group, signal);
        }
    }

    fn exited(&self, status: ExitStatus) -> Error {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        let text = String::from_utf8_lossy(tail);
        if text.contains("Address already in use") {
            return Error::PortTaken;
        }
        let reason = text
            .lines()
            .rev()
            .find(|line| line.contains("[critical]") || line.contains("[error]"))
            .or_else(|| text.lines().last())
            .unwrap_or("it printed nothing")
            .chars()
            .filter(|c| !c.is_control())
            .take(500)
            .collect();
        Error::Exited { status, reason, log: self.log.clone() }
    }
}

/// Exponential, so that a broken Envoy does not keep a core busy.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::from_millis(100);
    }
    Duration::from_millis(500).saturating_mul(1 << failures.min(10)).min(MAX_PAUSE)
}
