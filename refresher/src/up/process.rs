//! One Envoy process: started, awaited, ended.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::admin::{self, Admin};
use super::envoy::Program;
use super::{guard, log};
use crate::{config, http, store, surroundings};

/// How long Envoy may take until it accepts connections.
const START: Duration = Duration::from_secs(30);

/// The pause between two looks at an Envoy that is starting.
const LOOK: Duration = Duration::from_millis(20);

/// How long Envoy may take to exit once nothing holds it up.
const EXIT: Duration = Duration::from_secs(3);

/// How long Envoy says `connection: close` to clients whose connections it wants to end, in
/// seconds.
const DRAIN_S: &str = "5";

/// How much of the log an error can quote, in bytes.
const TAIL_BYTES: u64 = 16 << 10;

/// The bound of what Envoy prints besides its log, which is next to nothing, in bytes.
const PRINTED: log::Bounds = log::Bounds { max_bytes: 1 << 20, files: 2 };

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
    /// It serves, but cannot be asked.
    #[error(transparent)]
    Admin(#[from] admin::Error),
}

/// Envoy's files in the state directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Its configuration.
    pub bootstrap: PathBuf,
    /// The unix socket of its admin interface.
    pub admin: PathBuf,
    /// Its log, and its access log.
    pub log: PathBuf,
    /// What it prints besides, when it crashes for instance.
    pub printed: PathBuf,
    /// The number by which a hot restart finds it.
    pub base_id: PathBuf,
}

impl Paths {
    /// The files under a state directory, of the Envoy that serves.
    pub fn new(state_dir: &Path) -> Self {
        Self::named(state_dir, "bootstrap.json", "admin.sock", "envoy")
    }

    /// The same of an Envoy that only shows whether it would start.
    pub fn trial(state_dir: &Path) -> Self {
        Self::named(state_dir, "trial.json", "trial.sock", "trial")
    }

    fn named(state_dir: &Path, bootstrap: &str, admin: &str, log: &str) -> Self {
        let directory = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        let directory = directory.join("envoy");
        Self {
            bootstrap: directory.join(bootstrap),
            admin: directory.join(admin),
            log: directory.join(format!("{log}.log")),
            printed: directory.join(format!("{log}.stderr.log")),
            base_id: directory.join(format!("{log}.base-id")),
        }
    }
}

/// As what an Envoy is started.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// With nobody before it.
    First,
    /// In place of a running one, whose listening sockets it takes over.
    Successor {
        /// The number that both have.
        base_id: &'a str,
        /// How many there were before.
        epoch: u32,
    },
}

