//! What a grant file says.

use filter::bundle::AccessToken;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::clock::Now;
use crate::oauth::client::AuthMethod;
use crate::oauth::lifetime;
use crate::rotation::{Facts, Token};
use crate::schedule::Life;
use crate::secret::Secret;

/// The version of the file that this release reads and writes.
pub const VERSION: u64 = 1;

/// A refresh token and its facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    version: u64,
    /// What the provider calls itself, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Where the refresh token is exchanged, and nowhere else.
    pub token_endpoint: Url,
    /// The client that it was granted to.
    pub client_id: String,
    /// How the client presents its secret there, where the provider publishes that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_method: Option<AuthMethod>,
    /// The refresh token.
    pub refresh_token: Secret,
    /// The access token, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenRecord>,
    /// The scope, where the provider says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whose file it was imported from; unset for a login of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Grows with every change: milliseconds since the epoch, and more than the last.
    pub generation: u64,
    /// Why the refresh token is dead, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// An access token as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The token.
    pub access_token: AccessToken,
    /// When it was granted, in Unix seconds.
    pub obtained_at: u64,
    /// When it expires, in Unix seconds.
    pub expires_at: u64,
    /// The bundle generation that first carries it.
    pub generation: u64,
}

impl TokenRecord {
    /// A token that was granted at `obtained_at`, in Unix seconds, for a life of `life_s` seconds.
    pub fn new(access_token: AccessToken, obtained_at: u64, life_s: u64, generation: u64) -> Self {
        let expires_at = obtained_at.saturating_add(life_s);
        Self { access_token, obtained_at, expires_at, generation }
    }
}

/// The end of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Why, in a word.
    pub reason: String,
    /// Since when, in Unix seconds.
    pub at: u64,
}

impl Grant {
    /// A grant without an access token, of the current version.
    pub fn new(
        issuer: Option<String>,
        token_endpoint: Url,
        client_id: String,
        refresh_token: Secret,
        generation: u64,
    ) -> Self {
        Self {
            version: VERSION,
            issuer,
            token_endpoint,
            client_id,
            auth_method: None,
            refresh_token,
            token: None,
            scope: None,
            source: None,
            generation,
            verdict: None,
        }
    }

    /// What the rotation needs to know, on the boot-time clock.
    pub fn facts(&self, unanswered: bool, now: Now) -> Facts {
        let token = self.token.as_ref().map(|token| {
            let expires_ms = now.on_boot_clock(token.expires_at);
            // A wall clock that was set back makes a token seem to come from the future.
            let obtained_ms = now.on_boot_clock(token.obtained_at).min(now.boot_ms);
            Token { generation: token.generation, life: Life { obtained_ms, expires_ms } }
        });
        Facts {
            generation: self.generation,
            fingerprint: self.refresh_token.fingerprint(),
            token,
            verdict: self.verdict.as_ref().map(|verdict| verdict.reason.clone()),
            unanswered,
        }
    }

    /// The generation of a change that happens at `unix_ms`.
    pub fn next_generation(&self, unix_ms: u64) -> u64 {
        unix_ms.max(self.generation.saturating_add(1))
    }
}

/// Why bytes are no grant.
pub(super) enum Unreadable {
    /// Of another version.
    Version(u64),
    /// Of no version.
    Shape,
}

/// Reads a grant, ours or a predecessor's.
pub(super) fn parse(bytes: &[u8]) -> Result<Grant, Unreadable> {
    #[derive(Deserialize)]
    struct Head {
        version: Option<u64>,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|_| Unreadable::Shape)?;
    let grant: Grant = match head.version {
        Some(VERSION) => serde_json::from_slice(bytes).map_err(|_| Unreadable::Shape)?,
        Some(other) => return Err(Unreadable::Version(other)),
        None => predecessor(bytes).ok_or(Unreadable::Shape)?,
    };
    if grant.refresh_token.expose().is_empty() { Err(Unreadable::Shape) } else { Ok(grant) }
}

/// The flat files of the two predecessors: the Python one has `client_id`, `expires_in` and
/// `last_refresh`, the Rust one `expires_at`. An access token without a known end is left out:
/// the first refresh brings one.
fn predecessor(bytes: &[u8]) -> Option<Grant> {
    #[derive(Deserialize)]
    struct Flat {
        refresh_token: Secret,
        token_endpoint: Url,
        access_token: Option<AccessToken>,
        client_id: Option<String>,
        expires_at: Option<Value>,
    }
    let flat: Flat = serde_json::from_slice(bytes).ok()?;
    // An empty id stands for the provider's own, which the reader fills in.
    let client_id = flat.client_id.unwrap_or_default();
    let mut grant = Grant::new(None, flat.token_endpoint, client_id, flat.refresh_token, 1);
    grant.token = flat.access_token.and_then(|access_token| {
        let stated = flat.expires_at.as_ref().and_then(Value::as_u64);
        let expires_at = lifetime::expiry_claim(access_token.expose()).or(stated)?;
        let obtained_at = expires_at.saturating_sub(lifetime::DEFAULT_SECONDS);
        Some(TokenRecord { access_token, obtained_at, expires_at, generation: 1 })
    });
    Some(grant)
}
