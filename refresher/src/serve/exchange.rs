//! One refresh, from the lock to the disk. Runs to its end whoever waits for it.

mod again;

use std::sync::Arc;
use std::time::Duration;

use again::Trouble;

use crate::clock::{self, Clock, Now};
use crate::oauth::answer::{self, Answer, Granted, Response};
use crate::oauth::request::{self, Request};
use crate::provider::Provider;
use crate::rotation::{Failure, UNANSWERED_MS};
use crate::store::{Error, Grant, Intent, Lock, Reservation, Store, TokenRecord, Verdict};
use crate::{chain, http};

/// The reason of a verdict on a refresh token that may have been spent in an exchange whose answer
/// never came, and that cannot be tried again or was refused when it was.
const UNANSWERED: &str = "exchange_unanswered";

/// How an exchange ended.
#[derive(Debug)]
pub enum Conclusion {
    /// The provider granted new tokens.
    Renewed {
        /// The grant with them.
        grant: Box<Grant>,
        /// Whether the refresh token is a new one.
        rotated: bool,
        /// Why the grant is not on disk, if it is not.
        unsaved: Option<Error>,
    },
    /// The store has a newer grant than the one to be spent; nothing was sent.
    Adopted(Box<Grant>),
    /// The store has no grant any more; nothing was sent.
    Gone,
    /// No usable answer.
    Failed {
        /// Why, and when to try again.
        failure: Failure,
        /// A grant that changed nonetheless.
        grant: Option<Box<Grant>>,
        /// Why the store failed, if it did.
        alarm: Option<Error>,
    },
    /// The refresh token is dead.
    Terminal {
        /// Why, in a word.
        reason: String,
        /// The grant with that verdict.
        grant: Box<Grant>,
    },
}

/// What an exchange needs besides the grant.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whose grant it is.
    pub provider: Provider,
    /// What time it is.
    pub clock: Clock,
    /// How long to wait for a lock that another process holds.
    pub patience: Duration,
}

/// Spends the refresh token of `held`, unless another process has done so. `unsaved` says that
/// the store lacks `held` because it could not be written.
pub async fn run(store: Arc<Store>, terms: Terms, held: Grant, unsaved: bool) -> Conclusion {
    let lock = match store.lock_within(terms.patience).await {
        Ok(lock) => lock,
        Err(error @ Error::Locked { .. }) => return stuck("locked", error, &store, &held),
        Err(error) => return stuck("storage", error, &store, &held),
    };
    let stored = match store.load(terms.clock.now().unix()) {
        Ok(Some(stored)) => Ok(Some(recovered(&lock, stored))),
        other => other,
    };
    match agree(&lock, &store, stored, held, unsaved) {
        Ok(grant) => spend(&lock, &store, &terms, grant).await,
        Err(conclusion) => *conclusion,
    }
}

/// The stored grant, or its successor that a crash left behind.
fn recovered(lock: &Lock<'_>, stored: Grant) -> Grant {
    match lock.recover(&stored) {
        Ok(Some(successor)) => {
            tracing::warn!("a write that a crash had cut short is complete now");
            successor
        }
        Ok(None) => stored,
        Err(error) => {
            tracing::error!(error = %chain::line(&error), "a leftover cannot be looked at");
            stored
        }
    }
}

/// Makes the store and us agree on the grant to be spent, or ends the exchange.
fn agree(
    lock: &Lock<'_>,
    store: &Store,
    stored: Result<Option<Grant>, Error>,
    held: Grant,
    unsaved: bool,
) -> Result<Grant, Box<Conclusion>> {
    match stored {
        Ok(Some(stored)) if stored.generation > held.generation => {
            Err(Box::new(Conclusion::Adopted(Box::new(stored))))
        }
        Ok(Some(stored)) if stored.generation == held.generation => {
            if stored.refresh_token == held.refresh_token {
                Ok(held)
            } else {
                Err(Box::new(Conclusion::Adopted(Box::new(stored))))
            }
        }
        Ok(None) if !unsaved => Err(Box::new(Conclusion::Gone)),
        // Behind what we hold, or unreadable and moved aside: ours is the one to keep.
        Ok(_) | Err(Error::Corrupt { .. }) => match lock.save(&held) {
            Ok(()) => Ok(held),
            Err(error) => Err(Box::new(stuck("storage", error, store, &held))),
        },
        Err(error) => Err(Box::new(stuck("storage", error, store, &held))),
    }
}

