//! Tar archives of which every byte is known: entries in order of their names, one time, no names of
//! users.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Whose something is, by number.
pub(crate) type Owner = u64;

/// The root user.
pub(crate) const ROOT: Owner = 0;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File(Vec<u8>),
    Link(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: Owner,
}

/// Files, folders and links, by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str, mode: u32, owner: Owner) {
        self.add(path, Entry { kind: Kind::Folder, mode, owner });
    }

    /// Adds a file of root's.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(path, Entry { kind: Kind::File(content.into()), mode, owner: ROOT });
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry { kind: Kind::Link(target.to_owned()), mode: 0o777, owner: ROOT });
    }

    /// Adds the folders above as well, which some readers want to see.
    fn add(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            if let Some(above) = path.get(..at) {
                let folder = Entry { kind: Kind::Folder, mode: 0o755, owner: ROOT };
                self.0.entry(above.to_owned()).or_insert(folder);
            }
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// The archive, made at `epoch`.
    pub(crate) fn tar(&self, epoch: u64) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner);
            header.set_gid(entry.owner);
            header.set_mtime(epoch);
            header.set_size(0);
            match &entry.kind {
                Kind::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Kind::File(content) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(content.len().try_into()?);
                    archive.append_data(&mut header, path, content.as_slice())
                }
                Kind::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    archive.append_link(&mut header, path, target)
                }
            }
            .with_context(|| format!("{path} does not go into an archive"))?;
        }
        Ok(archive.into_inner()?)
    }
}

/// Compresses, without a name and a time in the head.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut compressed = GzBuilder::new().write(Vec::new(), Compression::best());
    compressed.write_all(bytes)?;
    Ok(compressed.finish()?)
}

/// The SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Writes a file, and the folders above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("{} cannot be written", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    fs::write(path, bytes).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_adding_does_not_count_and_folders_come_first() {
        let (mut one, mut other) = (Tree::default(), Tree::default());
        one.file("usr/lib/b", 0o644, "b");
        one.folder("run/own", 0o700, 65_532);
        one.link("usr/a", "lib/b");
        other.link("usr/a", "lib/b");
        other.folder("run/own", 0o700, 65_532);
        other.file("usr/lib/b", 0o644, "b");
        let archive = one.tar(1_779_000_000).unwrap();
        assert_eq!(archive, other.tar(1_779_000_000).unwrap());
        assert_ne!(archive, one.tar(0).unwrap());
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 1_779_000_000);
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap())
            })
            .collect();
        let expected = [
            ("run/", 0o755, 0),
            ("run/own/", 0o700, 65_532),
            ("usr/", 0o755, 0),
            ("usr/a", 0o777, 0),
            ("usr/lib/", 0o755, 0),
            ("usr/lib/b", 0o644, 0),
        ];
        assert_eq!(entries, expected.map(|(path, mode, owner)| (path.to_owned(), mode, owner)));
    }

    #[test]
    fn what_is_compressed_tells_no_time() {
        let once = gzip(b"content").unwrap();
        assert_eq!(once, gzip(b"content").unwrap());
        // RFC 1952, section 2.3: the flags and the modification time.
        assert_eq!(once[3..8], [0; 5]);
    }
}
