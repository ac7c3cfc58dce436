//! The environment: variables as text, and the places that they name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::problem::Problems;
use super::{Error, catalogue};

/// Reads one environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Looks whether the variables that are read are text. One that is none, taken for unset, might have
/// kept somebody out.
///
/// # Errors
///
/// When some are not.
pub fn require_text(env: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Error> {
    const PLACES: [&str; 4] = ["HOME", "TORCHBEARER_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"];
    let settings = catalogue::SETTINGS.iter().map(|setting| setting.variables);
    let others = catalogue::VARIABLES.iter().map(|variable| variable.names);
    let names: BTreeSet<_> = settings.chain(others).flatten().chain(&PLACES).collect();
    let mut problems = Problems::default();
    for name in names {
        if env(name).is_some_and(|value| value.to_str().is_none()) {
            problems.unaccepted(name, "not UTF-8", "text in UTF-8");
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Settings(problems)) }
}

pub(super) fn text(env: Environment<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

pub(super) fn path(
    flag: Option<&PathBuf>,
    env: Environment<'_>,
    name: &str,
    file: Option<PathBuf>,
) -> Option<PathBuf> {
    flag.cloned()
        .or_else(|| text(env, name).map(PathBuf::from))
        .or(file)
        .map(|path| path.to_str().map_or_else(|| path.clone(), |text| expand(text, env)))
}

/// A leading `~/` is the home directory, since a file has no shell to say so.
pub(super) fn expand(path: &str, env: Environment<'_>) -> PathBuf {
    match (path.strip_prefix("~/"), text(env, "HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

pub(super) fn home(env: Environment<'_>, variable: &str, default: &str) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is to be ignored.
    let stated = text(env, variable).map(PathBuf::from).filter(|path| path.is_absolute());
    stated.or_else(|| text(env, "HOME").map(|home| Path::new(&home).join(default)))
}
