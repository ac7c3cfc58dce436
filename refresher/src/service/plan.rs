//! What a service is to be.

use std::path::{Path, PathBuf};

use super::Error;

/// The service's name.
pub const NAME: &str = "torchbearer";

/// Its name with launchd.
pub const LABEL: &str = "torchbearer.refresher";

/// Which service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// systemd, on Linux.
    Systemd,
    /// launchd, on macOS.
    Launchd,
}

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The user's, with the user's session or lingering.
    User,
    /// The machine's.
    System,
}

/// What it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The sidecar and Envoy.
    Up,
    /// The sidecar alone.
    Serve,
}

/// What a service is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The service manager.
    pub kind: Kind,
    /// Whose it is.
    pub scope: Scope,
    /// What it runs.
    pub role: Role,
    /// The program and its arguments.
    pub command: Vec<PathBuf>,
    /// Environment variables; no secret is among them.
    pub environment: Vec<(String, String)>,
    /// Of the system's: whom it runs as.
    pub user: Option<String>,
    /// Directories that it writes to, the state directory first.
    pub writable: Vec<PathBuf>,
    /// Whether the state directory is the manager's affair (`StateDirectory=`).
    pub managed_state: bool,
    /// Whether the kernel lets the manager give it a file system of its own.
    pub namespaces: bool,
    /// systemd's version, where it is known.
    pub version: Option<u32>,
    /// How long it may take to stop, in seconds.
    pub stop_s: u64,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, if it is set.
    pub config_home: Option<PathBuf>,
}

impl Plan {
    /// Where the service's file belongs.
    ///
    /// # Errors
    ///
    /// When there is no home directory for it.
    pub fn file(&self) -> Result<PathBuf, Error> {
        let home = || self.home.clone().ok_or(Error::NoHome);
        Ok(match (self.kind, self.scope) {
            (Kind::Systemd, Scope::System) => {
                Path::new("/etc/systemd/system").join(format!("{NAME}.service"))
            }
            (Kind::Systemd, Scope::User) => {
                let config = self
                    .config_home
                    .clone()
                    .map_or_else(|| Ok(home()?.join(".config")), Ok::<_, Error>)?;
                config.join("systemd/user").join(format!("{NAME}.service"))
            }
            (Kind::Launchd, Scope::System) => {
                Path::new("/Library/LaunchDaemons").join(format!("{LABEL}.plist"))
            }
            (Kind::Launchd, Scope::User) => {
                home()?.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
            }
        })
    }
}

/// The text of a path or value without control characters.
pub(super) fn plain<'a>(what: &str, path: &'a Path) -> Result<&'a str, Error> {
    let text = path.to_str().ok_or_else(|| Error::Encoding { path: path.display().to_string() })?;
    if text.chars().any(char::is_control) {
        return Err(Error::Control { what: what.to_owned() });
    }
    Ok(text)
}
