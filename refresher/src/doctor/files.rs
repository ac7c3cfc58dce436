//! The state directory: whether it is private, and whether the next token can be kept there. It is
//! looked at, not mended.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;

use super::report::Finding;
use crate::config::Config;
use crate::keys;
use crate::status::words::count;
use crate::store::ROOM_BYTES;

/// How many findings are listed.
const MAX_FINDINGS: usize = 16;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let state_dir = &config.state_dir;
    let mut findings = Vec::new();
    let grants = state_dir.join("grants");
    // The path of the state directory may be the user's own link; within it none has a place.
    match std::fs::metadata(state_dir) {
        Ok(found) => findings.extend(directory(state_dir, &found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => findings.push(unreadable(state_dir, &error)),
    }
    if let Ok(found) = std::fs::symlink_metadata(&grants) {
        findings.extend(directory(&grants, &found));
    }
    let mut files = 0;
    let entries = std::fs::read_dir(&grants).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "json") {
            files += 1;
        }
        findings.extend(file(&path));
    }
    for name in [keys::file::NAME, "generation"] {
        findings.extend(file(&state_dir.join(name)));
    }
    if let Some(path) = &config.grant_file {
        findings.extend(file(path));
        findings.extend(path.parent().and_then(changeable));
        files += u64::from(path.exists());
    }
    let foreign = config.grant_file.as_deref().and_then(Path::parent);
    findings.extend([Some(grants.as_path()), foreign].into_iter().flatten().filter_map(closed));
    findings.truncate(MAX_FINDINGS);
    if findings.is_empty() {
        let place = state_dir.display();
        findings.push(Finding::ok(match state_dir.exists() {
            true => format!("{place}: private, with {}", count(files, "grant", "grants")),
            false => format!("{place}: not there yet; a login creates it"),
        }));
    }
    findings
}

fn unreadable(path: &Path, error: &std::io::Error) -> Finding {
    let says = format!("{}: cannot be looked at: {error}", path.display());
    Finding::fail(
        says,
        "mend the permissions of the directories above it, or choose another state_dir",
    )
}

/// A directory that takes no new grant. None is spent then, so that the login lives, but the token
/// ends.
fn closed(path: &Path) -> Option<Finding> {
    let shown = path.display();
    let harm = "so that no new token can be kept, and none is fetched";
    match access(path, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => {}
        Err(Errno::ROFS) => {
            let says = format!("{shown}: is mounted read-only, {harm}");
            let remedy =
                "mount it writable: in a container, the volume without `:ro` or `readOnly`";
            return Some(Finding::fail(says, remedy));
        }
        Err(Errno::NOENT) => return None,
        Err(errno) => {
            let says = format!("{shown}: cannot be written to ({errno}), {harm}");
            return Some(Finding::fail(says, format!("chmod u+rwx {shown}, as its owner")));
        }
    }
    let found = statvfs(path).ok()?;
    let left = found.f_bavail.saturating_mul(found.f_frsize);
    (left < ROOM_BYTES).then(|| {
        let says = format!("{shown}: has {left} bytes left of {ROOM_BYTES} wanted, {harm}");
        Finding::fail(says, "make room on that disk or volume")
    })
}

fn mode(found: &Metadata) -> u32 {
    found.mode() & 0o7777
}

fn foreign(path: &Path, found: &Metadata) -> Option<Finding> {
    let user = rustix::process::geteuid().as_raw();
    (found.uid() != user).then(|| {
        let says = format!("{}: belongs to user {}", path.display(), found.uid());
        Finding::fail(says, format!("chown {user} {}", path.display()))
    })
}

fn directory(path: &Path, found: &Metadata) -> Option<Finding> {
    let shown = path.display();
    if !found.is_dir() {
        let says = format!("{shown}: a symbolic link or a file, where a directory should be");
        return Some(Finding::fail(says, format!("look where it came from, then rm {shown}")));
    }
    let open = found.mode() & 0o077 != 0;
    foreign(path, found).or_else(|| {
        open.then(|| {
            let says =
                format!("{shown}: open to others (mode {:04o} instead of 0700)", mode(found));
            Finding::fail(says, format!("chmod 700 {shown}"))
        })
    })
}

fn file(path: &Path) -> Option<Finding> {
    let shown = path.display();
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(unreadable(path, &error)),
    };
    if !found.is_file() {
        let says = format!("{shown}: a symbolic link, or no regular file; it is not followed");
        return Some(Finding::fail(says, format!("look where it came from, then rm {shown}")));
    }
    let open = found.mode() & 0o077 != 0;
    foreign(path, &found).or_else(|| {
        open.then(|| {
            let says =
                format!("{shown}: open to others (mode {:04o} instead of 0600)", mode(&found));
            Finding::fail(says, format!("chmod 600 {shown}"))
        })
    })
}

/// A directory that is not ours: others may look, but not write.
fn changeable(path: &Path) -> Option<Finding> {
    let found = std::fs::metadata(path).ok()?;
    (found.mode() & 0o022 != 0).then(|| {
        let shown = path.display();
        let says = format!("{shown}: others can write to it (mode {:04o})", mode(&found));
        Finding::fail(says, format!("chmod go-w {shown}"))
    })
}
