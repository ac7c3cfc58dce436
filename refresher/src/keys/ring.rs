//! The client keys that were made by command, and what a change does to them.

use filter::client::{ClientId, ClientKey, Digest, Proof};
use serde::{Deserialize, Serialize};

/// The version of the document that this release reads and writes.
pub const VERSION: u64 = 1;

/// How many keys are kept, expired ones included.
pub const MAX_KEYS: usize = 1000;

/// How much room they may take in a bundle, in bytes: half of what a filter reads.
pub const MAX_BYTES: usize = filter::bundle::MAX_BYTES / 2;

/// How long an expired key is still kept and listed, in seconds.
pub const KEPT_S: u64 = 30 * 86_400;

/// One client key and its making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When it was made, in Unix seconds.
    pub made_at: u64,
    /// What it is good for.
    pub key: ClientKey,
}

/// All keys that were made by command, the newest last. A client has several while one replaces
/// the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    entries: Vec<Entry>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name is one client's.
    #[error("there is a client key {name} already; \"refresher keys rotate {name}\" replaces it")]
    Exists {
        /// The name.
        name: String,
    },
    /// The same, of a certificate.
    #[error(
        "there is a client {name} already, with a certificate; \"refresher keys revoke {name}\" first"
    )]
    CertificateExists {
        /// The name.
        name: String,
    },
    /// Two clients with one key could not be told apart, and revoking one would not end the other.
    #[error("this is the key of client {name} already; accepted: a key of its own for each client")]
    Taken {
        /// Whose key it is.
        name: String,
    },
    /// There is no such name.
    #[error("there is no client key {name} to change; \"refresher keys list\" shows all")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A certificate is not ours to replace.
    #[error("client {name} shows a certificate, which is replaced by whoever issues it")]
    Certificate {
        /// The name.
        name: String,
    },
    /// Keys of the configuration are changed where they stand.
    #[error("client key {name} stands in {place}: change it there")]
    Configured {
        /// The name.
        name: String,
        /// Where it stands.
        place: &'static str,
    },
    /// Too many.
    #[error("there are {MAX_KEYS} client keys, and no more are kept; revoke some first")]
    Full,
    /// Too large.
    #[error(
        "all client keys together would take more than {MAX_BYTES} bytes; accepted: fewer or shorter paths and models"
    )]
    TooLarge,
}

/// Why bytes are no ring.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Of another version.
    Version(u64),
    /// Of another shape, or beyond the bounds.
    Shape,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u64,
    keys: Vec<Entry>,
}

impl Ring {
    /// Reads a ring.
    ///
    /// # Errors
    ///
    /// See [`Unreadable`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|_| Unreadable::Shape)?;
        if head.version != VERSION {
            return Err(Unreadable::Version(head.version));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|_| Unreadable::Shape)?;
        let ring = Self { entries: wire.keys };
        if ring.entries.len() > MAX_KEYS || !ring.fits() {
            return Err(Unreadable::Shape);
        }
        Ok(ring)
    }

    /// The ring as a document. Without white space, so that it is hardly larger than the keys.
    pub fn document(&self) -> Vec<u8> {
        let wire = Wire { version: VERSION, keys: self.entries.clone() };
        // String keys and no floats: it always serializes.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// All entries, the newest last.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All keys, as a bundle has them.
    pub fn keys(&self) -> Vec<ClientKey> {
        self.entries.iter().map(|entry| entry.key.clone()).collect()
    }

    /// Adds a key that is made at `now`, in Unix seconds.
    ///
    /// # Errors
    ///
    /// See [`Refused`]. The ring may have changed by then and must not be kept.
    pub fn add(&mut self, key: ClientKey, now: u64) -> Result<(), Refused> {
        let name = || key.id.as_str().to_owned();
        if let Some(known) = self.of(&key.id).next() {
            return Err(match known.key.proof {
                Proof::Key(_) => Refused::Exists { name: name() },
                Proof::Certificate(_) => Refused::CertificateExists { name: name() },
            });
        }
        self.push(key, now)
    }

    /// Ends all keys of a client. Answers how many there were.
    ///
    /// # Errors
    ///
    /// [`Refused::Unknown`].
    pub fn revoke(&mut self, name: &ClientId) -> Result<usize, Refused> {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.key.id != *name);
        match before - self.entries.len() {
            0 => Err(Refused::Unknown { name: name.as_str().to_owned() }),
            ended => Ok(ended),
        }
    }

    /// Gives a client another key, with the restrictions and the length of life of its newest one,
    /// and lets the ones that it has hold for `overlap_s` seconds from `now` at most. Answers the
    /// new key.
    ///
    /// # Errors
    ///
    /// See [`Refused`]. The ring may have changed by then and must not be kept.
    pub fn rotate(
        &mut self,
        name: &ClientId,
        digest: Digest,
        overlap_s: u64,
        now: u64,
    ) -> Result<ClientKey, Refused> {
        let newest = self.of(name).last().cloned();
        let newest = newest.ok_or_else(|| Refused::Unknown { name: name.as_str().to_owned() })?;
        let Entry { made_at, mut key } = newest;
        if let Proof::Certificate(_) = key.proof {
            return Err(Refused::Certificate { name: name.as_str().to_owned() });
        }
        let end = now.saturating_add(overlap_s).max(1);
        for entry in self.entries.iter_mut().filter(|entry| entry.key.id == *name) {
            let not_after = &mut entry.key.not_after;
            *not_after = if *not_after == 0 { end } else { end.min(*not_after) };
        }
        key.proof = Proof::Key(digest);
        if key.not_after != 0 {
            key.not_after = now.saturating_add(key.not_after.saturating_sub(made_at)).max(1);
        }
        self.push(key.clone(), now)?;
        Ok(key)
    }

    /// Drops what has been expired for [`KEPT_S`] at `now`.
    pub fn prune(&mut self, now: u64) {
        let kept =
            |key: &ClientKey| key.not_after == 0 || key.not_after.saturating_add(KEPT_S) > now;
        self.entries.retain(|entry| kept(&entry.key));
    }

    fn of(&self, name: &ClientId) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.key.id == *name)
    }

    fn push(&mut self, key: ClientKey, now: u64) -> Result<(), Refused> {
        if let Some(owner) = self.entries.iter().find(|entry| entry.key.proof == key.proof) {
            return Err(Refused::Taken { name: owner.key.id.as_str().to_owned() });
        }
        if self.entries.len() >= MAX_KEYS {
            self.drop_expired(now)?;
        }
        self.entries.push(Entry { made_at: now, key });
        if self.fits() { Ok(()) } else { Err(Refused::TooLarge) }
    }

    /// Makes room for one: what has been expired the longest is the least worth listing.
    fn drop_expired(&mut self, now: u64) -> Result<(), Refused> {
        let ends = |(_, entry): &(usize, &Entry)| entry.key.not_after;
        let expired = self.entries.iter().enumerate().filter(|it| (1..=now).contains(&ends(it)));
        let (oldest, _) = expired.min_by_key(ends).ok_or(Refused::Full)?;
        self.entries.remove(oldest);
        Ok(())
    }

    fn fits(&self) -> bool {
        super::size(self.entries.iter().map(|entry| &entry.key)) <= MAX_BYTES
    }
}

#[cfg(test)]
mod tests;
