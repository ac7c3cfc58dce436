//! Taking over a login from another program: Hermes, the Grok CLI, the predecessors, or an export
//! of ours.
//!
//! What a file says is judged by plain functions ([`mod@format`], [`judge`]); the file, the provider's
//! metadata and the store are met here and in [`source`].

pub mod format;
pub mod judge;
pub mod moment;
pub mod source;
pub mod watch;

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::provider::discovery::Need;
use crate::provider::{Endpoints, Provider, discovery};
use crate::store::{self, Store};
use crate::{chain, clock, login};
use format::{Candidate, Format, Unreadable};
use judge::{Refused, Standing};

/// Why nothing was imported. The stored grant is intact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file to read.
    #[error("no file to import; accepted: a PATH, - for standard input, or a login of {}", named(.looked))]
    NoSource {
        /// Where one was looked for.
        looked: Vec<PathBuf>,
    },
    /// The file is not read.
    #[error("{source_name}")]
    Source {
        /// The file.
        source_name: String,
        /// Why.
        source: source::Error,
    },
    /// There is nothing to import in it.
    #[error("{source_name}: {reason}")]
    Unreadable {
        /// The file.
        source_name: String,
        /// Why.
        reason: Unreadable,
    },
    /// It is none of the provider's.
    #[error("{source_name}: {reason}")]
    Refused {
        /// The file.
        source_name: String,
        /// Why.
        reason: Refused,
    },
    /// The stored grant stays.
    #[error("the stored grant is kept: {reason}; --force replaces it")]
    Kept {
        /// Why.
        reason: &'static str,
    },
    /// The provider's endpoints are not known.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// The grant cannot be stored.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether the same file may be imported a little later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Discovery(_) | Self::Store(_) | Self::Source { .. })
    }
}

fn named(looked: &[PathBuf]) -> String {
    let paths: Vec<String> = looked.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

/// How an import ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The grant is stored.
    Imported(Format),
    /// It was stored before.
    Unchanged(Format),
}

/// What the user can say about an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whose file it is; unset: told from its content.
    pub from: Option<Format>,
    /// The client that it was granted to; unset: told from its content.
    pub client_id: Option<String>,
    /// Replace a stored grant that is newer, or may be.
    pub force: bool,
}

/// Where the tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Input,
}

/// Where to read, as the user says or as the format has it.
///
/// # Errors
///
/// [`Error::NoSource`] when nothing is stated and nothing is found.
pub fn locate(
    stated: Option<&Path>,
    from: Option<Format>,
    config: &Config,
) -> Result<Source, Error> {
    if let Some(path) = stated {
        let input = path == Path::new("-");
        return Ok(if input { Source::Input } else { Source::File(path.to_owned()) });
    }
    let (hermes, grok) = (&config.import.hermes_file, &config.import.grok_file);
    let looked: Vec<PathBuf> = match from {
        Some(Format::Hermes) => hermes.iter().cloned().collect(),
        Some(Format::GrokCli) => grok.iter().cloned().collect(),
        Some(_) => Vec::new(),
        None => hermes.iter().chain(grok).cloned().collect(),
    };
    match looked.iter().find(|path| path.exists()) {
        Some(path) => Ok(Source::File(path.clone())),
        None => Err(Error::NoSource { looked }),
    }
}

/// Imports from a source under the name of `credential`.
///
/// # Errors
///
/// See [`Error`].
pub async fn run(
    config: &Config,
    credential: &str,
    source: &Source,
    options: &Options,
) -> Result<Outcome, Error> {
    let (source_name, bytes) = match source {
        Source::File(path) => (path.display().to_string(), source::read(path)),
        Source::Input => ("standard input".to_owned(), source::all(&mut std::io::stdin().lock())),
    };
    let bytes =
        bytes.map_err(|source| Error::Source { source_name: source_name.clone(), source })?;
    let unreadable = |reason| Error::Unreadable { source_name: source_name.clone(), reason };
    let candidates = format::read(&bytes, options.from).map_err(unreadable)?;
    let endpoints = endpoints(&config.provider).await?;
    let client_id = options.client_id.as_deref();
    let now = clock::now();
    let refused = |reason| Error::Refused { source_name: source_name.clone(), reason };
    let mut refusal = None;
    for candidate in &candidates {
        match judge::admit(candidate, &config.provider, &endpoints, client_id, now) {
            Ok(grant) => return keep(config, credential, candidate, grant, options.force).await,
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    // There is at least one candidate, so there is a reason.
    Err(refusal.map_or_else(|| unreadable(Unreadable::UnknownFormat), refused))
}

/// The endpoints to compare with. A stated token endpoint needs no network, unless a client
/// must prove itself there in a way that the provider publishes.
async fn endpoints(provider: &Provider) -> Result<Endpoints, discovery::Error> {
    match &provider.token_endpoint {
        Some(token) if provider.client_secret_file.is_none() => {
            Ok(discovery::configured(provider, token.clone()))
        }
        _ => discovery::resolve(provider, Need::Exchange).await,
    }
}

async fn keep(
    config: &Config,
    credential: &str,
    candidate: &Candidate,
    mut grant: store::Grant,
    force: bool,
) -> Result<Outcome, Error> {
    let store = Store::open(config, credential)?;
    // A refresh that is under way ends first, so that its result is compared.
    let lock = store.lock().await?;
    let now = clock::now();
    let stored = match store.load(now.unix()) {
        Err(error @ store::Error::Corrupt { .. }) => {
            tracing::warn!(error = %chain::line(&error), "replacing an unreadable grant");
            None
        }
        Ok(Some(stored)) => Some(lock.recover(&stored)?.unwrap_or(stored)),
        Ok(None) => None,
        Err(error) => return Err(error.into()),
    };
    let reason = match judge::compare(candidate, stored.as_ref(), &config.provider) {
        Standing::Wanted | Standing::Newer => None,
        Standing::Same if !force => return Ok(Outcome::Unchanged(candidate.format)),
        Standing::Same => None,
        Standing::Dead => Some("the provider has refused this refresh token"),
        Standing::Older => Some("it is newer"),
        Standing::Unknown => Some("nothing tells which of the two is newer"),
        Standing::Foreign => Some("it is of another provider or client"),
    };
    if let (Some(reason), false) = (reason, force) {
        return Err(Error::Kept { reason });
    }
    let generation =
        stored.as_ref().map_or(now.unix_ms, |stored| stored.next_generation(now.unix_ms));
    grant.generation = generation;
    if let Some(token) = &mut grant.token {
        token.generation = generation;
    }
    lock.save(&grant)?;
    lock.forget()?;
    drop(lock);
    login::notify(config).await;
    Ok(Outcome::Imported(candidate.format))
}
