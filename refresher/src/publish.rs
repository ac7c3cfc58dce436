//! The way out: the bundle, and the unix socket on which filters fetch it.

pub mod health;
pub mod server;
pub mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use filter::bundle::{Bundle, Credential};
use filter::client::ClientKey;
use tokio::sync::watch;

use crate::{chain, store};
use health::Status;

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
}

impl Publisher {
    /// A publisher whose generations continue those that `generation_file` remembers.
    pub fn new(generation_file: PathBuf) -> Self {
        let remembered = std::fs::read_to_string(&generation_file).ok();
        let generation = remembered.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let inner = Inner {
            generation,
            generation_file,
            credentials: BTreeMap::new(),
            statuses: BTreeMap::new(),
            client_keys: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), published: watch::Sender::default() }
    }

    /// Takes the state of a credential, and publishes a new bundle at `unix_ms` if it differs from
    /// the published one.
    pub fn update(&self, name: &str, credential: Credential, status: Status, unix_ms: u64) {
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
        self.publish(&mut inner, unix_ms.max(token));
    }

    /// Takes the client keys; with a list, even an empty one, a key is required. Publishes a new
    /// bundle at `unix_ms` if they differ from the published ones.
    pub fn require(&self, client_keys: Option<Vec<ClientKey>>, unix_ms: u64) {
        let mut inner = self.lock();
        if inner.client_keys == client_keys {
            return;
        }
        inner.client_keys = client_keys;
        // The first bundle is that of the first credential.
        if !inner.credentials.is_empty() {
            self.publish(&mut inner, unix_ms);
        }
    }

    fn publish(&self, inner: &mut Inner, least: u64) {
        inner.generation = least.max(inner.generation.saturating_add(1));
        let text = inner.generation.to_string();
        if let Err(error) = store::replace_private(&inner.generation_file, text.as_bytes()) {
            // The wall clock alone carries the generation over a restart then.
            tracing::warn!(error = %chain::line(&error), "the bundle's generation could not be stored");
        }
        let bundle =
            Bundle::new(inner.generation, inner.credentials.clone(), inner.client_keys.clone());
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

    /// The credentials' states, by name.
    pub fn statuses(&self) -> BTreeMap<String, Status> {
        self.lock().statuses.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below the lock is complete before anything can fail.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
