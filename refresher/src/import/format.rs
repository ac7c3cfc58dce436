//! What the files of other programs say: bytes in, candidates for a grant out. Unknown fields are
//! ignored, and one of a wrong type counts as missing.

mod hermes;
mod json;

use filter::bundle::AccessToken;

use super::moment;
use crate::oauth::lifetime;
use crate::secret::Secret;
use json::Document;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hermes, `auth.json`.
    Hermes,
    /// The Grok CLI, `auth.json`.
    GrokCli,
    /// The Python predecessor, `auth_state.json` and its export.
    PythonProxy,
    /// The Rust predecessor, `tokens.json`.
    RustProxy,
    /// Our own export, or a grant file of ours.
    Torchbearer,
}

impl Format {
    /// The formats in the order in which they are looked for.
    pub const ALL: [Self; 5] =
        [Self::Torchbearer, Self::Hermes, Self::GrokCli, Self::PythonProxy, Self::RustProxy];

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::GrokCli => "grok-cli",
            Self::PythonProxy => "python-proxy",
            Self::RustProxy => "rust-proxy",
            Self::Torchbearer => "torchbearer",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// One set of tokens in a file, as it stands there.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whose file it is.
    pub format: Format,
    /// The refresh token.
    pub refresh_token: Secret,
    /// The access token, if there is a usable one.
    pub access_token: Option<AccessToken>,
    /// The id token: it may tell the client.
    pub id_token: Option<Secret>,
    /// The client that it was granted to, where the file says it.
    pub client_id: Option<String>,
    /// The issuer, where the file says it.
    pub issuer: Option<String>,
    /// Where it is exchanged, where the file says it.
    pub token_endpoint: Option<String>,
    /// When the access token was granted, in Unix seconds, where that can be told.
    pub obtained_at: Option<u64>,
    /// When it expires, in Unix seconds, where that can be told.
    pub expires_at: Option<u64>,
    /// The scope, where the file says it.
    pub scope: Option<String>,
}

/// Why a file offers nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No JSON.
    #[error("is not a JSON object; accepted: the files of {ACCEPTED}")]
    NotJson,
    /// JSON of nobody that is known.
    #[error("is of no known format; accepted: the files of {ACCEPTED}")]
    UnknownFormat,
    /// Not what it was said to be.
    #[error("is not a file of {}; it looks like {found}", .stated.name())]
    OtherFormat {
        /// What it was said to be.
        stated: Format,
        /// What it looks like.
        found: &'static str,
    },
    /// An export of a later release.
    #[error("is an export of another version; accepted: version {}", crate::export::VERSION)]
    Version,
    /// A file of the right shape in which nobody is logged in.
    #[error("has no refresh token: log in with {} first", .0.name())]
    NoTokens(Format),
}

const ACCEPTED: &str = "hermes, grok-cli, python-proxy, rust-proxy, torchbearer";

/// Reads a file; the best candidate comes first. Without `stated`, the format is told from the
/// content.
///
/// # Errors
///
/// See [`Unreadable`]. Nothing of the content is in it.
pub fn read(bytes: &[u8], stated: Option<Format>) -> Result<Vec<Candidate>, Unreadable> {
    let document = Document::parse(bytes).ok_or(Unreadable::NotJson)?;
    let detected = Format::ALL.into_iter().find(|&format| looks_like(&document, format));
    let format = match (stated, detected) {
        (None, None) => return Err(Unreadable::UnknownFormat),
        (None, Some(detected)) => detected,
        (Some(stated), _) if looks_like(&document, stated) => stated,
        (Some(stated), detected) => {
            let found = detected.map_or("none that is known", Format::name);
            return Err(Unreadable::OtherFormat { stated, found });
        }
    };
    let candidates = match format {
        Format::Hermes => hermes::read(&document),
        Format::GrokCli => grok_cli(&document),
        Format::PythonProxy => python_proxy(&document),
        Format::RustProxy => flat(&document, format).into_iter().collect(),
        Format::Torchbearer => torchbearer(&document)?,
    };
    if candidates.is_empty() { Err(Unreadable::NoTokens(format)) } else { Ok(candidates) }
}

