//! What the system asks of a program that serves: to stop, or to read its configuration again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGINT or SIGTERM; SIGHUP from a terminal that was closed.
    Stop,
    /// SIGHUP otherwise.
    Reload,
}

/// The signals that are awaited.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    on_hangup: Request,
}

impl Signals {
    /// Awaits them from now on.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn new() -> io::Result<Self> {
        // Before ours is there: what `nohup` has set would be gone after that.
        let on_hangup = on_hangup(has_terminal(), ignores_hangup());
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            on_hangup,
        })
    }

    /// The next that comes.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Request::Stop,
            Some(()) = self.terminate.recv() => Request::Stop,
            Some(()) = self.hangup.recv() => self.on_hangup,
            else => std::future::pending().await,
        }
    }

    /// Waits until a stop is asked for.
    pub async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}

/// The kernel sends SIGHUP to the programs of a terminal that is closed; `up` in such a terminal is
/// to end with it. A service manager, which has no terminal, sends the same signal for a reload, and
/// who says `nohup` does not want the end either.
fn on_hangup(terminal: bool, ignored: bool) -> Request {
    if terminal && !ignored { Request::Stop } else { Request::Reload }
}

/// Whether this process has a controlling terminal, in the foreground or not.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether SIGHUP was ignored when this program was started (proc_pid_status(5)).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_is_closed_ends_it() {
        assert_eq!(on_hangup(true, false), Request::Stop);
        assert_eq!(on_hangup(true, true), Request::Reload);
        assert_eq!(on_hangup(false, false), Request::Reload);
        assert_eq!(on_hangup(false, true), Request::Reload);
    }
}
