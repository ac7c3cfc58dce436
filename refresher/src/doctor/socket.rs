//! Whether a refresher answers on the socket, and which.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::Duration;

use super::report::Finding;
use crate::config::Config;
use crate::overview::{OVERVIEW_PATH, Overview};
use crate::{chain, http, status};

/// How long it may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// What there is at the socket's path.
#[derive(Debug)]
pub(super) enum Socket {
    /// Nothing.
    Absent,
    /// A file, or a socket that others can use.
    Unsafe(Finding),
    /// A socket that nobody serves.
    Stale,
    /// Somebody, but no refresher of this release.
    Strange(String),
    /// A refresher.
    Answers(Box<Overview>),
}

/// Asks it.
pub(super) async fn ask(config: &Config) -> Socket {
    let path = &config.socket;
    let shown = path.display();
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Socket::Absent,
        Err(error) => {
            let says = format!("{shown}: cannot be looked at: {error}");
            return Socket::Unsafe(Finding::fail(
                says,
                "mend the permissions, or choose another socket",
            ));
        }
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        let says = format!("{shown}: exists and is not a socket");
        return Socket::Unsafe(Finding::fail(
            says,
            format!("rm {shown}, or choose another socket"),
        ));
    }
    if found.mode() & 0o077 != 0 {
        let says = format!("{shown}: others can use it (mode {:04o})", found.mode() & 0o7777);
        return Socket::Unsafe(Finding::fail(says, format!("chmod 600 {shown}")));
    }
    match http::ask_socket(path, OVERVIEW_PATH, false, DEADLINE).await {
        Err(http::Error::NotSent(_)) => Socket::Stale,
        Err(error) => Socket::Strange(chain::line(&error)),
        Ok(answer) => match serde_json::from_slice(&answer.body) {
            Ok(overview) => Socket::Answers(Box::new(overview)),
            Err(_) => {
                Socket::Strange(format!("its answer (status {}) is not understood", answer.status))
            }
        },
    }
}

impl Socket {
    /// What a refresher of this provider says.
    pub(super) fn overview(&self, config: &Config) -> Option<&Overview> {
        match self {
            Self::Answers(overview) if status::is_of(config, &overview.health) => Some(overview),
            _ => None,
        }
    }

    /// What it means. Where a `login` is missing, nothing could be served yet.
    pub(super) fn judge(&self, config: &Config, login: bool) -> Finding {
        let shown = config.socket.display();
        const START: &str = "refresher up, or refresher serve";
        match self {
            Self::Absent if login => Finding::skipped("no login is there to serve"),
            Self::Absent => Finding::fail(format!("{shown}: no refresher runs"), START),
            Self::Stale if login => Finding::skipped("no login is there to serve"),
            Self::Stale => {
                let says = format!("{shown}: stale: a refresher left it behind, and none runs");
                Finding::fail(says, format!("{START}, which replaces it"))
            }
            Self::Unsafe(finding) => finding.clone(),
            Self::Strange(reason) => {
                let says = format!("{shown}: no refresher of this release answers: {reason}");
                Finding::fail(says, "stop what serves there, then: refresher up")
            }
            Self::Answers(overview) if !status::is_of(config, &overview.health) => {
                let says = format!(
                    "{shown}: a refresher for provider {} answers, and not for {}",
                    overview.health.provider, config.provider.name
                );
                Finding::fail(says, "choose that provider, or another socket for this one")
            }
            Self::Answers(overview) => {
                let (theirs, ours) = (&overview.version, env!("CARGO_PKG_VERSION"));
                if theirs == ours {
                    Finding::ok(format!("a refresher of version {theirs} answers on {shown}"))
                } else {
                    let says =
                        format!("the refresher that runs has version {theirs}, this one {ours}");
                    Finding::warn(says, "restart the refresher")
                }
            }
        }
    }
}