async fn spend(lock: &Lock<'_>, store: &Store, terms: &Terms, grant: Grant) -> Conclusion {
    let earlier = match store.intent(&grant) {
        Ok(earlier) => earlier,
        Err(error) => return stuck("storage", error, store, &grant),
    };
    let now = terms.clock.now();
    if earlier.as_ref().is_some_and(|intent| is_too_late(intent, now)) {
        return condemn(lock, grant, UNANSWERED, now);
    }
    let client = match terms.provider.client_of(&grant) {
        Ok(client) => client,
        Err(error) => return stuck("client_secret", error, store, &grant),
    };
    // An earlier note keeps its time: what a provider forgives, it counts from the first use.
    let noted = match &earlier {
        Some(_) => lock.reserve(),
        None => prepare(lock, &grant, now),
    };
    let reservation = match noted {
        Ok(reservation) => reservation,
        Err(error) => return stuck("storage", error, store, &grant),
    };
    let request = request::refresh(&grant.token_endpoint, &client, &grant.refresh_token);
    let Sent { result, lost } = send(&request, terms).await;
    // Whether the provider may have spent the refresh token without our having its answer.
    let unanswered = earlier.is_some() || lost;
    let forget_unless_unanswered = || {
        if !unanswered {
            forget(lock);
        }
    };
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            forget_unless_unanswered();
            return failed(error.class(), None, unanswered);
        }
    };
    let begun = earlier.map_or(now.unix(), |intent| intent.at);
    let now = terms.clock.now();
    // A provider that forgives a repeated use may answer as it did the first time.
    let since = if unanswered { begun } else { now.unix() }.min(now.unix());
    match answer::read_since(&response, now.unix(), since) {
        Answer::Granted(granted) => keep(lock, reservation, grant, granted, since, now),
        Answer::Error { status, code, .. } if answer::is_terminal(status, &code) => {
            let reason = if unanswered { UNANSWERED } else { code.as_str() };
            condemn(lock, grant, reason, now)
        }
        Answer::Error { code, retry_after, .. } => {
            forget_unless_unanswered();
            failed(code.as_str(), retry_after, unanswered)
        }
        Answer::Unusable { status, retry_after } => {
            forget_unless_unanswered();
            failed(&format!("http_{status}"), retry_after, unanswered)
        }
    }
}

/// How the tries of one exchange ended.
struct Sent {
    result: Result<Response, http::Error>,
    /// Whether one of them may have arrived without an answer.
    lost: bool,
}

/// Sends the request, again where that makes sense, within the deadline of one exchange.
async fn send(request: &Request, terms: &Terms) -> Sent {
    let (begun, mut tries, mut lost) = (terms.clock.now().boot_ms, 0, false);
    loop {
        let spent_ms = terms.clock.now().boot_ms.saturating_sub(begun);
        let left = http::DEADLINE.saturating_sub(Duration::from_millis(spent_ms));
        let ca_file = terms.provider.ca_file.as_deref();
        let result = http::send_within(request, ca_file, left).await;
        tries += 1;
        lost |= result.as_ref().is_err_and(http::Error::may_have_arrived);
        let trouble = Trouble::of(&result);
        match &result {
            Err(error) => tracing::warn!(error = %chain::line(error), tries, "refresh failed"),
            Ok(answer) if answer.status != 200 => {
                tracing::warn!(status = answer.status, tries, "refresh failed");
            }
            Ok(_) => {}
        }
        let spent_ms = terms.clock.now().boot_ms.saturating_sub(begun);
        match again::pause(tries, spent_ms, trouble, clock::share()) {
            Some(pause_ms) => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
            None => return Sent { result, lost },
        }
    }
}

