//! The logins that were begun on the page: one at a time for each credential.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::qr::{self, Drawing};
use crate::config::Config;
use crate::login::browser::DEFAULT_TIMEOUT;
use crate::login::event::Event;
use crate::login::{self, browser, device};
use crate::{chain, clock};

/// How many logins are under way at the same time at most.
pub const MAX_LIVE: usize = 4;

/// How many are remembered.
pub const KEPT: usize = 16;

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In a browser on this machine.
    Browser,
    /// By a code in any browser.
    Device,
}

/// How far a login has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// The provider is being asked.
    Starting,
    /// This address is to be opened.
    Browser {
        /// The provider's page.
        url: String,
    },
    /// This code is to be entered.
    Device {
        /// The code.
        user_code: String,
        /// Where it is entered.
        verification_uri: String,
        /// The same with the code in it, where the provider has that.
        verification_uri_complete: Option<String>,
        /// The longer of the two, drawn.
        qr: Option<Drawing>,
    },
    /// The grant is stored.
    Success,
    /// The user or the provider said no.
    Denied,
    /// Nobody came in time.
    Expired,
    /// It was called off here.
    Cancelled,
    /// It failed otherwise.
    Failed {
        /// Why, in a sentence.
        reason: String,
    },
}

impl Stage {
    /// Whether the login is still under way.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Starting | Self::Browser { .. } | Self::Device { .. })
    }

    fn of(result: Result<(), login::Error>) -> Self {
        match result {
            Ok(()) => Self::Success,
            Err(login::Error::Denied) => Self::Denied,
            Err(login::Error::Expired) => Self::Expired,
            Err(login::Error::Cancelled) => Self::Cancelled,
            Err(login::Error::PortsBusy { ports }) => Self::Failed {
                reason: format!(
                    "the provider returns to port {ports} of this machine, where another login \
                     waits or another program listens; end that, or log in by code"
                ),
            },
            Err(error) => Self::Failed { reason: chain::line(&error) },
        }
    }
}

/// A login as the page shows it. Times are in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Under which name the grant is stored.
    pub credential: String,
    /// How.
    pub kind: Kind,
    /// When it was begun.
    pub begun_at: u64,
    /// When it ends by itself, while that is known.
    pub expires_at: Option<u64>,
    /// How far it has come.
    #[serde(flatten)]
    pub stage: Stage,
    /// Something to know besides.
    pub note: Option<String>,
}

/// Why a login is not begun.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// There is one of this credential.
    #[error("a login of {0} is under way; cancel it first")]
    Credential(String),
    /// There are too many.
    #[error("{MAX_LIVE} logins are under way; cancel one first")]
    Full,
}

#[derive(Debug)]
struct Attempt {
    number: u64,
    login: Login,
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    attempts: BTreeMap<String, Attempt>,
}

/// All logins of this page.
#[derive(Clone, Debug, Default)]
pub struct Logins(Arc<Mutex<Inner>>);

