//! Files that nobody else can read, replace or tear.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Error;

/// The largest grant file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Room that is reserved for a grant before its predecessor is spent, in bytes.
const RESERVED_BYTES: u64 = 64 << 10;

/// Room that an exchange wants, for the next grant and the note that this one is spent, in bytes.
pub const ROOM_BYTES: u64 = 2 * RESERVED_BYTES;

/// What tells one file from another under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

fn io(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Io { operation, path: path.to_owned(), source: errno.into() }
}

fn refuse(path: &Path, found: &'static str, accepted: &'static str) -> Error {
    Error::Unsafe { path: path.to_owned(), found, accepted }
}

/// Opens a directory of ours, creates it where there is none, and makes it 0700. Its path may be
/// the user's own link.
pub(super) fn create_private(path: &Path) -> Result<OwnedFd, Error> {
    create_private_with(path, OFlags::empty())
}

/// The same within a directory of ours, where a link can only have come while that was open to
/// others.
pub(super) fn create_private_within(path: &Path) -> Result<OwnedFd, Error> {
    create_private_with(path, OFlags::NOFOLLOW)
}

fn create_private_with(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        Error::Io { operation: "create the directory", path: path.to_owned(), source }
    })?;
    let directory = open_directory(path, flags)?;
    if others_can(&directory, 0o077, path)? {
        tracing::warn!(path = %path.display(), "directory was open to others; now 0700");
        fs::fchmod(&directory, Mode::RWXU).map_err(|errno| io("make it 0700", path, errno))?;
    }
    Ok(directory)
}

/// Opens a directory that is the user's: others may look, but not write.
pub(super) fn open_foreign(path: &Path) -> Result<OwnedFd, Error> {
    let directory = open_directory(path, OFlags::empty())?;
    if others_can(&directory, 0o022, path)? {
        let accepted = "a directory that only its owner can write to (chmod go-w)";
        return Err(refuse(path, "others can write to this directory", accepted));
    }
    Ok(directory)
}

fn open_directory(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    let no_link = flags.contains(OFlags::NOFOLLOW);
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        // Of a link that is not to be followed, Linux says that it is no directory.
        Errno::LOOP | Errno::NOTDIR if no_link => {
            refuse(path, "a symbolic link or a file", "a directory")
        }
        errno => io("open the directory", path, errno),
    })
}

fn others_can(directory: &OwnedFd, mask: u32, path: &Path) -> Result<bool, Error> {
    let stat = fs::fstat(directory).map_err(|errno| io("look at the directory", path, errno))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refuse(path, "somebody else's directory", "a directory of this user"));
    }
    Ok(stat.st_mode & mask != 0)
}

/// Reads a private file; nothing where there is none. A mode that lets others in is repaired.
pub(super) fn read(
    directory: &OwnedFd,
    name: &str,
    path: &Path,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(refuse(path, "a symbolic link", "a regular file")),
        Err(errno) => return Err(io("open", path, errno)),
    };
    check(fd.as_fd(), path)?;
    Ok(Some(read_bounded(fd, path)?))
}

/// Reads a private file as it is; nothing where there is none.
pub(super) fn peek(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => return Err(refuse(path, "a symbolic link", "a regular file")),
        Err(errno) => return Err(io("open", path, errno)),
    };
    let stat = fs::fstat(&fd).map_err(|errno| io("look at it", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse(path, "not a regular file", "a regular file"));
    }
    let bytes = read_bounded(fd, path)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(refuse(path, "larger than 1 MiB", "at most 1 MiB"));
    }
    Ok(Some(bytes))
}

/// Reads a file that the user keeps a secret in: a mode that lets others in is the user's to
/// mend. Unlike with files of ours a link is followed, since secrets are often mounted as links;
/// what is judged is the file that is read. Where `mounted`, a file of root's may be read by its
/// group: so Kubernetes gives a secret to a user who is not root.
pub(super) fn read_secret(path: &Path, mounted: bool) -> Result<Zeroizing<Vec<u8>>, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| io("open", path, errno))?;
    let stat = fs::fstat(&fd).map_err(|errno| io("look at it", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse(path, "not a regular file", "a regular file"));
    }
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user && stat.st_uid != 0 {
        return Err(refuse(path, "somebody else's file", "a file of this user or of root"));
    }
    let group = mounted && stat.st_uid == 0;
    let (others, accepted) = match mounted {
        false => (0o077, "a file that only its owner can read (chmod 600)"),
        true if group => (0o037, "mode 0640 at most (in a Kubernetes volume, defaultMode: 0440)"),
        true => {
            (0o077, "a file that only its owner can read (chmod 600), or root's with mode 0640")
        }
    };
    if stat.st_mode & others != 0 {
        return Err(refuse(path, "others can read this secret", accepted));
    }
    read_bounded(fd, path)
}

