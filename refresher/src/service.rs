//! `up` or `serve` as a service: a systemd unit or a launchd property list, written, loaded and
//! started, and taken away again. Logins and keys are never touched.

pub mod launchd;
pub mod manager;
pub mod plan;
pub mod systemd;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::store;
pub use plan::{Kind, Plan, Role, Scope};

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path or value that no unit can hold.
    #[error("{what}: has control characters, which a service's file cannot hold")]
    Control {
        /// Where they are.
        what: String,
    },
    /// A path that is not text.
    #[error("{path}: is not UTF-8, which a service's file has to be")]
    Encoding {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// Nobody to run it as.
    #[error(
        "a service of the system needs a user; accepted: --run-as USER, best one that can do nothing else"
    )]
    NoUser,
    /// There is no home directory to put it in.
    #[error("HOME is not set; accepted: a home directory, or --system")]
    NoHome,
    /// The file cannot be written, read or removed.
    #[error("{path}: cannot {operation}")]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The property list.
    #[error("the property list cannot be written")]
    Plist(#[from] plist::Error),
    /// The service manager's program.
    #[error(transparent)]
    Manager(#[from] manager::Error),
}

/// The text of the service's file.
///
/// # Errors
///
/// When a path does not fit in.
pub fn text(plan: &Plan) -> Result<String, Error> {
    match plan.kind {
        Kind::Systemd => systemd::unit(plan),
        Kind::Launchd => launchd::list(plan),
    }
}

/// Writes the file where it is new or different, and has the service manager start it.
///
/// # Errors
///
/// See [`Error`].
pub fn install(plan: &Plan, out: &mut impl Write) -> Result<(), Error> {
    let text = text(plan)?;
    let path = plan.file()?;
    let known = std::fs::read_to_string(&path).ok();
    let unchanged = known.as_deref() == Some(text.as_str());
    if let Some(directory) = plan.writable.first().filter(|_| plan.scope == Scope::User) {
        // What is to be writable in the sandbox has to be there.
        store::create_private_directory(directory)?;
    }
    if unchanged {
        say(out, format_args!("{} is as it should be", path.display()));
    } else {
        write(&path, &text)?;
        say(out, format_args!("wrote {}", path.display()));
    }
    for call in manager::install(plan, &path, known.is_some() && !unchanged) {
        call.run()?;
        say(out, format_args!("{call}"));
    }
    Ok(())
}

/// Stops the service and removes its file; says so where there is none.
///
/// # Errors
///
/// See [`Error`].
pub fn uninstall(plan: &Plan, out: &mut impl Write) -> Result<(), Error> {
    let path = plan.file()?;
    if !path.exists() {
        say(out, format_args!("{} is not there: nothing to remove", path.display()));
        return Ok(());
    }
    for call in manager::stop(plan, &path) {
        call.run()?;
        say(out, format_args!("{call}"));
    }
    let failed = |source| Error::File { operation: "remove", path: path.clone(), source };
    std::fs::remove_file(&path).map_err(failed)?;
    say(out, format_args!("removed {}", path.display()));
    for call in manager::forget(plan) {
        call.run()?;
        say(out, format_args!("{call}"));
    }
    say(out, format_args!("logins and client keys are where they were"));
    Ok(())
}

/// Says what is installed, enabled and running. Answers whether it runs.
///
/// # Errors
///
/// When the service manager cannot be asked.
pub fn status(plan: &Plan, out: &mut impl Write) -> Result<bool, Error> {
    let path = plan.file()?;
    let installed = match std::fs::read_to_string(&path) {
        Err(_) => "no",
        Ok(known) if text(plan).is_ok_and(|text| text == known) => "yes",
        Ok(_) => "yes, not as \"refresher service install\" would write it now",
    };
    say(out, format_args!("installed: {installed} ({})", path.display()));
    let (enabled, running) = manager::ask(plan)?;
    say(out, format_args!("enabled: {enabled}"));
    say(out, format_args!("running: {running}"));
    Ok(running == "active")
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { operation: "write", path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // The manager reads it as another user: there is nothing secret in it.
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).map_err(failed)?;
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    std::fs::set_permissions(&draft, mode).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

fn say(out: &mut impl Write, line: std::fmt::Arguments<'_>) {
    // Who does not listen misses nothing that matters.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests;
