//! The way out: the bundle, the ways on which filters fetch it, and the files of Envoy's own secrets.

pub mod exposition;
pub mod health;
pub mod metrics;
pub mod names;
pub mod remote;
pub mod sds;
pub mod server;
pub mod socket;
pub mod tls;
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
use sds::{SETTLED_MS, Secrets};

/// Of how many bundles it is remembered when they were published.
const REMEMBERED: usize = 64;

/// A bundle as it goes over the socket.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The bundle's generation; 0 before the first.
    pub generation: u64,
    /// The bundle, JSON.
    pub document: Bytes,
    /// The same without the tokens, where they come to Envoy as secrets of its own.
    pub without_tokens: Bytes,
    /// When Envoy has had the time to see these secrets, on the boot-time clock.
    pub settled_ms: u64,
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
    secrets: Option<Secrets>,
    /// When the certificate for Envoys elsewhere expires, in Unix seconds.
    certificate_not_after: Option<u64>,
}

impl Publisher {
    /// A publisher whose generations continue those that `generation_file` remembers, and whose
    /// bundles let this probe in.
    pub fn new(generation_file: PathBuf, probe: Option<ClientKey>) -> Self {
        let remembered = store::peek_bytes(&generation_file).ok().flatten();
        let text = remembered.as_deref().and_then(|bytes| str::from_utf8(bytes).ok());
        let generation = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let inner = Inner {
            generation,
            generation_file,
            credentials: BTreeMap::new(),
            statuses: BTreeMap::new(),
            client_keys: None,
            probe,
            history: VecDeque::new(),
            config_alarm: None,
            secrets: None,
            certificate_not_after: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)), published: watch::Sender::default() }
    }

    /// From now on tokens are written as secrets of Envoy's own, too.
    pub fn write_secrets(&self, secrets: Secrets) {
        self.lock().secrets = Some(secrets);
    }

    /// Empties the secrets of credentials that there are no more.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn empty_other_secrets(&self) -> Result<(), store::Error> {
        self.lock().secrets.as_mut().map_or(Ok(()), Secrets::empty_others)
    }

    /// Takes the state of a credential, and publishes a new bundle if it differs from the published
    /// one.
    pub fn update(&self, name: &str, credential: Credential, mut status: Status, now: Now) {
        let mut inner = self.lock();
        // A token is in its file before the bundle says that it is in force.
        let written = inner.secrets.as_mut().map(|secrets| secrets.write(name, &credential));
        let failed = written.and_then(Result::err).map(|error| chain::line(&error));
        if let Some(alarm) = &failed {
            let known = inner.statuses.get(name).and_then(|status| status.alarm.as_ref());
            if known != Some(alarm) {
                tracing::error!(credential = %name, error = %alarm, "the secret cannot be written");
            }
            status.alarm.get_or_insert_with(|| alarm.clone());
        }
        inner.statuses.insert(name.to_owned(), status);
        let token = match &credential {
            // What was published before is what the file has; it ends with that token.
            Credential::Ready(_) if failed.is_some() => return,
            Credential::Ready(token) => token.generation,
            _ => 0,
        };
        if inner.credentials.get(name) == Some(&credential) {
            return;
        }
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
        let withheld = inner.secrets.as_ref().map(|_| bundle.without_tokens());
        let without_tokens = withheld.map(|bundle| serde_json::to_vec(&bundle).unwrap_or_default());
        let published = Published {
            generation: inner.generation,
            document,
            without_tokens: without_tokens.unwrap_or_default().into(),
            // Only where there is a token of which Envoy may not know yet.
            settled_ms: if least == 0 { 0 } else { now.boot_ms.saturating_add(SETTLED_MS) },
        };
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

    /// Takes note of when the certificate expires that Envoys elsewhere are shown, in Unix seconds.
    pub fn show_certificate(&self, not_after: u64) {
        self.lock().certificate_not_after = Some(not_after);
    }

    /// What is wrong with that certificate at `unix`, in Unix seconds.
    pub fn certificate_alarm(&self, unix: u64) -> Option<String> {
        let expired = self.lock().certificate_not_after.is_some_and(|not_after| unix >= not_after);
        let alarm = "publish.certificate: has expired, so that Envoys elsewhere get no newer token";
        expired.then(|| alarm.to_owned())
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
