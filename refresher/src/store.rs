//! Grants on disk: one private file for each credential, replaced whole, under a lock that all
//! processes share.
//!
//! A token that is obtained and a wall clock that is wrong are the callers' matter; this module
//! only knows how a file is read without being deceived and written without being torn.

mod document;
mod file;
mod grant;
mod lock;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use document::{Document, DocumentLock};
pub use file::{ROOM_BYTES, Stamp};
pub use grant::{Grant, TokenRecord, VERSION, Verdict};
pub use lock::{Intent, Lock, PATIENCE, Reservation};

use zeroize::Zeroizing;

use crate::config::Config;
use crate::secret::Secret;

/// What a provider or credential can be called, in words.
pub const NAME_RULE: &str = "1 to 64 of the characters a-z A-Z 0-9 _ -";

/// Whether a provider or credential can be called this: the name becomes part of a file's.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// Why a grant cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{path}: cannot {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Something that could lead elsewhere or be changed by others.
    #[error("{path}: {found}; accepted: {accepted}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it may be.
        accepted: &'static str,
    },
    /// A file of a later release.
    #[error("{path}: has version {found}; this release reads version {VERSION}")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A file that is no grant. It has been moved aside.
    #[error("{path}: is not a grant; moved to {aside}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
    },
    /// Another process has held the lock for longer than [`PATIENCE`].
    #[error("{path}: locked by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// The stored grant of one credential.
#[derive(Debug)]
pub struct Store {
    directory: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Store {
    /// Opens the place of a credential's grant, and creates its directory where there is none.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made safe; see [`Error::Unsafe`].
    pub fn open(config: &Config, credential: &str) -> Result<Self, Error> {
        match &config.grant_file {
            Some(path) if credential == filter::bundle::DEFAULT_CREDENTIAL => Self::foreign(path),
            _ => {
                let name = format!("{}.{credential}.json", config.provider.name);
                let path = config.state_dir.join("grants");
                file::create_private(&config.state_dir)?;
                let directory = file::create_private_within(&path)?;
                Ok(Self { directory, path: path.join(&name), name })
            }
        }
    }

    /// Where a credential's grant is, or would be.
    pub fn place(config: &Config, credential: &str) -> PathBuf {
        match &config.grant_file {
            Some(path) if credential == filter::bundle::DEFAULT_CREDENTIAL => path.clone(),
            _ => {
                let name = format!("{}.{credential}.json", config.provider.name);
                config.state_dir.join("grants").join(name)
            }
        }
    }

    /// Opens the place of a credential's grant where there is one, and creates nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn find(config: &Config, credential: &str) -> Result<Option<Self>, Error> {
        let own = credential != filter::bundle::DEFAULT_CREDENTIAL || config.grant_file.is_none();
        let place = std::fs::symlink_metadata(config.state_dir.join("grants"));
        match place {
            Err(error) if own && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(config, credential).map(Some),
        }
    }

    /// A grant file in a directory that is not ours: its mode is the owner's affair, but nobody
    /// else may be able to replace the file.
    fn foreign(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name else {
            let (found, accepted) = ("no file name", "the path of a file");
            return Err(Error::Unsafe { path: path.to_owned(), found, accepted });
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = file::open_foreign(parent.unwrap_or(Path::new(".")))?;
        Ok(Self { directory, path: path.to_owned(), name: name.to_owned() })
    }

    /// Where the grant is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the grant; `unix` is now, in Unix seconds.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A corrupt file has been moved aside by then.
    pub fn load(&self, unix: u64) -> Result<Option<Grant>, Error> {
        let Some(bytes) = file::read(&self.directory, &self.name, &self.path)? else {
            return Ok(None);
        };
        match grant::parse(&bytes) {
            Ok(grant) => Ok(Some(grant)),
            Err(grant::Unreadable::Version(found)) => {
                Err(Error::UnknownVersion { path: self.path.clone(), found })
            }
            Err(grant::Unreadable::Shape) => {
                let aside = format!("{}.corrupt-{unix}", self.name);
                file::rename(&self.directory, &self.name, &aside, &self.path)?;
                let aside = self.path.with_file_name(aside);
                Err(Error::Corrupt { path: self.path.clone(), aside })
            }
        }
    }

    /// What tells the present file from a replaced one; nothing where there is no file.
    pub fn stamp(&self) -> Option<Stamp> {
        file::stamp(&self.directory, &self.name)
    }

    /// The credentials of this provider that have a file, besides the one in `config.grant_file`.
    pub fn credentials(config: &Config) -> Vec<String> {
        let prefix = format!("{}.", config.provider.name);
        let entries = std::fs::read_dir(config.state_dir.join("grants"));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| {
                let name = name.strip_prefix(&prefix)?.strip_suffix(".json")?;
                is_name(name).then(|| name.to_owned())
            })
            .collect();
        names.sort();
        names
    }
}

/// Reads a private file as it is: nothing is mended, locked or moved.
///
/// # Errors
///
/// When it cannot be read safely.
pub fn peek_bytes(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    file::peek(path)
}

/// Reads a grant in the same way.
///
/// # Errors
///
/// When it cannot be read safely, or is no grant.
pub fn peek(path: &Path) -> Result<Option<Grant>, Error> {
    let Some(bytes) = file::peek(path)? else {
        return Ok(None);
    };
    match grant::parse(&bytes) {
        Ok(grant) => Ok(Some(grant)),
        Err(grant::Unreadable::Version(found)) => {
            Err(Error::UnknownVersion { path: path.to_owned(), found })
        }
        Err(grant::Unreadable::Shape) => {
            let (found, accepted) = ("is not a grant", "a grant of this release");
            Err(Error::Unsafe { path: path.to_owned(), found, accepted })
        }
    }
}

/// Reads a secret from a file of the user's: its content without white space around it.
///
/// # Errors
///
/// When it cannot be read, others can read it, or there is no text of one line in it.
pub fn read_secret(path: &Path) -> Result<Secret, Error> {
    let bytes = file::read_secret(path, false)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        let (found, accepted) = ("no secret in it", "one line of text, not empty");
        return Err(Error::Unsafe { path: path.to_owned(), found, accepted });
    }
    Ok(Secret::new(text.to_owned()))
}

/// Reads a private key from a file of the user's, or one that was mounted for this user's group.
///
/// # Errors
///
/// When it cannot be read, or others can read it.
pub fn read_private_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    file::read_secret(path, true)
}

/// Replaces a private file of ours that can be made anew, such as Envoy's configuration: all or
/// nothing, 0600 in a 0700 directory.
///
/// # Errors
///
/// See [`Error`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    file::replace(path, bytes)
}

/// Creates a directory of ours, or makes it 0700.
///
/// # Errors
///
/// See [`Error`].
pub fn create_private_directory(path: &Path) -> Result<(), Error> {
    file::create_private(path).map(drop)
}

#[cfg(test)]
mod tests;
