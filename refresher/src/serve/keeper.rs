//! The keeper of one credential: runs its rotation machine against the clock, the store and the
//! provider, and publishes what comes of it.

mod report;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use filter::bundle::Credential;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::chain;
use crate::clock::{self, Clock, Now};
use crate::config::Config;
use crate::publish::Publisher;
use crate::publish::health::{Refreshes, Rejections};
use crate::rotation::{Event, Facts, Machine, Outcome, Policy, Settlement, Token};
use crate::serve::desk::Command;
use crate::serve::exchange::{self, Conclusion, Terms};
use crate::store::{Grant, PATIENCE, Stamp, Store};

/// The longest sleep: how soon a login by another process, a jump of the wall clock, or the end of
/// a suspension is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How far the wall clock may stray from the boot-time clock before expiries are told anew, in
/// seconds.
const MAX_SKEW_S: u64 = 5;

/// The keeper of one credential.
#[derive(Debug)]
pub struct Keeper {
    name: String,
    store: Arc<Store>,
    terms: Terms,
    publisher: Publisher,
    machine: Machine,
    policy: Policy,
    grant: Option<Grant>,
    /// Whether the grant came from the provider in this process, so that its expiry is known on
    /// the boot-time clock and not only on the wall clock.
    fresh: bool,
    /// The grant is newer than the store's, which could not be written.
    unsaved: bool,
    stamp: Option<Stamp>,
    alarm: Option<String>,
    refreshes: Refreshes,
    rejections: Rejections,
    waiting: Vec<(u64, oneshot::Sender<Settlement>)>,
    exchange: Option<JoinHandle<Conclusion>>,
    /// The token's life as it was when its generation was first seen. The boot-time clock rules
    /// from then on, however the wall clock jumps.
    token: Option<Token>,
    /// The generation of the token whose life a jump of the wall clock has made doubtful.
    doubted: u64,
    published: Option<Credential>,
}

impl Keeper {
    /// A keeper that has not looked at its store yet.
    pub fn new(
        name: &str,
        store: Store,
        config: &Config,
        publisher: Publisher,
        clock: Clock,
    ) -> Self {
        Self {
            name: name.to_owned(),
            store: Arc::new(store),
            terms: Terms { provider: config.provider.clone(), clock, patience: PATIENCE },
            publisher,
            machine: Machine::new(policy(config)),
            policy: policy(config),
            grant: None,
            fresh: false,
            unsaved: false,
            stamp: None,
            alarm: None,
            refreshes: Refreshes::default(),
            rejections: Rejections::default(),
            waiting: Vec::new(),
            exchange: None,
            token: None,
            doubted: 0,
            published: None,
        }
    }

