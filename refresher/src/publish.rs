//! The way out: the bundle, and the unix socket on which filters fetch it.

pub mod exposition;
pub mod health;
pub mod metrics;
pub mod server;
pub mod socket;
pub mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use filter::bundle::{Bundle, Credential};
use filter::client::ClientKey;
use tokio::sync::watch;

use crate::clock::Now;
use crate::{chain, store};
use health::Status;

/// Of how many bundles it is remembered when they were published.
const REMEMBERED: usize = 64;

/// A bundle as it goes over the socket.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The bundle's generation; 0 before the first.
    pub generation: u64,
    /// The bundle, JSON.
    pub document: Bytes,
}

/// Collects the credentials' states and the client keys, and publishes a bundle whenever one of them
/// changes.
#[derive(Clone, Debug)]
pub struct Publisher {
    inner: Arc<Mutex<Inner>>,
    published: watch::Sender<Published>,
}

#[derive(Debug)]
struct Inner {
    generation: u64,
    generation_file: PathBuf,
    credentials: BTreeMap<String, Credential>,
    statuses: BTreeMap<String, Status>,
    client_keys: Option<Vec<ClientKey>>,
    probe: Option<ClientKey>,
    /// The latest generations, and when they were published on the boot-time clock.
    history: VecDeque<(u64, u64)>,
    config_alarm: Option<String>,
}

impl Publisher {
    /// A publisher whose generations continue those that `generation_file` remembers, and whose
    /// bundles let this probe in.
    pub fn new(generation_file: PathBuf, probe: Option<ClientKey>) -> Self {
        let remembered = std::fs::read_to_string(&generation_file).ok();
        let generation = remembered.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let inner = Inner {
            generation,
            generation_file,
            credentials: BTreeMap::new(),
            statuses: BTreeMap::new(),
            client_keys: None,
            probe,
            history: VecDeque::new(),
            config_alarm: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), published: watch::Sender::default() }
    }

    /// Takes the state of a credential, and publishes a new bundle if it differs from the published
    /// one.
    pub fn update(&self, name: &str, credential: Credential, status: Status, now: Now) {
        let mut inner = self.lock();
        inner.statuses.insert(name.to_owned(), status);
        if inner.credentials.get(name) == Some(&credential) {
            return;
        }
        let token = match &credential {
            Credential::Ready(token) => token.generation,
            _ => 0,
        };
        inner.credentials.insert(name.to_owned(), credential);
        self.publish(&mut inner, token, now);
    }

    /// Takes the client keys; with a list, even an empty one, a key is required. Publishes a new
    /// bundle if they differ from the published ones.
    pub fn require(&self, client_keys: Option<Vec<ClientKey>>, now: Now) {
        let mut inner = self.lock();
        if inner.client_keys == client_keys {
            return;
        }
        inner.client_keys = client_keys;
        // The first bundle is that of the first credential.
        if !inner.credentials.is_empty() {
            self.publish(&mut inner, 0, now);
        }
    }

    fn publish(&self, inner: &mut Inner, least: u64, now: Now) {
        inner.generation = now.unix_ms.max(least).max(inner.generation.saturating_add(1));
        let text = inner.generation.to_string();
        if let Err(error) = store::replace_private(&inner.generation_file, text.as_bytes()) {
            // The wall clock alone carries the generation over a restart then.
            tracing::warn!(error = %chain::line(&error), "the bundle's generation could not be stored");
        }
        inner.history.truncate(REMEMBERED - 1);
        inner.history.push_front((inner.generation, now.boot_ms));
        let mut bundle =
            Bundle::new(inner.generation, inner.credentials.clone(), inner.client_keys.clone());
        bundle.probe.clone_from(&inner.probe);
        // String keys and no floats: it always serializes.
        let document = serde_json::to_vec(&bundle).unwrap_or_default().into();
        let published = Published { generation: inner.generation, document };
        tracing::debug!(generation = published.generation, "bundle published");
        self.published.send_replace(published);
    }

    /// The latest bundle, and word of every newer one.
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// When the bundle of a generation was published, on the boot-time clock, if it is one of the
    /// latest of this process.
    pub fn published_ms(&self, generation: u64) -> Option<u64> {
        let inner = self.lock();
        inner.history.iter().find_map(|(known, at)| (*known == generation).then_some(*at))
    }

    /// Says why a changed configuration is not in force; nothing once it is.
    pub fn raise_config_alarm(&self, alarm: Option<String>) {
        self.lock().config_alarm = alarm;
    }

    /// Why a changed configuration is not in force, while that is so.
    pub fn config_alarm(&self) -> Option<String> {
        self.lock().config_alarm.clone()
    }

    /// The credentials' states, by name.
    pub fn statuses(&self) -> BTreeMap<String, Status> {
        self.lock().statuses.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below the lock is complete before anything can fail.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
