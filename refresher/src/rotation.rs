//! When a grant is spent, as a pure state machine: event and time in, action out.
//!
//! One machine looks after one credential. It knows no secret, reads no clock and does no I/O:
//! whoever runs it feeds it [`Event`]s, carries out the one [`Action`], wakes it at
//! [`Machine::wake_ms`], and asks it what to publish ([`Machine::view`]) and what to tell those
//! who reported a dead token ([`Machine::settle`]). All times are of the boot-time clock, in
//! milliseconds.

mod event;

use crate::clock::Share;
use crate::schedule;

pub use event::{Action, Event, Facts, Failure, Outcome, Policy, Settlement, Token, View};

/// The longest wait between two tries, in milliseconds.
pub const MAX_BACKOFF_MS: u64 = 300_000;

/// The shortest wait between two tries, in milliseconds.
pub const MIN_BACKOFF_MS: u64 = 250;

/// The range from which the wait between two tries is drawn, at the least, however soon the token
/// expires, in milliseconds.
const HURRIED_MS: u64 = 1_000;

/// How long after an exchange without an answer the same refresh token may be tried again, in
/// milliseconds. Providers that forgive a repeated use at all do so for about as long.
pub const UNANSWERED_MS: u64 = 60_000;

/// The longest wait between two tries while an exchange is unanswered, in milliseconds, so that
/// the next falls within [`UNANSWERED_MS`].
const MAX_UNANSWERED_BACKOFF_MS: u64 = 30_000;

/// How old a token must be before a rejection refreshes it, in milliseconds: a token a few hundred
/// milliseconds old has been refused by an API that did not know it yet.
pub const YOUNG_MS: u64 = 1_000;

/// How many refreshes rejections can cause within [`REJECTIONS_MS`].
pub const MAX_REJECTIONS: usize = 5;

/// The time in which rejections are counted, in milliseconds.
pub const REJECTIONS_MS: u64 = 60_000;

/// Why an exchange is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Schedule,
    Rejection,
    Retry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// There is nothing to refresh, or its time has not come.
    Waiting { due_ms: Option<u64>, cause: Cause },
    /// An exchange is under way.
    Exchanging,
    /// The refresh token is dead.
    Dead { reason: String },
}

/// The machine of one credential.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    facts: Option<Facts>,
    phase: Phase,
    /// Failures in a row, and the last one's class.
    failures: u32,
    class: String,
    last_exchange_ms: Option<u64>,
    rejections_ms: Vec<u64>,
    /// Whether the last exchange was begun for a token that was refused.
    rejected: bool,
}

