//! The client keys on disk: `client-keys.json` in the state directory, digests only.
//!
//! Where the file is, a key is required, also when it holds none. So it is never removed by us,
//! and one that does not parse is replaced by an empty one, its content kept aside.

use std::path::{Path, PathBuf};

use super::ring::{Refused, Ring, Unreadable, VERSION};
use crate::store::{self, Document, DocumentLock, Stamp};

/// The file's name.
pub const NAME: &str = "client-keys.json";

/// Why the keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its lock.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file of a later release.
    #[error("{path}: has version {found}; this release reads version {VERSION}")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A file that is no list of client keys. It has been moved aside.
    #[error(
        "{path}: is not a list of client keys; moved to {aside}. A client key is still required, but none that was made by command holds any more: make them anew with \"refresher keys add\""
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where its content is now.
        aside: PathBuf,
    },
    /// The change is not made.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The place of the client keys.
#[derive(Debug)]
pub struct KeyFile(Document);

impl KeyFile {
    /// Opens the place in a state directory, which is created where there is none.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made safe.
    pub fn open(state_dir: &Path) -> Result<Self, store::Error> {
        Document::open(state_dir, NAME).map(Self)
    }

    /// Opens the place where the state directory exists, and creates nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn find(state_dir: &Path) -> Result<Option<Self>, store::Error> {
        Ok(Document::find(state_dir, NAME)?.map(Self))
    }

    /// Where the keys are.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What tells the present file from a replaced one; nothing where there is no file.
    pub fn stamp(&self) -> Option<Stamp> {
        self.0.stamp()
    }

    /// Reads the keys; nothing where there is no file. `unix` is now, in Unix seconds.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A corrupt file has been moved aside by then.
    pub fn load(&self, unix: u64) -> Result<Option<Ring>, Error> {
        let Some(bytes) = self.0.read()? else {
            return Ok(None);
        };
        match Ring::parse(&bytes) {
            Err(Unreadable::Shape) => match self.0.try_lock()? {
                // Whoever changes the file now will find the same.
                None => Err(store::Error::Locked { path: self.path().to_owned() }.into()),
                Some(lock) => self.load_locked(&lock, unix),
            },
            Err(Unreadable::Version(found)) => Err(self.later(found)),
            Ok(ring) => Ok(Some(ring)),
        }
    }

    /// Changes the keys under the lock. `unix` is now, in Unix seconds.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Nothing has changed then.
    pub async fn change<T>(
        &self,
        unix: u64,
        change: impl FnOnce(&mut Ring) -> Result<T, Refused>,
    ) -> Result<T, Error> {
        let lock = self.0.lock().await?;
        let mut ring = self.load_locked(&lock, unix)?.unwrap_or_default();
        ring.prune(unix);
        let outcome = change(&mut ring)?;
        lock.replace(&ring.document())?;
        Ok(outcome)
    }

    fn load_locked(&self, lock: &DocumentLock<'_>, unix: u64) -> Result<Option<Ring>, Error> {
        let Some(bytes) = self.0.read()? else {
            return Ok(None);
        };
        match Ring::parse(&bytes) {
            Err(Unreadable::Shape) => {
                let aside = lock.set_aside(&bytes, &Ring::default().document(), unix)?;
                Err(Error::Corrupt { path: self.path().to_owned(), aside })
            }
            Err(Unreadable::Version(found)) => Err(self.later(found)),
            Ok(ring) => Ok(Some(ring)),
        }
    }

    fn later(&self, found: u64) -> Error {
        Error::UnknownVersion { path: self.path().to_owned(), found }
    }
}

/// A file's path with its directory resolved, so that two programs mean the same by it.
pub fn resolved(path: &Path) -> String {
    let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
    let path = directory.map_or_else(|| path.to_owned(), |directory| directory.join(NAME));
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use filter::client::ClientKey;

    use super::*;

    fn key(name: &str) -> ClientKey {
        ClientKey::of_key(name.parse().unwrap(), name.as_bytes())
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_is_added_is_kept_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        assert!(KeyFile::find(&state).unwrap().is_none());
        let file = KeyFile::open(&state).unwrap();
        assert_eq!(file.load(1).unwrap(), None);
        file.change(1, |ring| ring.add(key("alice"), 1)).await.unwrap();
        let before = file.stamp();
        file.change(2, |ring| ring.add(key("bob"), 2)).await.unwrap();
        assert_ne!(file.stamp(), before);
        let found = KeyFile::find(&state).unwrap().unwrap();
        assert_eq!(found.load(3).unwrap().unwrap().keys(), [key("alice"), key("bob")]);
        assert_eq!((mode(file.path()), mode(&state)), (0o600, 0o700));
        // What is refused changes nothing.
        let refused = file.change(3, |ring| ring.add(key("bob"), 3)).await;
        assert!(matches!(refused, Err(Error::Refused(Refused::Exists { .. }))));
        assert_eq!(file.load(3).unwrap().unwrap().entries().len(), 2);
        let mut names: Vec<_> = std::fs::read_dir(&state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["client-keys.json", "client-keys.json.lock"]);
    }

    #[tokio::test]
    async fn a_corrupt_file_is_kept_aside_and_keys_stay_required() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::open(directory.path()).unwrap();
        for (number, torn) in ["{\"version\": 1, \"ke", "", "\0\0\0"].into_iter().enumerate() {
            let unix = 10 + number as u64;
            std::fs::write(file.path(), torn).unwrap();
            let error = match number {
                0 => file.load(unix).unwrap_err(),
                _ => file.change(unix, |ring| ring.add(key("alice"), unix)).await.unwrap_err(),
            };
            let Error::Corrupt { aside, .. } = error else { panic!("{error}") };
            assert_eq!(std::fs::read_to_string(&aside).unwrap(), torn);
            assert_eq!(mode(&aside), 0o600);
            assert_eq!(file.load(unix).unwrap(), Some(Ring::default()));
        }
        file.change(20, |ring| ring.add(key("alice"), 20)).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_a_later_release_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::open(directory.path()).unwrap();
        let later = "{\"version\": 2, \"rings\": []}";
        std::fs::write(file.path(), later).unwrap();
        assert!(matches!(file.load(1), Err(Error::UnknownVersion { found: 2, .. })));
        let changed = file.change(1, |ring| ring.add(key("alice"), 1)).await;
        assert!(matches!(changed, Err(Error::UnknownVersion { found: 2, .. })));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), later);
    }
}
