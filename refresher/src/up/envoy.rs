//! Which Envoy: where it is, whether it is new enough, whether it runs Wasm.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{chain, store};

/// The oldest Envoy whose upstream filters survive a replay.
pub const OLDEST: (u32, u32) = (1, 37);

/// How long an Envoy may take to say what it is.
const DEADLINE: Duration = Duration::from_secs(10);

/// The runtime that the filter needs, as Envoy lists it.
const RUNTIME: &str = "envoy.wasm.runtime.v8";

/// Why an Envoy is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(
        "no envoy beside this program or on PATH; accepted: its path in ENVOY_BIN or envoy.bin"
    )]
    NotFound,
    /// It does not run.
    #[error("{path}: cannot be run")]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it is.
    #[error("{path}: did not print an Envoy version within {} s", DEADLINE.as_secs())]
    NotEnvoy {
        /// The program.
        path: PathBuf,
    },
    /// Too old.
    #[error("{path}: is Envoy {found}; accepted: {}.{} or newer", OLDEST.0, OLDEST.1)]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// Built without V8.
    #[error("{path}: was built without {RUNTIME}; accepted: an Envoy that lists it at start")]
    NoWasm {
        /// The program.
        path: PathBuf,
    },
}

/// An Envoy program.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// Has it check a bootstrap, which goes through a pipe: no file has to be made for it. Its standard
    /// error says what is wrong with it.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub async fn validate(&self, bootstrap: &str) -> std::io::Result<Output> {
        let mut envoy = Command::new(&self.path)
            .args(["--mode", "validate", "--use-dynamic-base-id", "--log-level", "error"])
            .args(["-c", "/dev/fd/0"])
            .env_remove("PROXY_API_KEY")
            .env_remove("TORCHBEARER_CLIENT_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = envoy.stdin.take() {
            // One that does not read it says why.
            let _ = stdin.write_all(bootstrap.as_bytes()).await;
        }
        envoy.wait_with_output().await
    }

    /// The configured program, else `envoy` beside this program, where an installation puts it, else
    /// `envoy` on `PATH`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn find(configured: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = configured {
            return Ok(Self { path: path.to_owned() });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = std::env::current_exe().ok();
        let beside = beside.and_then(|program| program.parent().map(Path::to_owned));
        let found = beside
            .into_iter()
            .chain(std::env::split_paths(&path))
            .map(|directory| directory.join("envoy"))
            .find(|candidate| candidate.is_file());
        found.map(|path| Self { path }).ok_or(Error::NotFound)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    ///
    /// # Errors
    ///
    /// When it does not tell one.
    pub async fn version(&self) -> Result<String, Error> {
        let found = version(&self.ask(&["--version"]).await?);
        found.map(|(_, _, shown)| shown).ok_or_else(|| Error::NotEnvoy { path: self.path.clone() })
    }

    /// Checks that it is new enough and runs Wasm; the same file has to show that once only.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn check_once(&self, state_dir: &Path) -> Result<(), Error> {
        let note = state_dir.join("envoy/checked");
        let identity = self.identity();
        let known = std::fs::read_to_string(&note).ok();
        if known.is_some() && known == identity {
            return Ok(());
        }
        self.check().await?;
        if let Some(identity) = identity
            && let Err(error) = store::create_private_directory(&state_dir.join("envoy"))
                .and_then(|()| store::replace_private(&note, identity.as_bytes()))
        {
            tracing::debug!(error = %chain::line(&error), "envoy is checked again next time");
        }
        Ok(())
    }

    /// What tells this program from another, and from a later one under the same name.
    fn identity(&self) -> Option<String> {
        use std::os::unix::fs::MetadataExt as _;
        let path = std::fs::canonicalize(&self.path).ok()?;
        let stat = std::fs::metadata(&path).ok()?;
        let (device, inode, size) = (stat.dev(), stat.ino(), stat.size());
        let (changed, changed_ns) = (stat.ctime(), stat.ctime_nsec());
        let (modified, modified_ns) = (stat.mtime(), stat.mtime_nsec());
        Some(format!(
            "{}\n{device} {inode} {size} {modified}.{modified_ns} {changed}.{changed_ns}\n",
            path.display()
        ))
    }

    /// Checks that it is new enough and runs Wasm.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn check(&self) -> Result<(), Error> {
        let path = || self.path.clone();
        // Envoy lists its extensions before it reads its configuration, so one that it must
        // refuse makes it say what it can do and exit.
        let refused = r#"{"list_the_extensions_and_exit": true}"#;
        let listing = ["--use-dynamic-base-id", "--log-level", "info", "--config-yaml", refused];
        let (text, log) = tokio::join!(self.ask(&["--version"]), self.ask(&listing));
        let text = text?;
        let (major, minor, found) =
            version(&text).ok_or_else(|| Error::NotEnvoy { path: path() })?;
        if (major, minor) < OLDEST {
            return Err(Error::TooOld { path: path(), found });
        }
        if lists(&log?, RUNTIME) { Ok(()) } else { Err(Error::NoWasm { path: path() }) }
    }

    async fn ask(&self, arguments: &[&str]) -> Result<String, Error> {
        let run = Command::new(&self.path)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, run)
            .await
            .map_err(|_| Error::NotEnvoy { path: self.path.clone() })?
            .map_err(|source| Error::Run { path: self.path.clone(), source })?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }
}

/// Reads `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn version(text: &str) -> Option<(u32, u32, String)> {
    let (_, rest) = text.split_once("version:")?;
    let number = rest.split('/').nth(1)?;
    let mut parts = number.split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    // Printed in an error: only what a version is made of.
    let shown = number.chars().take_while(|c| c.is_ascii_alphanumeric() || ".-".contains(*c));
    Some((major, minor, shown.take(32).collect()))
}

/// Whether an extension is in one of the log's lists.
fn lists(log: &str, extension: &str) -> bool {
    log.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "\n/x/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version(text), Some((1, 40, "1.40.0".to_owned())));
        assert_eq!(version("version: a/1.36.4-dev/Clean"), Some((1, 36, "1.36.4-dev".to_owned())));
        for bad in ["", "envoy 1.40", "version: x", "version: a/b/c"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_extension_is_found_as_a_whole_word() {
        let log = "[info]   envoy.wasm.runtime: envoy.wasm.runtime.null, envoy.wasm.runtime.v8\n";
        assert!(lists(log, RUNTIME));
        assert!(!lists("envoy.wasm.runtime: envoy.wasm.runtime.null\n", RUNTIME));
        assert!(!lists("envoy.wasm.runtime.v8x", RUNTIME));
    }
}
