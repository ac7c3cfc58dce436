//! One credential as a small JSON document, for `import` on another machine.

use filter::bundle::AccessToken;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::clock;
use crate::config::Config;
use crate::secret::Secret;
use crate::store::{self, Grant, Store};

/// The version of the document that this release writes and reads.
pub const VERSION: u64 = 1;

/// What the document says of where it comes from.
pub const SOURCE: &str = "torchbearer";

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to export.
    #[error("credential {credential} of provider {provider} is not logged in")]
    NotLoggedIn {
        /// The credential.
        credential: String,
        /// The provider's name.
        provider: String,
    },
    /// It would be of no use to anybody.
    #[error("the login of credential {credential} has ended ({reason}); log in again first")]
    Dead {
        /// The credential.
        credential: String,
        /// Why, in a word.
        reason: String,
    },
    /// It is not the configured provider's.
    #[error("the stored grant of credential {credential} is of another provider or client")]
    Foreign {
        /// The credential.
        credential: String,
    },
    /// The secrets would be on the screen.
    #[error(
        "standard output is a terminal, which would show the secrets; accepted: a file or a pipe, or --force"
    )]
    Terminal,
    /// The grant cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
}

#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    source: &'static str,
    exported_at: u64,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    token_endpoint: &'a str,
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a AccessToken>,
    refresh_token: &'a Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    obtained_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}

/// The stored grant of a credential as a document that ends with a line break. Its times are Unix
/// seconds.
///
/// # Errors
///
/// See [`Error`].
pub async fn document(config: &Config, credential: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let store = Store::open(config, credential)?;
    // A refresh that is under way ends first: what it spends would be exported dead.
    let lock = store.lock().await?;
    let now = clock::now().unix();
    let grant = match store.load(now)? {
        Some(stored) => Some(lock.recover(&stored)?.unwrap_or(stored)),
        None => None,
    };
    drop(lock);
    let Some(mut grant) = grant else {
        let provider = config.provider.name.clone();
        return Err(Error::NotLoggedIn { credential: credential.to_owned(), provider });
    };
    if let Some(verdict) = grant.verdict {
        return Err(Error::Dead { credential: credential.to_owned(), reason: verdict.reason });
    }
    if grant.client_id.is_empty() {
        grant.client_id.clone_from(&config.provider.client_id);
    }
    if !config.provider.granted(&grant) {
        return Err(Error::Foreign { credential: credential.to_owned() });
    }
    Ok(write(&grant, &config.provider.name, now))
}

fn write(grant: &Grant, provider: &str, unix: u64) -> Zeroizing<Vec<u8>> {
    let token = grant.token.as_ref();
    let document = Document {
        version: VERSION,
        source: SOURCE,
        exported_at: unix,
        provider,
        issuer: grant.issuer.as_deref(),
        token_endpoint: grant.token_endpoint.as_str(),
        client_id: &grant.client_id,
        access_token: token.map(|token| &token.access_token),
        refresh_token: &grant.refresh_token,
        obtained_at: token.map(|token| token.obtained_at),
        expires_at: token.map(|token| token.expires_at),
        scope: grant.scope.as_deref(),
    };
    // Room for all at once: growing would leave copies of the secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(32 << 10));
    // String keys and no floats always serialize; an empty document would be refused by `import`.
    if serde_json::to_writer_pretty(&mut *bytes, &document).is_err() {
        bytes.clear();
    }
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::format::{self, Format};
    use crate::store::TokenRecord;

    #[test]
    fn what_is_written_is_read_again() {
        let endpoint = "https://id.example/token".parse().unwrap();
        let secret = Secret::new("rt-1".into());
        let issuer = Some("https://id.example".to_owned());
        let mut grant = Grant::new(issuer, endpoint, "client".into(), secret, 5);
        for token in [
            None,
            Some(TokenRecord {
                access_token: "at-1".parse().unwrap(),
                obtained_at: 1_779_000_000,
                expires_at: 1_779_021_600,
                generation: 5,
            }),
        ] {
            grant.token = token;
            let bytes = write(&grant, "acme", 1_779_000_001);
            let [found] = format::read(&bytes, None).unwrap().try_into().unwrap();
            assert_eq!(found.format, Format::Torchbearer);
            assert_eq!(found.refresh_token, grant.refresh_token);
            assert_eq!(found.client_id.as_deref(), Some("client"));
            assert_eq!(found.issuer, grant.issuer);
            assert_eq!(found.token_endpoint.as_deref(), Some("https://id.example/token"));
            let token = grant.token.as_ref();
            assert_eq!(found.access_token.as_ref(), token.map(|token| &token.access_token));
            assert_eq!(found.obtained_at, token.map(|token| token.obtained_at));
            assert_eq!(found.expires_at, token.map(|token| token.expires_at));
        }
    }
}
