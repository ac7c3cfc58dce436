//! Writing a grant: only with the lock in hand.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::file::{self, Draft};
use super::{Error, Grant, Store};
use crate::secret::Fingerprint;

/// How long to wait for a lock that another process holds.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// The pause between two looks at a lock that is taken.
const PAUSE: Duration = Duration::from_millis(100);

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
    /// Since when, in Unix seconds.
    pub at: u64,
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
        let tries = PATIENCE.as_millis() / PAUSE.as_millis();
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
        let held = file::open_lock(&self.directory, &self.lock_name(), &self.path)?;
        match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { store: self, _held: held })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => {
                Err(Error::Io { operation: "lock", path: self.path.clone(), source: errno.into() })
            }
        }
    }

    fn lock_name(&self) -> String {
        format!("{}.lock", self.name)
    }

    fn intent_name(&self) -> String {
        format!("{}.intent", self.name)
    }

    /// The intent that is on disk, if it is about this refresh token. An unreadable one is none:
    /// it was written whole, so it is not ours.
    ///
    /// # Errors
    ///
    /// When the file cannot be read safely.
    pub fn intent(&self, fingerprint: &Fingerprint) -> Result<Option<Intent>, Error> {
        let bytes = file::read(&self.directory, &self.intent_name(), &self.path)?;
        let intent = bytes.and_then(|bytes| serde_json::from_slice::<Intent>(&bytes).ok());
        Ok(intent.filter(|intent| intent.fingerprint == *fingerprint))
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
