//! Where other programs keep their logins, and which of them is watched.

use std::path::{Path, PathBuf};

use super::file::File;
use super::problem::Problems;
use super::{Environment, path, text, value};

/// Where other programs keep their logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Hermes's file, to be watched by `serve` and `up`; unset: nothing is watched.
    pub hermes: Option<PathBuf>,
    /// Seconds between two looks at it. Default: 60; at least 5.
    pub poll_interval_s: u64,
    /// Where `import` finds Hermes's file: the watched one, else `~/.hermes/auth.json`.
    pub hermes_file: Option<PathBuf>,
    /// Where `import` finds the Grok CLI's: `~/.grok/auth.json`.
    pub grok_file: Option<PathBuf>,
}

pub(super) fn resolve(file: &File, env: Environment<'_>, problems: &mut Problems) -> Import {
    let poll_interval_s = match text(env, "HERMES_POLL_INTERVAL") {
        Some(variable) => problems.take("HERMES_POLL_INTERVAL", value::poll(&variable)),
        None => file.poll_interval_s,
    };
    let hermes = path(None, env, "HERMES_AUTH_PATH", file.hermes.clone());
    let at_home = |path| text(env, "HOME").map(|home| Path::new(&home).join(path));
    Import {
        hermes_file: hermes.clone().or_else(|| at_home(".hermes/auth.json")),
        hermes,
        poll_interval_s: poll_interval_s.unwrap_or(60),
        grok_file: at_home(".grok/auth.json"),
    }
}
