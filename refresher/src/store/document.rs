//! A document that several processes change: one private file, replaced whole, under a lock.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::file::{self, Draft};
use super::lock::{PATIENCE, PAUSE, try_flock};
use super::{Error, Stamp};

/// A private file in a directory of ours, which may not exist yet.
#[derive(Debug)]
pub struct Document {
    directory: OwnedFd,
    path: PathBuf,
    name: &'static str,
}

/// The lock of a document, shared by all processes; released when dropped.
#[derive(Debug)]
pub struct DocumentLock<'a> {
    document: &'a Document,
    _held: OwnedFd,
}

impl Document {
    /// Opens the place of a document, and creates its directory where there is none.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made safe; see [`Error::Unsafe`].
    pub fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        let opened = file::create_private(directory)?;
        Ok(Self { directory: opened, path: directory.join(name), name })
    }

    /// Opens the place of a document where its directory exists, and creates nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn find(directory: &Path, name: &'static str) -> Result<Option<Self>, Error> {
        match std::fs::symlink_metadata(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(directory, name).map(Some),
        }
    }

    /// Where the document is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells the present version from a replaced one; nothing where there is no file.
    pub fn stamp(&self) -> Option<Stamp> {
        file::stamp(&self.directory, self.name)
    }

    /// Reads the document; nothing where there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read safely.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        file::read(&self.directory, self.name, &self.path)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// When the lock file cannot be opened.
    pub fn try_lock(&self) -> Result<Option<DocumentLock<'_>>, Error> {
        let held = try_flock(&self.directory, &format!("{}.lock", self.name), &self.path)?;
        Ok(held.map(|held| DocumentLock { document: self, _held: held }))
    }

    /// Waits for the lock, for at most [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another process keeps it.
    pub async fn lock(&self) -> Result<DocumentLock<'_>, Error> {
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            match self.try_lock()? {
                Some(lock) => return Ok(lock),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::Locked { path: self.path.with_file_name(format!("{}.lock", self.name)) })
    }
}

impl DocumentLock<'_> {
    /// Replaces the document, all or nothing, and for good.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the present one is untouched then.
    pub fn replace(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write(self.document.name, bytes)
    }

    /// Keeps a copy of what the document was, and puts `bytes` in its place. There is no moment
    /// without a document. Answers where the copy is; `unix` is now, in Unix seconds.
    ///
    /// # Errors
    ///
    /// When one of the two cannot be written; the present document is untouched then.
    pub fn set_aside(&self, old: &[u8], bytes: &[u8], unix: u64) -> Result<PathBuf, Error> {
        let aside = format!("{}.corrupt-{unix}", self.document.name);
        self.write(&aside, old)?;
        self.replace(bytes)?;
        Ok(self.document.path.with_file_name(aside))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let Document { directory, path, .. } = self.document;
        Draft::create(directory, name, path)?.commit(bytes, directory, name, path)
    }
}
