//! The images of a run: the refresher's, which is the shipped one under a name of ours, and those of
//! Envoy and the provider, made of the programs that this machine has. Made once, removed at the end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tests::envoy_binary;

/// What the containers of a run are made of.
#[derive(Clone, Debug)]
pub struct Images {
    /// The shipped image.
    pub refresher: String,
    /// Envoy, with the bash that its health check wants.
    pub envoy: String,
    /// The provider.
    pub provider: String,
}

/// The tag of this run's images, so that two runs do not remove each other's.
pub fn tag() -> String {
    format!("run-{}", std::process::id())
}

fn name(of: &str) -> String {
    format!("torchbearer-test/{of}:{}", tag())
}

static MADE: OnceLock<Result<Images, String>> = OnceLock::new();

/// Makes them, the first time.
pub fn made() -> Result<Images> {
    let made = MADE.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.clone().map_err(|error| anyhow!("the images: {error}"))
}

/// Removes what was made.
pub fn remove() {
    if MADE.get().is_some() {
        let names = ["refresher", "envoy", "provider"].map(name);
        let mut command = Command::new("docker");
        command.args(["image", "rm", "--force"]).args(names);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn make() -> Result<Images> {
    let refresher = load_shipped()?;
    let mut files = Files::default();
    files.program(&envoy_binary()?, "usr/local/bin/envoy")?;
    files.program(Path::new("/bin/bash"), "bin/bash")?;
    let envoy = files.import("envoy")?;
    let mut files = Files::default();
    let own = std::env::current_exe()?;
    // Tests live one folder below the programs.
    let program = own.ancestors().nth(2).map(|folder| folder.join("provider"));
    let program = program.filter(|path| path.is_file());
    files.program(
        &program.context("the provider has not been built; run `cargo build --workspace`")?,
        "usr/local/bin/provider",
    )?;
    let provider = files.import("provider")?;
    Ok(Images { refresher, envoy, provider })
}

/// Loads the archive that `make images` has made, under another name, so that an image of that name
/// stays what it is.
fn load_shipped() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let path = root.join("target/images/refresher.tar");
    let file = File::open(&path);
    let file = file.with_context(|| format!("{}; run `make images`", path.display()))?;
    let name = name("refresher");
    let mut renamed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(file).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if path == Path::new("manifest.json") {
            let mut manifest: Value = serde_json::from_slice(&content)?;
            let tags = manifest.pointer_mut("/0/RepoTags").context("the image has no name")?;
            *tags = json!([name]);
            content = serde_json::to_vec(&manifest)?;
            header.set_size(content.len().try_into()?);
        } else if path == Path::new("index.json") || path == Path::new("oci-layout") {
            // Of the two ways to say what is in it, only the other one has the new name.
            continue;
        }
        renamed.append_data(&mut header, path, content.as_slice())?;
    }
    feed(&["load", "--quiet"], &renamed.into_inner()?)?;
    Ok(name)
}

/// The files of an image.
#[derive(Default)]
struct Files {
    archive: Option<tar::Builder<Vec<u8>>>,
    known: BTreeSet<PathBuf>,
}

impl Files {
    /// Adds a program and the libraries that it is linked with.
    fn program(&mut self, program: &Path, path: &str) -> Result<()> {
        self.add(program, Path::new(path))?;
        let ldd = Command::new("ldd").arg(program).output().context("ldd")?;
        ensure!(ldd.status.success(), "{}: not linked with libraries", program.display());
        for line in String::from_utf8_lossy(&ldd.stdout).lines() {
            // `NAME => PATH (ADDRESS)`, or of the loader `PATH (ADDRESS)`.
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library.map(Path::new) {
                self.add(library, library.strip_prefix("/")?)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, from: &Path, path: &Path) -> Result<()> {
        if self.known.insert(path.to_owned()) {
            let content = fs::read(from).with_context(|| from.display().to_string())?;
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(content.len().try_into()?);
            let archive = self.archive.get_or_insert_with(|| tar::Builder::new(Vec::new()));
            archive.append_data(&mut header, path, content.as_slice())?;
        }
        Ok(())
    }

    fn import(self, of: &str) -> Result<String> {
        let name = name(of);
        let archive = self.archive.context("an image without files")?.into_inner()?;
        feed(&["import", "-", &name], &archive)?;
        Ok(name)
    }
}

/// Runs a docker command that reads an archive.
fn feed(arguments: &[&str], archive: &[u8]) -> Result<()> {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("docker")?;
    let written = child.stdin.take().context("docker reads nothing")?.write_all(archive);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(written?)
}
