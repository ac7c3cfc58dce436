//! The keeper of one credential: runs its rotation machine against the clock, the store and the
//! provider, and publishes what comes of it.

mod report;

use std::sync::Arc;
use std::time::Duration;

use filter::bundle::Credential;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::chain;
use crate::clock::{self, Now};
use crate::config::Config;
use crate::provider::Provider;
use crate::publish::Publisher;
use crate::publish::health::Refreshes;
use crate::rotation::{Event, Machine, Outcome, Policy, Settlement};
use crate::serve::desk::Command;
use crate::serve::exchange::{self, Conclusion};
use crate::store::{Error, Grant, Stamp, Store};

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
    provider: Provider,
    publisher: Publisher,
    machine: Machine,
    grant: Option<Grant>,
    /// Whether the grant came from the provider in this process, so that its expiry is known on
    /// the boot-time clock and not only on the wall clock.
    fresh: bool,
    /// The grant is newer than the store's, which could not be written.
    unsaved: bool,
    stamp: Option<Stamp>,
    alarm: Option<String>,
    refreshes: Refreshes,
    waiting: Vec<(u64, oneshot::Sender<Settlement>)>,
    exchange: Option<JoinHandle<Conclusion>>,
    /// When the token expires on the boot-time clock, in milliseconds.
    expires_ms: u64,
    published: Option<Credential>,
}

impl Keeper {
    /// A keeper that has not looked at its store yet.
    pub fn new(name: &str, store: Store, config: &Config, publisher: Publisher) -> Self {
        let policy = Policy {
            window_s: config.rotation.window_s,
            spacing_ms: config.rotation.spacing_s.saturating_mul(1000),
        };
        Self {
            name: name.to_owned(),
            store: Arc::new(store),
            provider: config.provider.clone(),
            publisher,
            machine: Machine::new(policy),
            grant: None,
            fresh: false,
            unsaved: false,
            stamp: None,
            alarm: None,
            refreshes: Refreshes::default(),
            waiting: Vec::new(),
            exchange: None,
            expires_ms: 0,
            published: None,
        }
    }

    /// Keeps the credential until told to stop; an exchange under way is finished first.
    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut stopping: watch::Receiver<bool>,
    ) {
        loop {
            let pause = self.pause(clock::now());
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(command) = commands.recv() => self.obey(command, clock::now()),
                conclusion = ended(&mut self.exchange) => {
                    self.exchange = None;
                    self.conclude(conclusion, clock::now());
                }
                () = tokio::time::sleep(pause) => self.look(clock::now()),
            }
        }
        if let Some(exchange) = self.exchange.take() {
            tracing::info!(credential = %self.name, "finishing the exchange under way");
            let conclusion = exchange.await.ok();
            self.conclude(conclusion, clock::now());
        }
        if self.unsaved {
            self.save().await;
        }
    }

    /// Reads the stored grant.
    pub fn load(&mut self, now: Now) {
        self.stamp = self.store.stamp();
        match self.store.load(now.unix()) {
            // Our own write is still to come.
            Ok(None) if self.unsaved => {}
            Ok(Some(stored)) if stored.generation < self.held_generation() => self.unsaved = true,
            Ok(Some(stored)) if self.grant.as_ref() == Some(&stored) => {
                self.unsaved = false;
                self.alarm = None;
            }
            Ok(stored) => {
                self.unsaved = false;
                self.alarm = None;
                self.fresh = false;
                self.grant = stored.map(|grant| self.own(grant, now));
            }
            Err(error) => {
                let line = chain::line(&error);
                tracing::error!(credential = %self.name, error = %line, "grant not read");
                self.alarm = Some(line);
                // What we hold is better than what was there.
                self.unsaved |= self.grant.is_some() && matches!(error, Error::Corrupt { .. });
            }
        }
        self.tell_machine(now);
    }

    /// A grant of another provider or client must not be sent to this one.
    fn own(&self, mut grant: Grant, now: Now) -> Grant {
        if grant.client_id.is_empty() {
            grant.client_id.clone_from(&self.provider.client_id);
        }
        if !self.provider.granted(&grant) {
            tracing::error!(credential = %self.name, "the stored grant is of another provider or client");
            grant.verdict =
                Some(crate::store::Verdict { reason: "other_provider".to_owned(), at: now.unix() });
            grant.token = None;
        }
        grant
    }

    fn held_generation(&self) -> u64 {
        self.grant.as_ref().map_or(0, |held| held.generation)
    }

    fn tell_machine(&mut self, now: Now) {
        let facts = self.grant.as_ref().map(|grant| {
            let intent = self.store.intent(&grant.refresh_token.fingerprint());
            grant.facts(intent.is_ok_and(|intent| intent.is_some()), now)
        });
        self.expires_ms =
            facts.as_ref().and_then(|facts| facts.token).map_or(0, |token| token.life.expires_ms);
        self.feed(Event::Stored(facts), now);
    }

    fn feed(&mut self, event: Event, now: Now) {
        let action = self.machine.advance(event, now.boot_ms, clock::share());
        if let (Some(_exchange), Some(grant)) = (action, &self.grant) {
            tracing::debug!(credential = %self.name, "refreshing");
            let run = exchange::run(self.store.clone(), grant.clone(), self.unsaved);
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
        if self.has_strayed(now) && !self.fresh && self.exchange.is_none() {
            tracing::warn!(credential = %self.name, "the wall clock has jumped");
            self.tell_machine(now);
        }
        self.feed(Event::Tick, now);
    }

    fn has_strayed(&self, now: Now) -> bool {
        let stored = self.grant.as_ref().and_then(|grant| grant.token.as_ref());
        stored.is_some_and(|token| {
            token.expires_at.abs_diff(now.on_wall_clock(self.expires_ms)) > MAX_SKEW_S
        })
    }

    fn conclude(&mut self, conclusion: Option<Conclusion>, now: Now) {
        self.stamp = self.store.stamp();
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
        let facts = grant.facts(false, now);
        self.expires_ms = facts.token.map_or(0, |token| token.life.expires_ms);
        self.fresh = fresh;
        self.grant = Some(grant);
        Outcome::Renewed(facts)
    }

    fn note_alarm(&mut self, unsaved: Option<Error>) {
        self.unsaved = unsaved.is_some();
        self.alarm = unsaved.as_ref().map(|error| chain::line(error));
        if let Some(alarm) = &self.alarm {
            tracing::error!(credential = %self.name, error = %alarm,
                "the new grant is in memory only; writing it is tried again each second");
        }
    }

    /// Writes the grant if the lock is free; else the next second tries again.
    fn save_now(&mut self) {
        let Some(grant) = &self.grant else {
            self.unsaved = false;
            return;
        };
        match self.store.save_now(grant) {
            Ok(true) => {
                tracing::info!(credential = %self.name, "grant stored");
                self.unsaved = false;
                self.alarm = None;
                self.stamp = self.store.stamp();
            }
            Ok(false) => {}
            Err(error) => self.alarm = Some(chain::line(&error)),
        }
    }

    /// The last try before the end.
    async fn save(&mut self) {
        for _ in 0..5 {
            self.save_now();
            if !self.unsaved {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tracing::error!(credential = %self.name, "the grant could not be stored: log in again");
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
