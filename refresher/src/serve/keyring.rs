//! The client keys that are in force: those of the configuration, and those that were made by
//! command. Every change of the file is published.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filter::client::ClientKey;

use crate::chain;
use crate::clock::Now;
use crate::config::Config;
use crate::keys::{self, KeyFile};
use crate::publish::Publisher;
use crate::store::{self, Stamp};

/// The client keys in force.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: KeyFile,
    publisher: Publisher,
    configured: Vec<ClientKey>,
    /// Those of the file. Once there was one, a key is required until the end of this process,
    /// whatever becomes of the file.
    stored: Option<Vec<ClientKey>>,
    /// The file that needs no further look.
    settled: Option<Stamp>,
    /// Why the file could not be read.
    alarm: Option<String>,
    /// Whether to look at the same file again.
    again: bool,
}

impl Keyring {
    /// Reads the keys for the first time.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be made safe. A file that cannot be read is an alarm, and
    /// closes the gate to the keys in it.
    pub fn open(config: &Config, publisher: Publisher, now: Now) -> Result<Self, store::Error> {
        let mut inner = Inner {
            file: KeyFile::open(&config.state_dir)?,
            publisher,
            configured: config.client_keys.clone(),
            stored: None,
            settled: None,
            alarm: None,
            again: false,
        };
        inner.read(now);
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Takes the keys of another configuration, and publishes them.
    pub fn configure(&self, config: &Config, now: Now) {
        let mut inner = self.lock();
        inner.configured.clone_from(&config.client_keys);
        inner.publish(now);
    }

    /// What is due each second: publishes the keys if the file has changed.
    pub fn look(&self, now: Now) {
        let mut inner = self.lock();
        if inner.again || inner.file.stamp() != inner.settled {
            inner.read(now);
        }
    }

    /// Reads the file, changed or not, and publishes what it says. Answers what is wrong with it.
    pub fn reload(&self, now: Now) -> Option<String> {
        let mut inner = self.lock();
        inner.read(now);
        inner.alarm.clone()
    }

    /// What is wrong with the file, while that is so.
    pub fn alarm(&self) -> Option<String> {
        self.lock().alarm.clone()
    }

    /// Runs a function on the file's path.
    pub fn path<T>(&self, read: impl FnOnce(&Path) -> T) -> T {
        read(self.lock().file.path())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below the lock is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn read(&mut self, now: Now) {
        self.settled = self.file.stamp();
        self.again = false;
        let alarm = match self.file.load(now.unix()) {
            Ok(Some(ring)) => {
                self.stored = Some(ring.keys());
                None
            }
            Ok(None) if self.stored.is_none() => None,
            Ok(None) => {
                self.stored = Some(Vec::new());
                let path = self.file.path().display();
                Some(format!("{path}: was removed; a client key is required until the next start"))
            }
            Err(error) => {
                if let keys::file::Error::Corrupt { .. } = error {
                    self.stored = Some(Vec::new());
                    // An empty one is in its place, which is no reason to forget the alarm.
                    self.settled = self.file.stamp();
                } else {
                    // What was read before may still be right; without it, nobody passes.
                    self.stored.get_or_insert_default();
                    self.again = true;
                }
                Some(chain::line(&error))
            }
        };
        if alarm != self.alarm {
            if let Some(alarm) = &alarm {
                tracing::error!(error = %alarm, "the client keys cannot be read");
            }
            self.alarm = alarm;
        }
        self.publish(now);
    }

    fn publish(&self, now: Now) {
        let none = self.configured.is_empty() && self.stored.is_none();
        let stored = self.stored.iter().flatten();
        let keys = self.configured.iter().chain(stored).cloned().collect();
        self.publisher.require((!none).then_some(keys), now);
    }
}

#[cfg(test)]
mod tests;
