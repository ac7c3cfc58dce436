//! What goes into a machine and what comes out.

use crate::schedule::Life;
use crate::secret::Fingerprint;

/// The settings of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Seconds before expiry at which to refresh; unset: at half of the life.
    pub window_s: Option<u64>,
    /// The shortest time between two scheduled refreshes, in milliseconds.
    pub spacing_ms: u64,
}

/// What a machine knows of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Grows with every change of the grant.
    pub generation: u64,
    /// Of the refresh token.
    pub fingerprint: Fingerprint,
    /// The access token, if there is one.
    pub token: Option<Token>,
    /// Why the refresh token is known to be dead, if it is.
    pub verdict: Option<String>,
    /// Whether an exchange of this refresh token has gone unanswered.
    pub unanswered: bool,
}

/// What a machine knows of an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The bundle generation that first carries it.
    pub generation: u64,
    /// From when until when it is valid.
    pub life: Life,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The stored grant is this one now: at the start, after a login, after a logout.
    Stored(Option<Facts>),
    /// Time has passed.
    Tick,
    /// The token may be older than was thought: better to replace it soon.
    Doubted,
    /// The exchange that an [`Action`] asked for has ended.
    Exchanged(Outcome),
    /// The upstream refused the token of this generation.
    Rejected {
        /// The token's generation.
        generation: u64,
    },
}

/// How an exchange ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// There is a newer grant: from the provider, or found in the store.
    Renewed(Facts),
    /// No newer grant, and the refresh token may still be good.
    Failed(Failure),
    /// The refresh token is dead.
    Terminal {
        /// Why, in a word.
        reason: String,
    },
}

/// An exchange that failed for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why, in a word.
    pub class: String,
    /// The wait that the provider asks for, in seconds.
    pub retry_after_s: Option<u64>,
    /// Whether a refresh token may have been spent without our seeing the answer.
    pub unanswered: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Spend the refresh token and report with [`Event::Exchanged`].
    Exchange,
}

/// What to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The access token: it is valid.
    Ready,
    /// That only a login helps.
    LoginRequired {
        /// Why, in a word.
        reason: String,
    },
    /// That there is no valid token for now.
    Unavailable {
        /// Why, in a word.
        reason: String,
        /// When the next try is due.
        retry_ms: u64,
    },
}

/// What to tell those who reported a dead token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing yet.
    Pending,
    /// It has been replaced.
    Replaced,
    /// It cannot be replaced.
    LoginRequired,
    /// Not now.
    Unavailable {
        /// Seconds until a new try makes sense; at least 1.
        retry_after_s: u64,
    },
}
