//! What the faults need of the machine. It is looked for before anything starts: a fault that cannot
//! be provoked ends the run, and is never left out.

use std::fs::read_link;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::process::{geteuid, getppid};

/// The library's name, and its folder under one of the system's library folders. Of its two kinds
/// this is the one for programs with several threads.
const CLOCK_LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// What the faults use.
pub struct Needs {
    /// The library that gives a program another wall clock.
    pub clock_library: PathBuf,
}

impl Needs {
    /// Looks for all of it.
    ///
    /// # Errors
    ///
    /// When something is missing: everything that is, and what to do about it.
    pub fn find() -> Result<Self> {
        let mut missing = Vec::new();
        if !geteuid().is_root() {
            missing.push("root is needed, to mount a disk that can be filled".to_owned());
        }
        // Its disks are to be seen by nobody else, and to go with it.
        let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        let namespace = |process: &str| read_link(format!("/proc/{process}/ns/mnt")).ok();
        if namespace("self") == namespace(&parent.to_string()) {
            missing.push(
                "a mount namespace of its own is needed, which `make soak` gives it, and by hand \
                 `unshare --mount target/debug/soak`"
                    .to_owned(),
            );
        }
        for tool in ["mount", "umount"] {
            if !is_on_path(tool) {
                missing.push(format!("{tool} is missing; on Debian: apt-get install mount"));
            }
        }
        let clock_library = clock_library();
        if clock_library.is_none() {
            missing.push(format!(
                "{CLOCK_LIBRARY} is missing, which lets the clock jump; on Debian: apt-get install \
                 libfaketime"
            ));
        }
        match clock_library {
            Some(clock_library) if missing.is_empty() => Ok(Self { clock_library }),
            _ => bail!("{}", missing.join("\n  ")),
        }
    }
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Debian has a folder for each kind of processor; others have none, or `lib64`.
fn clock_library() -> Option<PathBuf> {
    let inner = Path::new("/usr/lib").read_dir().ok()?.flatten().map(|entry| entry.path());
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let mut found = folders.into_iter().chain(inner).map(|folder| folder.join(CLOCK_LIBRARY));
    found.find(|path| path.is_file())
}
