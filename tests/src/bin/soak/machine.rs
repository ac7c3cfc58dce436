//! The machine's part: disks that can be full, and a wall clock that can jump.

use std::ffi::OsString;
use std::fs::{self, File, create_dir_all};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A disk in memory.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Puts a disk of so many KiB in a folder's place.
    pub fn mount(folder: &Path, kib: u32) -> Result<Self> {
        create_dir_all(folder)?;
        let options = format!("size={kib}k,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder);
        ensure!(mount.status()?.success(), "a disk cannot be mounted at {}", folder.display());
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Leaves no room on it.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        loop {
            match filler.write_all(&[0; 4 << 10]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its folder can go only then. With the namespace the disk goes in any case.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// The wall clock of the programs that are told of it by their environment. Their other clocks, which
/// count time and never jump, are the machine's.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// A right clock, steered by a file in this folder.
    pub fn new(library: PathBuf, folder: &Path) -> Result<Self> {
        let clock = Self { library, file: folder.join("clock") };
        clock.jump(0)?;
        Ok(clock)
    }

    /// What a program has to be started with.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    /// Puts the clock so many seconds ahead of the true time.
    pub fn jump(&self, ahead_s: i64) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{ahead_s:+}\n"))?;
        Ok(fs::rename(new, &self.file)?)
    }
}
