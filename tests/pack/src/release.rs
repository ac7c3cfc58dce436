//! Release archives: all that somebody needs who does not build.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::VERSION;
use crate::archive::{Tree, gzip, read, sha256, write};
use crate::pages;

/// Where the checksums stand.
const CHECKSUMS: &str = "SHA256SUMS";

/// What a release is made of. Runs in the project's folder.
#[derive(Args, Debug)]
pub(crate) struct Release {
    /// What the program was built for
    #[arg(long)]
    target: String,
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// The same program for this machine, which prints its manual pages
    #[arg(long)]
    native: PathBuf,
    /// The filter's module
    #[arg(long)]
    module: PathBuf,
    /// Bills of materials
    #[arg(long = "bill")]
    bills: Vec<PathBuf>,
    /// The folder to write the archive to
    #[arg(long)]
    output: PathBuf,
}

impl Release {
    /// Writes the archive and says where it is.
    pub(crate) fn write(&self, epoch: u64) -> Result<PathBuf> {
        let name = format!("torchbearer-{VERSION}-{}", self.target);
        let mut files = Tree::default();
        let mut add = |path: &str, mode: u32, content: Vec<u8>| {
            files.file(&format!("{name}/{path}"), mode, content);
        };
        add("refresher", 0o755, read(&self.program)?);
        add("filter.wasm", 0o644, read(&self.module)?);
        add("install.sh", 0o755, read(Path::new("install.sh"))?);
        for document in ["CHANGELOG.md", "LICENSE", "README.md"] {
            add(document, 0o644, read(Path::new(document))?);
        }
        for path in walk(Path::new("envoy"))? {
            add(&path.display().to_string(), 0o644, read(&path)?);
        }
        for (path, text) in pages::all(&self.native)? {
            add(&path, 0o644, text.into_bytes());
        }
        for bill in &self.bills {
            let name = bill.file_name().unwrap_or_default().to_string_lossy();
            add(&format!("sbom/{name}"), 0o644, read(bill)?);
        }
        let path = self.output.join(format!("{name}.tar.gz"));
        write(&path, &gzip(&files.tar(epoch)?)?)?;
        Ok(path)
    }
}

/// Every file below a folder, without hidden ones.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            found.extend(walk(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Writes the checksums of a folder's archives, as `sha256sum --check` reads them.
pub(crate) fn write_checksums(folder: &Path) -> Result<()> {
    let mut archives = walk(folder)?;
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
    archives.sort();
    ensure!(!archives.is_empty(), "{} has no archive; run `make dist`", folder.display());
    let mut lines = String::new();
    for path in archives {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        lines.push_str(&format!("{}  {name}\n", sha256(&read(&path)?)));
    }
    write(&folder.join(CHECKSUMS), lines.as_bytes())
}
