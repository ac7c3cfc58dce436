//! Writing a grant: only with the lock in hand.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::file::{self, Draft};
use super::grant;
use super::{Error, Grant, Store};
use crate::secret::Fingerprint;

/// How long to wait for a lock that another process holds.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// The pause between two looks at a lock that is taken.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// The lock of one credential's grant, shared by all processes; released when dropped.
#[derive(Debug)]
pub struct Lock<'a> {
    store: &'a Store,
    _held: OwnedFd,
}

/// A note, on disk before a refresh token is spent, that it is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which refresh token.
    pub fingerprint: Fingerprint,
    /// The grant's generation. A provider may grant the same refresh token again: a note that a
    /// crash has left behind is not about the grant that came of that exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Since when, in Unix seconds.
    pub at: u64,
}

impl Intent {
    /// The intent to spend this grant's refresh token, at `at`, in Unix seconds.
    pub fn of(grant: &Grant, at: u64) -> Self {
        let fingerprint = grant.refresh_token.fingerprint();
        Self { fingerprint, generation: Some(grant.generation), at }
    }

    fn is_about(&self, grant: &Grant) -> bool {
        self.fingerprint == grant.refresh_token.fingerprint()
            && self.generation.is_none_or(|generation| generation == grant.generation)
    }
}

/// Room on the disk for the next grant.
#[derive(Debug)]
pub struct Reservation(Draft);

impl Store {
    /// Waits for the lock, for at most [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another process keeps it.
    pub async fn lock(&self) -> Result<Lock<'_>, Error> {
        self.lock_within(PATIENCE).await
    }

    /// Waits for the lock, for at most `patience`, but looks at least once.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another process keeps it.
    pub async fn lock_within(&self, patience: Duration) -> Result<Lock<'_>, Error> {
        let tries = (patience.as_millis() / PAUSE.as_millis()).max(1);
        for _ in 0..tries {
            match self.try_lock()? {
                Some(lock) => return Ok(lock),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::Locked { path: self.path.with_file_name(self.lock_name()) })
    }

    /// Writes a grant if the lock is free right now and the store does not have a newer one.
    /// Answers whether the store is up to date after that.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save_now(&self, grant: &Grant) -> Result<bool, Error> {
        let Some(lock) = self.try_lock()? else {
            return Ok(false);
        };
        match self.load(grant.generation / 1000) {
            // A login in the meantime is for the caller to find.
            Ok(Some(stored)) if stored.generation > grant.generation => return Ok(true),
            Ok(_) | Err(Error::Corrupt { .. }) => lock.save(grant)?,
            Err(error) => return Err(error),
        }
        lock.forget()?;
        Ok(true)
    }

    fn try_lock(&self) -> Result<Option<Lock<'_>>, Error> {
        let held = try_flock(&self.directory, &self.lock_name(), &self.path)?;
        Ok(held.map(|held| Lock { store: self, _held: held }))
    }

    fn lock_name(&self) -> String {
        format!("{}.lock", self.name)
    }

    fn intent_name(&self) -> String {
        format!("{}.intent", self.name)
    }

    /// The intent that is on disk, if it is about this grant. An unreadable one is none: it was
    /// written whole, so it is not ours.
    ///
    /// # Errors
    ///
    /// When the file cannot be read safely.
    pub fn intent(&self, grant: &Grant) -> Result<Option<Intent>, Error> {
        let bytes = file::read(&self.directory, &self.intent_name(), &self.path)?;
        let intent = bytes.and_then(|bytes| serde_json::from_slice::<Intent>(&bytes).ok());
        Ok(intent.filter(|intent| intent.is_about(grant)))
    }
}

impl Lock<'_> {
    /// Reserves room for the next grant, before its predecessor is spent.
    ///
    /// # Errors
    ///
    /// When the disk is full or the directory cannot be written to.
    pub fn reserve(&self) -> Result<Reservation, Error> {
        Draft::create(&self.store.directory, &self.store.name, &self.store.path).map(Reservation)
    }

    /// Puts a grant in place of the present one, all or nothing, in the room reserved for it.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the present one is untouched then.
    pub fn commit(&self, reservation: Reservation, grant: &Grant) -> Result<(), Error> {
        let bytes = serialize(grant);
        let Reservation(draft) = reservation;
        draft.commit(&bytes, &self.store.directory, &self.store.name, &self.store.path)
    }

    /// Reserves and commits in one go.
    ///
    /// # Errors
    ///
    /// As [`Self::reserve`] and [`Self::commit`].
    pub fn save(&self, grant: &Grant) -> Result<(), Error> {
        self.commit(self.reserve()?, grant)
    }

    /// Notes that a refresh token is about to be spent.
    ///
    /// # Errors
    ///
    /// When it cannot be noted; then it must not be spent.
    pub fn note(&self, intent: &Intent) -> Result<(), Error> {
        let bytes = serialize(intent);
        let name = self.store.intent_name();
        Draft::create(&self.store.directory, &name, &self.store.path)?.commit(
            &bytes,
            &self.store.directory,
            &name,
            &self.store.path,
        )
    }

    /// Completes the write of the successor of `stored` that a crash cut short between the file's
    /// last byte and its renaming. Without that a grant would be lost that is already there.
    ///
    /// A draft counts only while the note of the exchange that it answers stands, if it is whole
    /// (a torn one is no JSON: what was not written is zeros), newer than the stored grant, and
    /// of the same provider and client.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the draft cannot be put in place.
    pub fn recover(&self, stored: &Grant) -> Result<Option<Grant>, Error> {
        let Store { directory, path, name } = self.store;
        if self.store.intent(stored)?.is_none() {
            return Ok(None);
        }
        let draft = file::draft_name(name);
        let Some(bytes) = file::read(directory, &draft, path)? else {
            return Ok(None);
        };
        let bytes = written(&bytes);
        let successor = grant::parse(bytes).ok().filter(|grant| {
            grant.generation > stored.generation
                && grant.token_endpoint == stored.token_endpoint
                && (grant.client_id == stored.client_id || stored.client_id.is_empty())
        });
        if successor.is_some() {
            file::settle(directory, &draft, bytes.len(), name, path)?;
            self.forget()?;
        }
        Ok(successor)
    }

    /// Removes the grant, the note and any draft, for good.
    ///
    /// # Errors
    ///
    /// When one of them cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        let Store { directory, path, name } = self.store;
        for name in [name.clone(), file::draft_name(name), self.store.intent_name()] {
            file::remove(directory, &name, path)?;
        }
        file::sync(directory, path)
    }

    /// Forgets the note: the exchange was answered and the answer is on disk, or it was never
    /// sent.
    ///
    /// # Errors
    ///
    /// When the note cannot be removed.
    pub fn forget(&self) -> Result<(), Error> {
        file::remove(&self.store.directory, &self.store.intent_name(), &self.store.path)
    }
}

/// Takes the lock in this file if nobody has it.
pub(super) fn try_flock(
    directory: &OwnedFd,
    name: &str,
    path: &Path,
) -> Result<Option<OwnedFd>, Error> {
    let held = file::open_lock(directory, name, path)?;
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(held)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => {
            Err(Error::Io { operation: "lock", path: path.to_owned(), source: errno.into() })
        }
    }
}

/// A file's content without the room that was reserved behind it.
fn written(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

/// These types have string keys and no floats, so they always serialize; an empty file would be
/// found corrupt.
fn serialize<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    // Room for all at once: growing would leave copies of the secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(32 << 10));
    if serde_json::to_writer_pretty(&mut *bytes, value).is_err() {
        bytes.clear();
    }
    bytes
}