/// Reads what a file holds, at most one byte more than is accepted, so that a longer one is known.
fn read_bounded(fd: OwnedFd, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    File::from(fd).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|source| Error::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// Puts a file that may not have reached the disk yet in the place of another, for good, without
/// the room that is reserved behind its `length` bytes.
pub(super) fn settle(
    directory: &OwnedFd,
    from: &str,
    length: usize,
    to: &str,
    path: &Path,
) -> Result<(), Error> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::openat(directory, from, flags, Mode::empty())
        .map_err(|errno| io("open its successor", path, errno))?;
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    fs::ftruncate(&fd, length).map_err(|errno| io("cut its successor to size", path, errno))?;
    fs::fsync(&fd).map_err(|errno| io("sync its successor", path, errno))?;
    rename(directory, from, to, path)
}

/// The name of the draft of a file.
pub(super) fn draft_name(target: &str) -> String {
    format!(".{target}.new")
}

fn check(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let stat = fs::fstat(fd).map_err(|errno| io("look at it", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse(path, "not a regular file", "a regular file"));
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refuse(path, "somebody else's file", "a file of this user"));
    }
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(refuse(path, "larger than 1 MiB", "at most 1 MiB"));
    }
    if stat.st_mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "file was open to others; now 0600");
        let mode = Mode::RUSR | Mode::WUSR;
        fs::fchmod(fd, mode).map_err(|errno| io("make it 0600", path, errno))?;
    }
    Ok(())
}

/// What is under a name now.
pub(super) fn stamp(directory: &OwnedFd, name: &str) -> Option<Stamp> {
    let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size,
        modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
    })
}

/// Opens a lock file, which is created once and never removed: removing it would let two
/// processes lock two different files of one name.
pub(super) fn open_lock(directory: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd, Error> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| io("open the lock", path, errno))?;
    check(fd.as_fd(), path)?;
    Ok(fd)
}

/// A new file beside the one that it will replace, with room on the disk.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    name: String,
}

impl Draft {
    /// Creates the file and reserves its room.
    pub(super) fn create(directory: &OwnedFd, target: &str, path: &Path) -> Result<Self, Error> {
        let name = draft_name(target);
        // A leftover of a crash; we hold the lock, so nobody is writing it.
        remove(directory, &name, path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| io("create its successor", path, errno))?;
        #[cfg(target_os = "linux")]
        match fs::fallocate(&fd, fs::FallocateFlags::empty(), 0, RESERVED_BYTES) {
            // A file system that cannot reserve finds out when it writes.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(io("reserve room for its successor", path, errno)),
        }
        Ok(Self { file: File::from(fd), name })
    }

    /// Writes the file to the disk and puts it in the place of its target, all or nothing, and
    /// for good.
    pub(super) fn commit(
        mut self,
        bytes: &[u8],
        directory: &OwnedFd,
        target: &str,
        path: &Path,
    ) -> Result<(), Error> {
        let failed =
            |operation| move |source| Error::Io { operation, path: path.to_owned(), source };
        self.fill(bytes, path)?;
        self.file.sync_all().map_err(failed("sync its successor"))?;
        rename(directory, &self.name, target, path)
    }

    fn fill(&mut self, bytes: &[u8], path: &Path) -> Result<(), Error> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.file.write_all(bytes).and_then(|()| self.file.set_len(length)).map_err(|source| {
            Error::Io { operation: "write its successor", path: path.to_owned(), source }
        })
    }
}

/// Renames within a directory and makes that last.
pub(super) fn rename(directory: &OwnedFd, from: &str, to: &str, path: &Path) -> Result<(), Error> {
    fs::renameat(directory, from, directory, to).map_err(|errno| io("rename", path, errno))?;
    sync(directory, path)
}

/// Makes what has changed in a directory last.
pub(super) fn sync(directory: &OwnedFd, path: &Path) -> Result<(), Error> {
    fs::fsync(directory).map_err(|errno| io("sync its directory", path, errno))
}

/// Removes a file; none is fine.
pub(super) fn remove(directory: &OwnedFd, name: &str, path: &Path) -> Result<(), Error> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(io("remove it or a leftover beside it", path, errno)),
    }
}

/// Replaces a private file that can be made anew, such as Envoy's configuration: whole, but not
/// waiting for the disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(parent), Some(name)) = (path.parent(), name) else {
        return Err(refuse(path, "no file name", "the path of a file"));
    };
    let directory = create_private(parent)?;
    let mut draft = Draft::create(&directory, name, path)?;
    draft.fill(bytes, path)?;
    fs::renameat(&directory, &draft.name, &directory, name)
        .map_err(|errno| io("rename", path, errno))
}
