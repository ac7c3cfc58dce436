//! Which failures a fault excuses: as few as can be.

use std::time::Duration;

use crate::plan::Fault;

impl Fault {
    /// What it excuses, in words.
    pub fn allowance(self) -> &'static str {
        match self {
            Self::EnvoyKilled => {
                "requests without an answer, and streams that break off, that were under way when \
                 Envoy was killed or began before it listened again"
            }
            Self::RefresherKilled => {
                "requests refused with login_required, where the kill has lost the answer of an \
                 exchange, until the login that it costs is in force"
            }
            Self::ClientResets => "the requests that are reset, no other",
            _ => "nothing",
        }
    }
}

/// What became of a request that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection, or it ended before the answer did.
    Connection,
    /// A stream began and broke off.
    Cut,
    /// Refused for want of a login.
    LoginRequired,
    /// Any other answer than the one that was to come.
    Answer,
}

/// A request that did not end well.
#[derive(Clone, Debug)]
pub struct Failed {
    /// When it began and ended, from the start of the run.
    pub began: Duration,
    pub ended: Duration,
    /// The latest fault when it ended.
    pub during: Option<Fault>,
    pub failure: Failure,
    /// What was seen, in words.
    pub seen: String,
}

/// What a fault has excused, and from when until when.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    pub fault: Fault,
    pub from: Duration,
    pub until: Duration,
}

impl Excuse {
    /// Whether it covers this failure: one of its kind, of a request that was under way meanwhile.
    pub fn covers(&self, failed: &Failed) -> bool {
        let kind = match self.fault {
            Fault::EnvoyKilled => matches!(failed.failure, Failure::Connection | Failure::Cut),
            Fault::RefresherKilled => failed.failure == Failure::LoginRequired,
            _ => false,
        };
        kind && failed.began <= self.until && failed.ended >= self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(began: u32, ended: u32, failure: Failure) -> Failed {
        let (began, ended) = (SECOND * began, SECOND * ended);
        Failed { began, ended, during: None, failure, seen: String::new() }
    }

    #[test]
    fn a_kill_excuses_what_it_must_break_and_nothing_else() {
        use Failure::{Answer, Connection, Cut, LoginRequired};
        let of = |fault| Excuse { fault, from: SECOND * 10, until: SECOND * 12 };
        for (fault, began, ended, failure, covered) in [
            (Fault::EnvoyKilled, 8, 10, Connection, true),
            (Fault::EnvoyKilled, 8, 10, Cut, true),
            (Fault::EnvoyKilled, 12, 13, Connection, true),
            // Over before the kill, and begun when Envoy listened again.
            (Fault::EnvoyKilled, 8, 9, Connection, false),
            (Fault::EnvoyKilled, 13, 14, Connection, false),
            // An answer is never excused by the lack of a connection.
            (Fault::EnvoyKilled, 10, 11, Answer, false),
            (Fault::EnvoyKilled, 10, 11, LoginRequired, false),
            (Fault::RefresherKilled, 10, 11, LoginRequired, true),
            (Fault::RefresherKilled, 13, 14, LoginRequired, false),
            (Fault::RefresherKilled, 10, 11, Answer, false),
            (Fault::RefresherKilled, 10, 11, Connection, false),
            (Fault::RefresherKilled, 10, 11, Cut, false),
        ] {
            let failed = failed(began, ended, failure);
            assert_eq!(of(fault).covers(&failed), covered, "{fault:?}: {failed:?}");
        }
        for fault in Fault::ALL {
            if !matches!(fault, Fault::EnvoyKilled | Fault::RefresherKilled) {
                for failure in [Connection, Cut, LoginRequired, Answer] {
                    assert!(!of(fault).covers(&failed(10, 11, failure)), "{fault:?}");
                }
            }
        }
    }
}
