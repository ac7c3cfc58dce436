//! What a keeper has to do with its store: reading, and writing what could not be written at once.

use std::time::Duration;

use super::Keeper;
use crate::chain;
use crate::clock::Now;
use crate::store::{Error, Grant};

impl Keeper {
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
                self.forgive(stored.as_ref());
                self.grant = stored.map(|grant| self.own(grant, now));
            }
            Err(error) => {
                let line = chain::line(&error);
                if self.alarm.as_ref() != Some(&line) {
                    tracing::error!(credential = %self.name, error = %line, "grant not read");
                }
                self.alarm = Some(line);
                // What mends it need not change the file itself: its owner, or room in memory.
                self.stamp = None;
                // What we hold is better than what was there.
                self.unsaved |= self.grant.is_some() && matches!(error, Error::Corrupt { .. });
            }
        }
        self.tell_machine(now);
    }

    /// A failure is news only as long as it is of the grant that is there, or tells of its end.
    pub(super) fn forgive(&mut self, stored: Option<&Grant>) {
        if stored.is_none_or(|grant| grant.verdict.is_none()) {
            self.refreshes.forgive();
        }
    }

    /// A grant of another provider or client must not be sent to this one.
    pub(super) fn own(&self, mut grant: Grant, now: Now) -> Grant {
        if grant.client_id.is_empty() {
            grant.client_id.clone_from(&self.terms.provider.client_id);
        }
        if !self.terms.provider.granted(&grant) {
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

    pub(super) fn note_alarm(&mut self, unsaved: Option<Error>) {
        self.unsaved = unsaved.is_some();
        self.alarm = unsaved.as_ref().map(|error| chain::line(error));
        if let Some(alarm) = &self.alarm {
            tracing::error!(credential = %self.name, error = %alarm,
                "the new grant is in memory only; writing it is tried again each second");
        }
    }

    /// Writes the grant if the lock is free; else the next second tries again.
    pub(super) fn save_now(&mut self) {
        let Some(grant) = &self.grant else {
            self.unsaved = false;
            return;
        };
        match self.store.save_now(grant) {
            Ok(true) => {
                tracing::info!(credential = %self.name, "grant stored");
                self.unsaved = false;
                self.alarm = None;
                // What is there now, ours or a newer one, is still to be read.
                self.stamp = None;
            }
            Ok(false) => {}
            Err(error) => self.alarm = Some(chain::line(&error)),
        }
    }

    /// The last try before the end.
    pub(super) async fn save(&mut self) {
        for _ in 0..5 {
            self.save_now();
            if !self.unsaved {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tracing::error!(credential = %self.name, "the grant could not be stored: log in again");
    }
}