fn looks_like(document: &Document, format: Format) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| document.has(name));
    match format {
        Format::Torchbearer => {
            document.text("source").is_some_and(|source| source == crate::export::SOURCE)
                || (has(&["version"]) && has(&["generation"]) && has(&["refresh_token"]))
        }
        Format::Hermes => has(&["providers", "credential_pool"]),
        Format::GrokCli => document.names().any(|name| name.contains("::")),
        Format::PythonProxy => {
            has(&[hermes::PROVIDER])
                || (has(&["token_endpoint"]) && has(&["client_id", "last_refresh", "expires_in"]))
        }
        Format::RustProxy => has(&["token_endpoint"]),
    }
}

/// The fields that most files share, under their standard names.
fn flat(document: &Document, format: Format) -> Option<Candidate> {
    let refresh_token = document.secret("refresh_token")?;
    let access_token: Option<AccessToken> =
        document.text("access_token").and_then(|token| token.parse().ok());
    let exposed = access_token.as_ref().map_or("", AccessToken::expose);
    let refreshed =
        ["obtained_at", "last_refresh"].into_iter().find_map(|name| document.moment(name));
    let life = || {
        let life = document.get("expires_in").and_then(lifetime::number)?;
        Some(refreshed?.saturating_add(life))
    };
    let expires_at =
        document.moment("expires_at").or_else(|| lifetime::expiry_claim(exposed)).or_else(life);
    Some(Candidate {
        format,
        refresh_token,
        obtained_at: refreshed.or_else(|| moment::issue_claim(exposed)),
        expires_at,
        access_token,
        id_token: document.secret("id_token"),
        client_id: document.word("client_id"),
        issuer: document.word("issuer"),
        token_endpoint: document.word("token_endpoint"),
        scope: document.word("scope"),
    })
}

/// A map from `"<issuer>::<client id>"` to a login; `key` is the access token.
fn grok_cli(document: &Document) -> Vec<Candidate> {
    let logins = document.names().filter_map(|name| Some((name.split_once("::")?, name)));
    let read = |((issuer, client_id), name): ((&str, &str), &str)| {
        let mut login = document.child(name)?;
        login.rename("key", "access_token");
        let mut candidate = flat(&login, Format::GrokCli)?;
        candidate.issuer = login.word("oidc_issuer").or(Some(issuer.to_owned()));
        candidate.client_id = login.word("oidc_client_id").or(Some(client_id.to_owned()));
        Some(candidate)
    };
    by_expiry(logins.filter_map(read).collect())
}

/// The state itself, or an export around an object of Hermes's shape.
fn python_proxy(document: &Document) -> Vec<Candidate> {
    let candidate = match document.child(hermes::PROVIDER) {
        Some(provider) => hermes::provider(&provider, Format::PythonProxy),
        None => flat(document, Format::PythonProxy),
    };
    candidate.into_iter().collect()
}

fn torchbearer(document: &Document) -> Result<Vec<Candidate>, Unreadable> {
    if document.get("version").and_then(serde_json::Value::as_u64) != Some(crate::export::VERSION) {
        return Err(Unreadable::Version);
    }
    let mut candidate = flat(document, Format::Torchbearer);
    // A grant file has the access token in a table of its own.
    if let (Some(candidate), Some(token)) = (&mut candidate, document.child("token")) {
        candidate.access_token = token.text("access_token").and_then(|token| token.parse().ok());
        candidate.obtained_at = token.moment("obtained_at");
        candidate.expires_at = token.moment("expires_at");
    }
    Ok(candidate.into_iter().collect())
}

/// The one that lives longest first.
fn by_expiry(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.expires_at));
    candidates
}

#[cfg(test)]
mod tests;
