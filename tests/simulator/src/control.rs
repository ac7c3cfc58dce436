//! The handle through which a test steers the simulator and looks into it.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::fault::{Fault, Target};
use crate::log::{LedgerEntry, RequestEntry, Summary};
use crate::state::{SCOPES, State};
use crate::{DeadToken, Shared, token};

/// Direct access to all that the control endpoint does, and a little more. Cheap to clone.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Shared>);

impl Control {
    /// Every presentation of a grant, in order; at most [`KEPT_ENTRIES`](crate::KEPT_ENTRIES).
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.0.look(|state, _| state.logs.ledger())
    }

    /// Every request that reached the API, in order of arrival; at most
    /// [`KEPT_ENTRIES`](crate::KEPT_ENTRIES).
    pub fn requests(&self) -> Vec<RequestEntry> {
        self.0.look(|state, _| state.logs.requests())
    }

    /// Those of them with a higher number than `sequence`.
    pub fn requests_after(&self, sequence: u64) -> Vec<RequestEntry> {
        self.0.look(|state, _| state.logs.requests_after(sequence))
    }

    /// The counts.
    pub fn summary(&self) -> Summary {
        self.0.look(|state, _| state.logs.summary)
    }

    /// Tokens, codes and verifiers that were given out or presented, the latest last; at most
    /// [`KEPT_ENTRIES`](crate::KEPT_ENTRIES).
    pub fn secrets(&self) -> Vec<String> {
        self.0.look(|state, _| state.secrets())
    }

    /// Empties both logs and sets the counts to 0. Grants, tokens and faults stay.
    pub fn clear(&self) {
        self.0.change(|state, _| state.logs.clear());
    }

    /// Makes all access tokens dead at the API, though they have not expired, and says how many.
    /// Refresh tokens stay good.
    pub fn kill_access_token(&self) -> usize {
        self.0.change(|state, now_ms| state.kill(None, now_ms))
    }

    /// The same for the one access token with this id; says whether it was alive.
    pub fn kill_jti(&self, jti: &str) -> bool {
        self.0.change(|state, now_ms| state.kill(Some(jti), now_ms)) > 0
    }

    /// Revokes every family, so that a refresh is answered `invalid_grant`; says how many.
    pub fn revoke_all(&self) -> usize {
        self.0.change(|state, _| state.revoke_all())
    }

    /// Approves a device login: the one of a user code, or with `None` the latest that waits.
    /// Says whether there was one.
    pub fn approve_device<'a>(&self, user_code: impl Into<Option<&'a str>>) -> bool {
        self.0.change(|state, now_ms| state.decide_device(user_code.into(), true, now_ms))
    }

    /// Denies a device login, chosen in the same way.
    pub fn deny_device<'a>(&self, user_code: impl Into<Option<&'a str>>) -> bool {
        self.0.change(|state, now_ms| state.decide_device(user_code.into(), false, now_ms))
    }

    /// The user code of the latest device login that waits for a decision.
    pub fn pending_device(&self) -> Option<String> {
        self.0.look(State::pending_device)
    }

    /// How a dead token is answered from now on.
    pub fn set_dead_token(&self, shape: DeadToken) {
        self.0.change(|state, _| state.options.dead_token = shape);
    }

    /// The life of access tokens issued from now on, in seconds.
    pub fn set_token_life(&self, seconds: u64) {
        self.0.change(|state, _| state.options.token_life = seconds);
    }

    /// Pieces of an answer, and the pause between two, for requests that do not say.
    pub fn set_stream(&self, chunks: u64, delay_ms: u64) {
        self.0.change(|state, _| {
            state.options.stream_chunks = chunks;
            state.options.stream_delay_ms = delay_ms;
        });
    }

    /// Sets the fault of its target, in place of the one before. One whose count is 0 does
    /// nothing.
    pub fn set_fault(&self, fault: Fault) {
        self.0.change(|state, _| state.faults.insert(fault.target, fault));
    }

    /// Removes the faults of all targets, or of one.
    pub fn clear_faults(&self, target: impl Into<Option<Target>>) {
        let target = target.into();
        self.0.change(|state, _| state.faults.retain(|at, _| target.is_some_and(|it| it != *at)));
    }

    /// Logs in without the ceremony: what the token endpoint would answer, for all scopes. The
    /// ledger and the counts do not show it.
    pub fn issue_grant(&self) -> Value {
        let issued = self.0.change(|state, now_ms| state.log_in(SCOPES.join(" "), None, now_ms));
        token::signed(&self.0, issued)
    }

    /// Waits until `condition` holds; it is looked at again after whatever happens here. Bound
    /// it with a timeout of your own.
    pub async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !condition(self) {
            // The sender lives as long as this handle.
            let _ = changed.changed().await;
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("url", &self.0.url).finish_non_exhaustive()
    }
}
