//! Reading a file that another program keeps.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It could have been put there by others, or is no file.
    #[error("{found}; accepted: {accepted}")]
    Unsafe {
        /// What it is.
        found: &'static str,
        /// What it may be.
        accepted: &'static str,
    },
}

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Reads a regular file of at most 1 MiB and never writes to it.
///
/// A link is followed, since such files are often mounted or kept as links; but what it leads to
/// must belong to this user or to root, and others must not be able to write to it. The file that
/// is checked is the file that is read.
///
/// # Errors
///
/// See [`Error`].
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let stat = fs::fstat(&fd).map_err(io::Error::from)?;
    let refuse = |found, accepted| Err(Error::Unsafe { found, accepted });
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("is not a regular file", "a regular file, or - for standard input");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() && stat.st_uid != 0 {
        return refuse("is somebody else's file", "a file of this user or of root");
    }
    if stat.st_mode & 0o002 != 0 {
        return refuse("can be written to by others", "a file that others cannot write to");
    }
    if stat.st_mode & 0o044 != 0 {
        tracing::warn!(path = %path.display(), "others can read this file of tokens; chmod 600 it");
    }
    all(&mut File::from(fd))
}

/// Reads all of a source, if that is at most 1 MiB.
///
/// # Errors
///
/// See [`Error`].
pub fn all(source: &mut impl Read) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(Error::Unsafe { found: "is larger than 1 MiB", accepted: "at most 1 MiB" });
    }
    Ok(bytes)
}

/// What is under a name now; nothing where there is no file.
pub fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let stat = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: stat.dev(),
        inode: stat.ino(),
        size: stat.size(),
        modified: (stat.mtime(), stat.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn refusal(path: &Path) -> String {
        crate::chain::line(&read(path).unwrap_err())
    }

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let write = |name: &str, bytes: &[u8], mode| {
            std::fs::write(at(name), bytes).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("good", b"{}", 0o600);
        assert_eq!(**read(&at("good")).unwrap(), *b"{}");
        symlink("good", at("link")).unwrap();
        assert_eq!(**read(&at("link")).unwrap(), *b"{}");
        write("full", &vec![b' '; 1 << 20], 0o640);
        assert_eq!(read(&at("full")).unwrap().len(), 1 << 20);
        write("large", &vec![b' '; (1 << 20) + 1], 0o600);
        assert!(refusal(&at("large")).contains("at most 1 MiB"));
        write("open", b"{}", 0o666);
        assert!(refusal(&at("open")).contains("written to by others"));
        assert!(refusal(directory.path()).contains("a regular file"));
        assert!(refusal(Path::new("/dev/null")).contains("a regular file"));
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        assert!(refusal(&at("fifo")).contains("a regular file"));
        symlink("nowhere", at("dangling")).unwrap();
        assert!(refusal(&at("dangling")).starts_with("cannot be read: No such file"));
    }

    #[test]
    fn the_file_of_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("theirs");
        std::fs::write(&path, "{}").unwrap();
        // Only root can give a file away; anybody else has no file of another user to show.
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            assert!(refusal(&path).contains("somebody else"));
        }
    }

    #[test]
    fn a_replaced_file_has_another_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        assert_eq!(stamp(&path), None);
        std::fs::write(&path, "a").unwrap();
        let first = stamp(&path);
        assert_eq!(first, stamp(&path));
        std::fs::write(directory.path().join("new"), "b").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert_ne!(first, stamp(&path));
    }
}
