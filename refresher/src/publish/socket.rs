//! The unix socket: ours alone, and never taken from a refresher that lives.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::store;

/// The longest path of a socket that the system takes, in bytes (`sun_path` less its end).
const MAX_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another refresher serves it.
    #[error("{path}: another refresher is serving here; stop it, or choose another --socket")]
    Alive {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("{path}: exists and is not a socket; remove it, or choose another --socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The path does not fit.
    #[error("{path}: too long for a socket; accepted: at most {MAX_PATH_BYTES} bytes")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: cannot serve on this socket")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its directory cannot be made safe.
    #[error(transparent)]
    Directory(#[from] store::Error),
}

/// Listens on a socket with mode 0600. A socket that a dead refresher left behind is replaced.
///
/// # Errors
///
/// See [`Error`].
pub async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(Error::TooLong { path: path.to_owned() });
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists()) {
        store::create_private_directory(parent)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::NotASocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(Error::Alive { path: path.to_owned() });
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/s.sock");
        let first = listen(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let parent = std::fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);
        assert!(matches!(listen(&path).await, Err(Error::Alive { .. })));
        drop(first);
        assert!(listen(&path).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path).await, Err(Error::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(listen(&long).await, Err(Error::TooLong { .. })));
    }
}