impl Logins {
    /// Begins a login, which runs on by itself.
    ///
    /// # Errors
    ///
    /// See [`Busy`].
    pub fn begin(&self, config: Arc<Config>, credential: &str, kind: Kind) -> Result<(), Busy> {
        let number = self.enter(credential, kind, clock::now().unix())?;
        let (logins, name) = (self.clone(), credential.to_owned());
        let task = tokio::spawn(async move {
            let tell = |event: Event<'_>| logins.take(&name, number, &event, clock::now().unix());
            let result = match kind {
                Kind::Browser => browser::run(&config, &name, DEFAULT_TIMEOUT, None, tell).await,
                Kind::Device => device::run(&config, &name, tell).await,
            };
            if let Err(error) = &result {
                tracing::info!(credential = %name, error = %chain::line(error), "a login ended");
            }
            logins.end(&name, number, Stage::of(result));
        });
        if let Some(attempt) = self.lock().attempts.get_mut(credential) {
            attempt.task = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Calls a login off. Says whether there was one.
    pub fn cancel(&self, credential: &str) -> bool {
        let mut inner = self.lock();
        let attempt = inner.attempts.get_mut(credential);
        let Some(attempt) = attempt.filter(|attempt| attempt.login.stage.is_live()) else {
            return false;
        };
        if let Some(task) = attempt.task.take() {
            task.abort();
        }
        attempt.login.stage = Stage::Cancelled;
        attempt.login.expires_at = None;
        true
    }

    /// All that are under way, and how the last of each credential ended.
    pub fn list(&self) -> Vec<Login> {
        self.lock().attempts.values().map(|attempt| attempt.login.clone()).collect()
    }

    fn enter(&self, credential: &str, kind: Kind, begun_at: u64) -> Result<u64, Busy> {
        let mut inner = self.lock();
        let live = |attempt: &Attempt| attempt.login.stage.is_live();
        if inner.attempts.get(credential).is_some_and(live) {
            return Err(Busy::Credential(credential.to_owned()));
        }
        if inner.attempts.values().filter(|attempt| live(attempt)).count() >= MAX_LIVE {
            return Err(Busy::Full);
        }
        if inner.attempts.len() >= KEPT {
            let ended = inner.attempts.iter().filter(|(_, attempt)| !live(attempt));
            let oldest = ended.min_by_key(|(_, attempt)| attempt.number).map(|(name, _)| name);
            if let Some(oldest) = oldest.cloned() {
                inner.attempts.remove(&oldest);
            }
        }
        inner.last += 1;
        let number = inner.last;
        let login = Login {
            credential: credential.to_owned(),
            kind,
            begun_at,
            expires_at: None,
            stage: Stage::Starting,
            note: None,
        };
        inner.attempts.insert(credential.to_owned(), Attempt { number, login, task: None });
        Ok(number)
    }

    /// What a login tells goes to its own attempt, and only while that is under way.
    fn change(&self, credential: &str, number: u64, change: impl FnOnce(&mut Login)) {
        let mut inner = self.lock();
        let attempt = inner.attempts.get_mut(credential);
        let own =
            |attempt: &&mut Attempt| attempt.number == number && attempt.login.stage.is_live();
        if let Some(attempt) = attempt.filter(own) {
            change(&mut attempt.login);
        }
    }

    fn take(&self, credential: &str, number: u64, event: &Event<'_>, now: u64) {
        self.change(credential, number, |login| match event {
            Event::Authorize(url) => {
                login.stage = Stage::Browser { url: url.to_string() };
                login.expires_at = Some(now.saturating_add(DEFAULT_TIMEOUT.as_secs()));
            }
            Event::Codes(codes) => {
                let complete = codes.verification_uri_complete.clone();
                login.stage = Stage::Device {
                    qr: qr::draw(complete.as_ref().unwrap_or(&codes.verification_uri)),
                    user_code: codes.user_code.clone(),
                    verification_uri: codes.verification_uri.clone(),
                    verification_uri_complete: complete,
                };
                login.expires_at = Some(now.saturating_add(codes.life_s));
            }
            Event::Waiting { .. } => {}
            Event::Note(note) => login.note = Some(note.to_string()),
        });
    }

    fn end(&self, credential: &str, number: u64, stage: Stage) {
        self.change(credential, number, |login| {
            login.stage = stage;
            login.expires_at = None;
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below the lock is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(logins: &Logins) -> Vec<(String, Stage)> {
        logins.list().into_iter().map(|login| (login.credential, login.stage)).collect()
    }

    #[test]
    fn there_is_one_login_at_a_time_for_each_credential_and_few_in_all() {
        let logins = Logins::default();
        let first = logins.enter("a", Kind::Browser, 1).unwrap();
        assert_eq!(logins.enter("a", Kind::Device, 2), Err(Busy::Credential("a".into())));
        for name in ["b", "c", "d"] {
            logins.enter(name, Kind::Device, 2).unwrap();
        }
        assert_eq!(logins.enter("e", Kind::Device, 2), Err(Busy::Full));
        logins.end("a", first, Stage::Success);
        logins.enter("e", Kind::Device, 3).unwrap();
    }

    #[test]
    fn what_has_ended_is_not_changed_by_a_latecomer() {
        let logins = Logins::default();
        let first = logins.enter("a", Kind::Browser, 1).unwrap();
        let url = "https://id.example/authorize".parse().unwrap();
        logins.take("a", first, &Event::Authorize(&url), 100);
        assert_eq!(logins.list()[0].expires_at, Some(400));
        assert!(logins.cancel("a") && !logins.cancel("a") && !logins.cancel("b"));
        logins.end("a", first, Stage::Success);
        assert_eq!(stages(&logins), [("a".to_owned(), Stage::Cancelled)]);
        let second = logins.enter("a", Kind::Browser, 2).unwrap();
        logins.end("a", first, Stage::Denied);
        assert_eq!(stages(&logins), [("a".to_owned(), Stage::Starting)]);
        logins.end("a", second, Stage::of(Err(login::Error::Denied)));
        assert_eq!(stages(&logins), [("a".to_owned(), Stage::Denied)]);
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let logins = Logins::default();
        for number in 0..3 * KEPT {
            let name = format!("c{number}");
            let attempt = logins.enter(&name, Kind::Device, 1).unwrap();
            logins.end(&name, attempt, Stage::Expired);
        }
        let names: Vec<_> = stages(&logins).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), KEPT);
        assert!(names.contains(&format!("c{}", 3 * KEPT - 1)) && !names.contains(&"c0".into()));
    }
}