impl Machine {
    /// A machine that knows no grant yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            facts: None,
            phase: Phase::Waiting { due_ms: None, cause: Cause::Schedule },
            failures: 0,
            class: String::new(),
            last_exchange_ms: None,
            rejections_ms: Vec::new(),
            rejected: false,
        }
    }

    /// Takes another policy, and plans anew what is only scheduled.
    pub fn adopt(&mut self, policy: Policy, now_ms: u64, share: Share) {
        self.policy = policy;
        if let Phase::Waiting { cause: Cause::Schedule, .. } = self.phase {
            self.plan(now_ms, share);
        }
    }

    /// Takes in what happened at `now_ms`; `share` spreads what follows in time.
    pub fn advance(&mut self, event: Event, now_ms: u64, share: Share) -> Option<Action> {
        match event {
            Event::Stored(facts) => self.learn(facts, now_ms, share),
            Event::Exchanged(outcome) => self.conclude(outcome, now_ms, share),
            Event::Rejected { generation } => self.reject(generation, now_ms),
            Event::Doubted => self.hurry(now_ms),
            Event::Tick => {}
        }
        self.begin(now_ms)
    }

    /// When to send the next [`Event::Tick`] at the latest, as of `now_ms`.
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let due = self.due_ms();
        let expiry = self.token().map(|token| token.life.expires_ms).filter(|&at| at > now_ms);
        due.into_iter().chain(expiry).min()
    }

    /// When the grant is spent next, as far as that is known.
    pub fn due_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { due_ms, .. } => due_ms,
            Phase::Exchanging | Phase::Dead { .. } => None,
        }
    }

    /// Whether the last exchange was begun for a token that was refused.
    pub fn was_rejected(&self) -> bool {
        self.rejected
    }

    /// What to publish at `now_ms`. A token that is valid is never withdrawn, whatever has become
    /// of the grant.
    pub fn view(&self, now_ms: u64) -> View {
        let Some(facts) = &self.facts else {
            return View::LoginRequired { reason: "never_logged_in".to_owned() };
        };
        if facts.token.is_some_and(|token| now_ms < token.life.expires_ms) {
            return View::Ready;
        }
        let reason = if self.class.is_empty() { "token_expired" } else { &self.class };
        let unavailable = |retry_ms| View::Unavailable { reason: reason.to_owned(), retry_ms };
        match &self.phase {
            Phase::Dead { reason } => View::LoginRequired { reason: reason.clone() },
            // Most take less than a second.
            Phase::Exchanging => unavailable(self.last_exchange_ms.unwrap_or(now_ms) + 1000),
            Phase::Waiting { due_ms, .. } => unavailable(due_ms.unwrap_or(now_ms).max(now_ms)),
        }
    }

    /// What to tell those who reported the token of `generation`.
    pub fn settle(&self, generation: u64, now_ms: u64) -> Settlement {
        let wait = |until_ms: u64| Settlement::Unavailable {
            retry_after_s: until_ms.saturating_sub(now_ms).div_ceil(1000).max(1),
        };
        if self.token().is_some_and(|token| token.generation > generation) {
            return Settlement::Replaced;
        }
        match &self.phase {
            _ if self.facts.is_none() => Settlement::LoginRequired,
            Phase::Dead { .. } => Settlement::LoginRequired,
            Phase::Exchanging | Phase::Waiting { cause: Cause::Rejection, .. } => {
                Settlement::Pending
            }
            Phase::Waiting { due_ms, cause: Cause::Retry } => wait(due_ms.unwrap_or(now_ms)),
            // Only the limit on rejections leaves one unheeded.
            Phase::Waiting { due_ms, cause: Cause::Schedule } => {
                let free = self.rejections_ms.first().map(|first| first + REJECTIONS_MS);
                wait(free.into_iter().chain(*due_ms).min().unwrap_or(now_ms))
            }
        }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether there is no grant, or a dead one: a valid token serves on, but has no successor.
    pub fn needs_login(&self) -> bool {
        self.facts.is_none() || matches!(self.phase, Phase::Dead { .. })
    }

    /// Whether an exchange is under way.
    pub fn is_exchanging(&self) -> bool {
        self.phase == Phase::Exchanging
    }

    fn token(&self) -> Option<Token> {
        self.facts.as_ref().and_then(|facts| facts.token)
    }

    fn learn(&mut self, facts: Option<Facts>, now_ms: u64, share: Share) {
        let known = self.facts.as_ref().map(|known| known.generation);
        if facts.as_ref().is_some_and(|facts| known.is_some_and(|known| facts.generation < known)) {
            return;
        }
        let same = facts == self.facts;
        self.facts = facts;
        // Whoever is told of a new grant during an exchange still waits for its end: two
        // exchanges at once would be one too many.
        if !same && !self.is_exchanging() {
            self.failures = 0;
            self.class.clear();
            self.plan(now_ms, share);
        }
    }

    fn conclude(&mut self, outcome: Outcome, now_ms: u64, share: Share) {
        if !self.is_exchanging() {
            return;
        }
        self.phase = Phase::Waiting { due_ms: None, cause: Cause::Schedule };
        match outcome {
            Outcome::Renewed(facts) => {
                let known = self.facts.as_ref().map_or(0, |known| known.generation);
                if facts.generation >= known {
                    self.facts = Some(facts);
                }
                self.failures = 0;
                self.class.clear();
                self.plan(now_ms, share);
            }
            Outcome::Failed(failure) => self.back_off(failure, now_ms, share),
            Outcome::Terminal { reason } => {
                if let Some(facts) = &mut self.facts {
                    facts.verdict = Some(reason);
                }
                self.plan(now_ms, share);
            }
        }
    }

    /// Exponential backoff with full jitter, so that many refreshers that failed together do not
    /// come back together. While a token is valid, another try falls within its life: there is one
    /// after half of what is left of it, at the latest.
    fn back_off(&mut self, failure: Failure, now_ms: u64, share: Share) {
        self.failures = self.failures.saturating_add(1);
        self.class = failure.class;
        let unanswered = self.facts.as_mut().is_some_and(|facts| {
            facts.unanswered = failure.unanswered;
            facts.unanswered
        });
        let cap = if unanswered { MAX_UNANSWERED_BACKOFF_MS } else { MAX_BACKOFF_MS };
        let left = self.token().map(|token| token.life.expires_ms.saturating_sub(now_ms));
        let half = left.filter(|&left| left > 0).map_or(cap, |left| (left / 2).max(HURRIED_MS));
        let range = 1_000_u64.saturating_mul(1 << self.failures.min(20)).min(cap).min(half);
        let asked = failure.retry_after_s.unwrap_or(0).saturating_mul(1000).min(cap);
        let pause = share.times(range).max(asked).max(MIN_BACKOFF_MS);
        let due_ms = self.facts.as_ref().map(|_| now_ms.saturating_add(pause));
        self.phase = Phase::Waiting { due_ms, cause: Cause::Retry };
    }

    /// Decides from the grant alone what comes next.
    fn plan(&mut self, now_ms: u64, share: Share) {
        let Some(facts) = &self.facts else {
            self.phase = Phase::Waiting { due_ms: None, cause: Cause::Schedule };
            return;
        };
        if let Some(reason) = &facts.verdict {
            self.phase = Phase::Dead { reason: reason.clone() };
            return;
        }
        let due_ms = match facts.token {
            // Now or not at all: its time runs out.
            _ if facts.unanswered => now_ms,
            None => self.spaced(now_ms),
            Some(token) => self.spaced(schedule::due(token.life, self.policy.window_s, share)),
        };
        self.phase = Phase::Waiting { due_ms: Some(due_ms), cause: Cause::Schedule };
    }

    /// Not sooner than the spacing allows, whatever life a provider gives its tokens. The first
    /// exchange of a process is not held back: after a restart somebody waits for it.
    fn spaced(&self, due_ms: u64) -> u64 {
        let last = self.last_exchange_ms;
        last.map_or(due_ms, |last| due_ms.max(last.saturating_add(self.policy.spacing_ms)))
    }

    fn reject(&mut self, generation: u64, now_ms: u64) {
        let Some(token) = self.token().filter(|token| token.generation <= generation) else {
            return;
        };
        let Phase::Waiting { cause: Cause::Schedule, .. } = self.phase else {
            return;
        };
        self.rejections_ms.retain(|&at| now_ms.saturating_sub(at) < REJECTIONS_MS);
        if self.rejections_ms.len() < MAX_REJECTIONS {
            self.rejections_ms.push(now_ms);
            let due_ms = now_ms.max(token.life.obtained_ms.saturating_add(YOUNG_MS));
            self.phase = Phase::Waiting { due_ms: Some(due_ms), cause: Cause::Rejection };
        }
    }

    /// Brings a scheduled exchange forward, as far as the spacing allows.
    fn hurry(&mut self, now_ms: u64) {
        if let Phase::Waiting { due_ms: Some(due_ms), cause: Cause::Schedule } = self.phase {
            let due_ms = Some(due_ms.min(self.spaced(now_ms)));
            self.phase = Phase::Waiting { due_ms, cause: Cause::Schedule };
        }
    }

    fn begin(&mut self, now_ms: u64) -> Option<Action> {
        match self.phase {
            Phase::Waiting { due_ms: Some(due_ms), cause } if due_ms <= now_ms => {
                self.rejected = cause == Cause::Rejection;
                self.phase = Phase::Exchanging;
                self.last_exchange_ms = Some(now_ms);
                Some(Action::Exchange)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