/// Later than the time in which a provider may forgive a repeated use. A note from the future says
/// that the clock has been set back, and so nothing of how long ago that was.
fn is_too_late(intent: &Intent, now: Now) -> bool {
    now.unix().abs_diff(intent.at).saturating_mul(1000) > UNANSWERED_MS
}

fn prepare(lock: &Lock<'_>, grant: &Grant, now: Now) -> Result<Reservation, Error> {
    let reservation = lock.reserve()?;
    lock.note(&Intent::of(grant, now.unix()))?;
    Ok(reservation)
}

/// Stores what was granted, perhaps as long ago as `since`, in Unix seconds. The note of the intent
/// goes only when the successor is on disk.
fn keep(
    lock: &Lock<'_>,
    reservation: Reservation,
    mut grant: Grant,
    granted: Granted,
    since: u64,
    now: Now,
) -> Conclusion {
    let Granted { access_token, refresh_token, life_s, scope } = granted;
    let complete = access_token.is_some();
    grant.generation = grant.next_generation(now.unix_ms);
    let rotated = refresh_token.as_ref().is_some_and(|new| *new != grant.refresh_token);
    if let Some(refresh_token) = refresh_token {
        grant.refresh_token = refresh_token;
    }
    if let Some(access_token) = access_token {
        // Nobody grants a token that has expired already: then it was granted just now.
        let since = if since.saturating_add(life_s) > now.unix() { since } else { now.unix() };
        grant.token = Some(TokenRecord::new(access_token, since, life_s, grant.generation));
    }
    grant.scope = scope.or(grant.scope);
    let unsaved = lock.commit(reservation, &grant).err();
    if unsaved.is_none() {
        forget(lock);
    }
    let grant = Box::new(grant);
    if complete {
        Conclusion::Renewed { grant, rotated, unsaved }
    } else {
        let failure =
            Failure { class: "no_access_token".into(), retry_after_s: None, unanswered: false };
        Conclusion::Failed { failure, grant: Some(grant), alarm: unsaved }
    }
}

fn condemn(lock: &Lock<'_>, mut grant: Grant, reason: &str, now: Now) -> Conclusion {
    grant.generation = grant.next_generation(now.unix_ms);
    grant.verdict = Some(Verdict { reason: reason.to_owned(), at: now.unix() });
    match lock.save(&grant) {
        Ok(()) => forget(lock),
        // Held in memory for now; after a restart one more try will tell the same.
        Err(error) => tracing::error!(error = %chain::line(&error), "verdict not stored"),
    }
    Conclusion::Terminal { reason: reason.to_owned(), grant: Box::new(grant) }
}

fn forget(lock: &Lock<'_>) {
    if let Err(error) = lock.forget() {
        tracing::error!(error = %chain::line(&error), "the note of an exchange was not removed");
    }
}

fn failed(class: &str, retry_after_s: Option<u64>, unanswered: bool) -> Conclusion {
    let failure = Failure { class: class.to_owned(), retry_after_s, unanswered };
    Conclusion::Failed { failure, grant: None, alarm: None }
}

/// Nothing was sent; an earlier exchange may still be unanswered.
fn stuck(class: &str, error: Error, store: &Store, grant: &Grant) -> Conclusion {
    tracing::error!(error = %chain::line(&error), "refresh not begun");
    let earlier = store.intent(grant);
    let unanswered = earlier.is_ok_and(|intent| intent.is_some());
    let failure = Failure { class: class.to_owned(), retry_after_s: None, unanswered };
    Conclusion::Failed { failure, grant: None, alarm: Some(error) }
}
