//! One refresh, from the lock to the disk. Runs to its end whoever waits for it.

use std::sync::Arc;

use crate::clock::{self, Now};
use crate::oauth::answer::{self, Answer, Granted};
use crate::oauth::request;
use crate::rotation::{Failure, UNANSWERED_MS};
use crate::secret::Fingerprint;
use crate::store::{Error, Grant, Intent, Lock, Reservation, Store, TokenRecord, Verdict};
use crate::{chain, http};

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

/// Spends the refresh token of `held`, unless another process has done so. `unsaved` says that
/// the store lacks `held` because it could not be written.
pub async fn run(store: Arc<Store>, held: Grant, unsaved: bool) -> Conclusion {
    let lock = match store.lock().await {
        Ok(lock) => lock,
        Err(error @ Error::Locked { .. }) => return stuck("locked", error, &store, &held),
        Err(error) => return stuck("storage", error, &store, &held),
    };
    match agree(&lock, &store, held, unsaved) {
        Ok(grant) => spend(&lock, &store, grant).await,
        Err(conclusion) => *conclusion,
    }
}

/// Makes the store and us agree on the grant to be spent, or ends the exchange.
fn agree(
    lock: &Lock<'_>,
    store: &Store,
    held: Grant,
    unsaved: bool,
) -> Result<Grant, Box<Conclusion>> {
    match store.load(clock::now().unix()) {
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

async fn spend(lock: &Lock<'_>, store: &Store, grant: Grant) -> Conclusion {
    let fingerprint = grant.refresh_token.fingerprint();
    let earlier = match store.intent(&fingerprint) {
        Ok(earlier) => earlier,
        Err(error) => return stuck("storage", error, store, &grant),
    };
    let now = clock::now();
    if earlier.as_ref().is_some_and(|intent| is_too_late(intent, now)) {
        return condemn(lock, grant, "exchange_unanswered", now);
    }
    let reservation = match prepare(lock, fingerprint, now) {
        Ok(reservation) => reservation,
        Err(error) => return stuck("storage", error, store, &grant),
    };
    let request = request::refresh(&grant.token_endpoint, &grant.client_id, &grant.refresh_token);
    let response = match http::send(&request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(error = %chain::line(&error), "refresh failed");
            let unanswered = earlier.is_some() || error.may_have_arrived();
            if !unanswered {
                forget(lock);
            }
            return failed(error.class(), None, unanswered);
        }
    };
    let now = clock::now();
    match answer::read(&response, now.unix()) {
        Answer::Granted(granted) => keep(lock, reservation, grant, granted, now),
        Answer::Error { status, code, .. } if answer::is_terminal(status, &code) => {
            condemn(lock, grant, code.as_str(), now)
        }
        Answer::Error { status, code, retry_after } => {
            tracing::warn!(status, %code, "refresh failed");
            forget(lock);
            failed(code.as_str(), retry_after, false)
        }
        Answer::Unusable { status, retry_after } => {
            tracing::warn!(status, "refresh failed: the answer is unusable");
            forget(lock);
            failed(&format!("http_{status}"), retry_after, false)
        }
    }
}

/// Later than the time in which a provider may forgive a repeated use.
fn is_too_late(intent: &Intent, now: Now) -> bool {
    now.unix().saturating_sub(intent.at).saturating_mul(1000) > UNANSWERED_MS
}

fn prepare(lock: &Lock<'_>, fingerprint: Fingerprint, now: Now) -> Result<Reservation, Error> {
    let reservation = lock.reserve()?;
    lock.note(&Intent { fingerprint, at: now.unix() })?;
    Ok(reservation)
}

/// Stores what was granted. The note of the intent goes only when the successor is on disk.
fn keep(
    lock: &Lock<'_>,
    reservation: Reservation,
    mut grant: Grant,
    granted: Granted,
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
        grant.token = Some(TokenRecord {
            access_token,
            obtained_at: now.unix(),
            expires_at: now.unix().saturating_add(life_s),
            generation: grant.generation,
        });
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
    let earlier = store.intent(&grant.refresh_token.fingerprint());
    let unanswered = earlier.is_ok_and(|intent| intent.is_some());
    let failure = Failure { class: class.to_owned(), retry_after_s: None, unanswered };
    Conclusion::Failed { failure, grant: None, alarm: Some(error) }
}
