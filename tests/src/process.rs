//! A program under test: its output in a file, its end certain.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::{Child, Command};

use crate::clock::eventually;

/// Lets this process, and those that it starts, have as many open files as the system allows.
///
/// # Errors
///
/// When that is fewer than `needed`.
pub fn allow_open_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < needed {
        bail!("{most} open files are allowed here, {needed} are needed: raise `ulimit -Hn`");
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// How long a program may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(15);

/// How much of a log is printed.
const LOG_LINES: usize = 60;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Copies what a terminal shows into the log, and ends when all of it is there.
    screen: Option<JoinHandle<()>>,
    verbose: bool,
}

impl Process {
    /// Starts a program. Its output goes to `NAME.log` in `dir`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), child, log, screen: None, verbose: true })
    }

    /// Starts a program on a terminal of its own. What the terminal shows, what is typed included,
    /// goes to `NAME.screen` in `dir`.
    ///
    /// # Errors
    ///
    /// When the system gives no terminal, or the program cannot be started.
    pub fn start_on_terminal(
        name: &str,
        dir: &Path,
        mut command: Command,
    ) -> Result<(Self, Keyboard)> {
        let keyboard = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?);
        grantpt(&keyboard)?;
        unlockpt(&keyboard)?;
        let path = ptsname(&keyboard, Vec::new())?;
        let terminal =
            File::options().read(true).write(true).open(OsStr::from_bytes(path.to_bytes()))?;
        let log = dir.join(format!("{name}.screen"));
        let mut file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut screen = keyboard.try_clone()?;
        // Ends with an error when the program, the last that has the terminal open, has ended.
        let copy = move || drop(std::io::copy(&mut screen, &mut file));
        let screen = Some(std::thread::spawn(copy));
        let process = Self { name: name.to_owned(), child, log, screen, verbose: true };
        Ok((process, Keyboard(keyboard)))
    }

    /// Its log is not printed at its end.
    #[must_use]
    pub fn quiet(self) -> Self {
        let mut process = self;
        process.verbose = false;
        process
    }

    /// A command for a program, with nothing of the caller's environment but what programs need.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for name in ["PATH", "LANG", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its resident memory in KiB.
    ///
    /// # Errors
    ///
    /// When it does not run any more.
    pub fn resident_kib(&self) -> Result<u64> {
        let id = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.context("the system does not tell resident memory")
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it does not run any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else {
            bail!("{} does not run any more", self.name);
        };
        kill_process(id, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Whether it has ended, and its log is whole.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten().filter(|_| self.is_shown())
    }

    fn is_shown(&self) -> bool {
        self.screen.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end, and until its log is whole.
    ///
    /// # Errors
    ///
    /// When it takes longer than `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            bail!("{} still runs after {limit:?}", self.name)
        };
        let shown = eventually(limit, async || self.is_shown().then_some(()));
        shown.await.with_context(|| format!("the terminal of {} is still open", self.name))?;
        Ok(status?)
    }

    /// Ends it with SIGTERM, as a service manager does.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(PATIENCE).await
    }

    /// Ends it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it had ended before.
    pub async fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(PATIENCE).await?;
        Ok(())
    }

    /// Waits until it has printed a line that `find` finds something in.
    ///
    /// # Errors
    ///
    /// When it ends before, or takes longer than `limit`.
    pub async fn printed<T>(
        &mut self,
        limit: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let found = eventually(limit, async || {
            let found = self.log().lines().find_map(&find);
            if found.is_none() && self.ended().is_some() {
                return Some(self.log().lines().find_map(&find));
            }
            found.map(Some)
        });
        match found.await.flatten() {
            Some(found) => Ok(found),
            None => bail!("{} did not print what was awaited", self.name),
        }
    }
}

/// Where the user of a terminal types.
#[derive(Debug)]
pub struct Keyboard(File);

impl Keyboard {
    /// Types a line.
    ///
    /// # Errors
    ///
    /// When the terminal is closed.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.0.write_all(format!("{text}\n").as_bytes()).context("nothing can be typed")
    }

    /// Gives the terminal a size.
    ///
    /// # Errors
    ///
    /// When the terminal is closed.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.0, size).context("the terminal takes no size")
    }
}

impl Drop for Process {
    /// In a test this is captured, and shown only when the test fails.
    fn drop(&mut self) {
        if self.verbose {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
            println!("--- the end of {}'s log", self.name);
            lines.into_iter().rev().for_each(|line| println!("{line}"));
        }
    }
}