    /// Keeps the credential until told to stop; an exchange under way is finished first.
    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut config: watch::Receiver<Arc<Config>>,
        mut stopping: watch::Receiver<bool>,
    ) {
        loop {
            let pause = self.pause(self.terms.clock.now());
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(command) = commands.recv() => {
                    self.obey(command, self.terms.clock.now());
                }
                conclusion = ended(&mut self.exchange) => {
                    self.exchange = None;
                    self.conclude(conclusion, self.terms.clock.now());
                }
                Ok(()) = config.changed() => {
                    let config = config.borrow_and_update().clone();
                    self.configure(&config, self.terms.clock.now());
                }
                () = tokio::time::sleep(pause) => self.look(self.terms.clock.now()),
            }
        }
        if let Some(exchange) = self.exchange.take() {
            tracing::info!(credential = %self.name, "finishing the exchange under way");
            let conclusion = exchange.await.ok();
            self.conclude(conclusion, self.terms.clock.now());
        }
        if self.unsaved {
            self.save().await;
        }
    }

    /// Puts another configuration in force. What is known of the grant stays, and an exchange under
    /// way ends as it began.
    fn configure(&mut self, config: &Config, now: Now) {
        if self.terms.provider != config.provider {
            self.terms.provider = config.provider.clone();
            // Whether the grant is of this provider and client is to be judged anew.
            self.stamp = None;
        }
        let policy = policy(config);
        if policy != self.policy {
            self.policy = policy;
            self.machine.adopt(policy, now.boot_ms, clock::share());
        }
        self.feed(Event::Tick, now);
    }

    fn tell_machine(&mut self, now: Now) {
        let facts = self.grant.as_ref().map(|grant| {
            let intent = self.store.intent(grant);
            grant.facts(intent.is_ok_and(|intent| intent.is_some()), now)
        });
        let facts = facts.map(|facts| self.time(facts));
        self.feed(Event::Stored(facts), now);
    }

    /// Keeps the life of a token that is known already: what the wall clock says of it now may be
    /// wrong.
    fn time(&mut self, mut facts: Facts) -> Facts {
        if let (Some(known), Some(token)) = (self.token, &mut facts.token)
            && known.generation == token.generation
        {
            *token = known;
        }
        self.token = facts.token;
        facts
    }

    fn feed(&mut self, event: Event, now: Now) {
        let action = self.machine.advance(event, now.boot_ms, clock::share());
        if let (Some(_exchange), Some(grant)) = (action, &self.grant) {
            tracing::debug!(credential = %self.name, "refreshing");
            self.rejections.attempts += u64::from(self.machine.was_rejected());
            let (store, terms) = (self.store.clone(), self.terms.clone());
            let run = exchange::run(store, terms, grant.clone(), self.unsaved);
            self.exchange = Some(tokio::spawn(run));
        }
        self.publish(now);
        self.settle(now);
    }

    fn obey(&mut self, command: Command, now: Now) {
        match command {
            Command::Reload => self.look(now),
            Command::Reject { generation, reply } => {
                self.waiting.push((generation, reply));
                self.feed(Event::Rejected { generation }, now);
            }
        }
    }

    /// What is due each second.
    fn look(&mut self, now: Now) {
        // An exchange under way reads and writes the store itself.
        if self.exchange.is_none() {
            if self.store.stamp() != self.stamp {
                self.load(now);
            }
            if self.unsaved {
                self.save_now();
            }
        }
        self.feed(Event::Tick, now);
        self.doubt(now);
    }

    /// A token whose expiry was read off a wall clock that has jumped ahead since may be older
    /// than was thought. It serves on, since the jump may be what is wrong, and is replaced.
    fn doubt(&mut self, now: Now) {
        let (Some(token), Some(expires_at)) = (self.token, self.stored_expiry()) else {
            return;
        };
        let jumped = now.on_boot_clock(expires_at) + MAX_SKEW_S * 1000 < token.life.expires_ms;
        if jumped && !self.fresh && self.doubted != token.generation {
            tracing::warn!(credential = %self.name, "the wall clock has jumped");
            self.doubted = token.generation;
            self.feed(Event::Doubted, now);
        }
    }

    fn stored_expiry(&self) -> Option<u64> {
        Some(self.grant.as_ref()?.token.as_ref()?.expires_at)
    }

    /// When the token expires on the wall clock as it is now, in Unix seconds.
    fn expiry(&self, stored: u64, now: Now) -> u64 {
        let shown = self.token.map_or(stored, |token| now.on_wall_clock(token.life.expires_ms));
        if stored.abs_diff(shown) > MAX_SKEW_S { shown } else { stored }
    }

    fn conclude(&mut self, conclusion: Option<Conclusion>, now: Now) {
        self.stamp = self.store.stamp();
        self.count_rejection(conclusion.as_ref());
        let outcome = match conclusion {
            Some(Conclusion::Renewed { grant, rotated, unsaved }) => {
                self.count(now, Ok(rotated));
                self.note_alarm(unsaved);
                tracing::info!(credential = %self.name, generation = grant.generation, rotated, "refreshed");
                self.renew(*grant, true, now)
            }
            Some(Conclusion::Adopted(grant)) => {
                tracing::info!(credential = %self.name, generation = grant.generation, "newer grant found");
                self.note_alarm(None);
                self.forgive(Some(&grant));
                let grant = self.own(*grant, now);
                self.renew(grant, false, now)
            }
            Some(Conclusion::Gone) => {
                self.grant = None;
                self.feed(Event::Stored(None), now);
                let failure = failure("logged_out");
                Outcome::Failed(failure)
            }
            Some(Conclusion::Failed { failure, grant, alarm }) => {
                self.count(now, Err(&failure.class));
                if let Some(grant) = grant {
                    self.grant = Some(*grant);
                    self.note_alarm(alarm);
                    self.tell_machine(now);
                } else if alarm.is_some() || !self.unsaved {
                    self.alarm = alarm.as_ref().map(|error| chain::line(error));
                }
                Outcome::Failed(failure)
            }
            Some(Conclusion::Terminal { reason, grant }) => {
                self.count(now, Err(&reason));
                tracing::error!(credential = %self.name, %reason, "the grant is dead: log in again");
                self.grant = Some(*grant);
                Outcome::Terminal { reason }
            }
            // Its task panicked; the lock is free again and the note of the intent is on disk.
            None => Outcome::Failed(failure("internal")),
        };
        self.feed(Event::Exchanged(outcome), now);
    }

    fn renew(&mut self, grant: Grant, fresh: bool, now: Now) -> Outcome {
        let facts = self.time(grant.facts(false, now));
        self.fresh = fresh;
        self.grant = Some(grant);
        Outcome::Renewed(facts)
    }

    fn pause(&self, now: Now) -> Duration {
        let due = self.machine.wake_ms(now.boot_ms).map_or(LONGEST_SLEEP, |wake_ms| {
            Duration::from_millis(wake_ms.saturating_sub(now.boot_ms))
        });
        due.clamp(Duration::from_millis(20), LONGEST_SLEEP)
    }

    fn settle(&mut self, now: Now) {
        let waiting = std::mem::take(&mut self.waiting);
        for (generation, reply) in waiting {
            match self.machine.settle(generation, now.boot_ms) {
                Settlement::Pending => self.waiting.push((generation, reply)),
                // A caller that has gone needs no answer.
                settled => drop(reply.send(settled)),
            }
        }
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        window_s: config.rotation.window_s,
        spacing_ms: config.rotation.spacing_s.saturating_mul(1000),
    }
}

fn failure(class: &str) -> crate::rotation::Failure {
    crate::rotation::Failure { class: class.to_owned(), retry_after_s: None, unanswered: false }
}

/// The end of the exchange under way; never, while there is none.
async fn ended(exchange: &mut Option<JoinHandle<Conclusion>>) -> Option<Conclusion> {
    match exchange {
        Some(exchange) => exchange.await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