impl Role<'_> {
    fn epoch(self) -> u32 {
        match self {
            Self::First => 0,
            Self::Successor { epoch, .. } => epoch,
        }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    group: Option<Pid>,
    paths: Paths,
    /// How long its log was at its start.
    begun: (u64, u64),
    epoch: u32,
    admin: Option<Admin>,
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
        settings: &config::Envoy,
        role: Role<'_>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Log { path: paths.printed.clone(), source };
        if let Some(directory) = paths.log.parent() {
            store::create_private_directory(directory)?;
        }
        // Nobody has it open yet.
        log::rotate(&paths.printed, PRINTED).map_err(failed)?;
        let begun = (log::size(&paths.log), log::size(&paths.printed));
        let mut options = File::options();
        let printed = options.create(true).append(true).mode(0o600).open(&paths.printed);
        let printed = printed.map_err(failed)?;
        let us = std::env::current_exe().map_err(Error::Spawn)?;
        let mut command = Command::new(us);
        command
            .arg(guard::SUBCOMMAND)
            .arg(std::process::id().to_string())
            .arg(program.path())
            .arg("-c")
            .arg(&paths.bootstrap)
            .arg("--log-path")
            .arg(&paths.log)
            .args(["--file-flush-interval-msec", "1000"])
            .args(["--drain-strategy", "immediate", "--drain-time-s", DRAIN_S])
            // When it tells the one before it to end.
            .arg("--parent-shutdown-time-s")
            .arg(settings.reload_timeout.as_secs().to_string());
        match role {
            Role::First => {
                command.args(["--use-dynamic-base-id", "--base-id-path"]).arg(&paths.base_id);
            }
            Role::Successor { base_id, epoch } => {
                command.args(["--base-id", base_id, "--restart-epoch", &epoch.to_string()]);
            }
        }
        if let Some(concurrency) = settings.concurrency {
            command.arg("--concurrency").arg(concurrency.to_string());
        }
        let child = command
            // Envoy knows the digest; the key itself is none of its business. Nor is what the
            // service manager hears.
            .env_remove("PROXY_API_KEY")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(printed.try_clone().map_err(failed)?)
            .stderr(printed)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Spawn)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let epoch = role.epoch();
        Ok(Self { child, group, paths: paths.clone(), begun, epoch, admin: None })
    }

    /// How many Envoys it has replaced.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Waits until Envoy is ready and, with an address, accepts connections there.
    ///
    /// # Errors
    ///
    /// When it exits first, or takes too long.
    pub async fn ready(&mut self, address: Option<SocketAddr>) -> Result<(), Error> {
        let (socket, epoch) = (self.paths.admin.clone(), self.epoch);
        let accepting = async {
            // Its admin interface says so only after the listeners are up; the connection then
            // shows that the port is really served.
            loop {
                if is_live(&socket, epoch).await && accepts(address).await {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = accepting => {}
            error = self.ended() => return Err(error),
            () = tokio::time::sleep(START) => {
                return Err(Error::NotReady { log: self.paths.log.clone() });
            }
        }
        self.admin = Some(Admin::connect(&self.paths.admin).await?);
        Ok(())
    }

    /// Waits for its end, which is an error.
    pub async fn ended(&mut self) -> Error {
        self.child.wait().await.map_or_else(Error::Spawn, |status| self.exited(status))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// How many requests it has under way.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub async fn requests(&mut self) -> Result<u64, Error> {
        match &mut self.admin {
            Some(admin) => Ok(admin.requests().await?),
            None => Err(Error::NotReady { log: self.paths.log.clone() }),
        }
    }

    /// Asks Envoy to open its log again.
    pub fn reopen_log(&self) {
        self.signal(Signal::USR1);
    }

    /// Accepts no more connections, and asks clients to close those that they have.
    pub async fn drain(&mut self) {
        let Some(admin) = &mut self.admin else {
            return;
        };
        for target in ["/drain_listeners?graceful&skip_exit", "/drain_listeners"] {
            if let Err(error) = admin.ask(Method::POST, target).await {
                tracing::debug!(error = %crate::chain::line(&error), "envoy does not drain");
            }
        }
    }

    /// Waits until no request is under way, or Envoy does not say any more.
    pub async fn idle(&mut self) {
        while self.requests().await.is_ok_and(|requests| requests > 0) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends Envoy, whatever it has under way.
    pub async fn end(mut self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(EXIT, self.child.wait()).await.is_err() {
            tracing::warn!("envoy did not exit; killing it");
            self.kill().await;
        }
    }

    /// Ends Envoy without giving it a chance to do anything.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }

    fn signal(&self, signal: Signal) {
        // Once awaited, the number may be another process's.
        if let (Some(group), Some(_alive)) = (self.group, self.child.id()) {
            let _ = kill_process_group(group, signal);
        }
    }

    fn exited(&self, status: ExitStatus) -> Error {
        let (log, printed) = self.begun;
        let text = tail(&self.paths.log, log) + &tail(&self.paths.printed, printed);
        if text.contains("Address already in use") {
            return Error::PortTaken;
        }
        let grave = |line: &&str| line.contains("[critical]") || line.contains("[error]");
        let reason = text
            .lines()
            .rev()
            .find(grave)
            .or_else(|| text.lines().last())
            .unwrap_or("it printed nothing")
            .chars()
            .filter(|c| !c.is_control())
            .take(500)
            .collect();
        Error::Exited { status, reason, log: self.paths.log.clone() }
    }
}

/// What a log says from a place on, or the end of it.
fn tail(log: &Path, begun: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        // It may have been rotated.
        let from = if begun > length { 0 } else { begun };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Whether the admin socket is that of the Envoy of this epoch, and this Envoy is ready.
async fn is_live(socket: &Path, epoch: u32) -> bool {
    let Ok(answer) = http::ask_socket(socket, "/server_info", false, LOOK * 10).await else {
        return false;
    };
    let info: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let found = info.pointer("/command_line_options/restart_epoch");
    // Envoy leaves out what is zero.
    let found = found.and_then(serde_json::Value::as_u64).unwrap_or_default();
    let state = info.get("state").and_then(serde_json::Value::as_str);
    found == u64::from(epoch) && state == Some("LIVE")
}

async fn accepts(address: Option<SocketAddr>) -> bool {
    match address {
        None => true,
        Some(address) => TcpStream::connect(surroundings::reachable(address)).await.is_ok(),
    }
}
