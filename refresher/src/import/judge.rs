//! Whether a candidate is the provider's, and whether it is newer than what is stored.

use filter::bundle::AccessToken;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::format::Candidate;
use crate::clock::Now;
use crate::oauth::lifetime::MAX_SECONDS;
use crate::provider::{Endpoints, Provider};
use crate::store::{Grant, TokenRecord};

/// Why a candidate must not be sent to the provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It says nothing about where it comes from.
    #[error(
        "it names neither a token_endpoint nor an issuer; accepted: those of provider {provider}"
    )]
    Placeless {
        /// The provider.
        provider: String,
    },
    /// It is another provider's.
    #[error("its {field} is {found}; accepted: {accepted}, that of provider {provider}")]
    Elsewhere {
        /// Which of the two differs.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What the provider says.
        accepted: String,
        /// The provider.
        provider: String,
    },
    /// It was granted to another client than the configured one.
    #[error(
        "it was granted to client {found:?}; accepted: {accepted:?}, that of provider {provider}; \
         --client-id {found} takes it with its own client"
    )]
    OtherClient {
        /// The file's client.
        found: String,
        /// The configured client.
        accepted: String,
        /// The provider.
        provider: String,
    },
}

/// Makes the candidate a grant, or says why it is none of this provider's. `client_id` is the
/// client that the user states.
///
/// # Errors
///
/// See [`Refused`].
pub fn admit(
    candidate: &Candidate,
    provider: &Provider,
    endpoints: &Endpoints,
    client_id: Option<&str>,
    now: Now,
) -> Result<Grant, Refused> {
    require_place(candidate, provider, endpoints)?;
    let client_id = choose_client(candidate, provider, client_id)?;
    let mut grant = Grant::new(
        endpoints.issuer.clone(),
        endpoints.token.clone(),
        client_id,
        candidate.refresh_token.clone(),
        now.unix_ms,
    );
    grant.auth_method = endpoints.auth_method;
    grant.scope.clone_from(&candidate.scope);
    grant.source = Some(candidate.format.name().to_owned());
    grant.token = token(candidate, now);
    Ok(grant)
}

/// A token whose end is unknown is left out: it counts as expired, and the first refresh is due at
/// once.
fn token(candidate: &Candidate, now: Now) -> Option<TokenRecord> {
    let access_token = candidate.access_token.clone()?;
    let latest = now.unix().saturating_add(MAX_SECONDS);
    let expires_at = candidate.expires_at?.min(latest);
    let obtained_at = candidate.obtained_at.unwrap_or(now.unix()).min(now.unix()).min(expires_at);
    Some(TokenRecord { access_token, obtained_at, expires_at, generation: now.unix_ms })
}

fn require_place(
    candidate: &Candidate,
    provider: &Provider,
    endpoints: &Endpoints,
) -> Result<(), Refused> {
    let elsewhere = |field, found: &str, accepted: &str| Refused::Elsewhere {
        field,
        found: shown(found),
        accepted: accepted.to_owned(),
        provider: provider.name.clone(),
    };
    if let Some(found) = &candidate.token_endpoint
        && Url::parse(found).ok().as_ref() != Some(&endpoints.token)
    {
        return Err(elsewhere("token_endpoint", found, endpoints.token.as_str()));
    }
    let same = |a: &str, b: &str| a.trim_end_matches('/') == b.trim_end_matches('/');
    match (&candidate.issuer, &endpoints.issuer) {
        (Some(found), Some(accepted)) if !same(found, accepted) => {
            Err(elsewhere("issuer", found, accepted))
        }
        // The endpoint was compared; the provider has no issuer to compare.
        (Some(_), None) if candidate.token_endpoint.is_some() => Ok(()),
        (Some(found), None) => Err(elsewhere("issuer", found, "a token_endpoint")),
        (None, _) if candidate.token_endpoint.is_none() => {
            Err(Refused::Placeless { provider: provider.name.clone() })
        }
        _ => Ok(()),
    }
}

/// An address of a file, without what may be a secret in it.
fn shown(found: &str) -> String {
    match Url::parse(found) {
        Ok(mut url) if url.has_host() => {
            url.set_query(None);
            url.set_fragment(None);
            // Neither fails on an address that has a host.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.into()
        }
        _ => "no URL".to_owned(),
    }
}

/// A refresh token is bound to its client (RFC 6749, section 6): it must be spent with the id that
/// it was granted to. A preset's id is only our choice, so another program's may differ; an id of
/// the user's own says which client is meant.
fn choose_client(
    candidate: &Candidate,
    provider: &Provider,
    stated: Option<&str>,
) -> Result<String, Refused> {
    if let Some(stated) = stated {
        return Ok(stated.to_owned());
    }
    let access_token = candidate.access_token.as_ref().map(AccessToken::expose);
    let id_token = candidate.id_token.as_ref().map(crate::secret::Secret::expose);
    let claimed = |token: Option<&str>| claimed_client(token?, &provider.client_id);
    let found = candidate.client_id.clone().filter(|id| is_client(id));
    let found = found.or_else(|| claimed(access_token)).or_else(|| claimed(id_token));
    match found {
        None => Ok(provider.client_id.clone()),
        Some(found) if found == provider.client_id || provider.has_preset_client() => Ok(found),
        Some(found) => Err(Refused::OtherClient {
            found,
            accepted: provider.client_id.clone(),
            provider: provider.name.clone(),
        }),
    }
}

/// The client that a JWT names, unverified. An audience that is an address is the API's.
fn claimed_client(token: &str, expected: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        client_id: Option<Value>,
        aud: Option<Value>,
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let text = |value: &Value| value.as_str().filter(|id| is_client(id)).map(str::to_owned);
    if let Some(id) = claims.client_id.as_ref().and_then(text) {
        return Some(id);
    }
    let audience: Vec<String> = match claims.aud? {
        Value::Array(items) => items.iter().filter_map(text).collect(),
        other => text(&other).into_iter().collect(),
    };
    if audience.iter().any(|id| id == expected) {
        return Some(expected.to_owned());
    }
    audience.into_iter().find(|id| !id.contains("://"))
}

/// Whether this can be a client's id, for our purposes: visible ASCII, at most 256 bytes.
pub fn is_client(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How a candidate compares with the stored grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is stored, or only a dead grant.
    Wanted,
    /// Granted later.
    Newer,
    /// The same refresh token.
    Same,
    /// The refresh token that the provider has refused.
    Dead,
    /// Granted earlier, or at the same moment.
    Older,
    /// The times that would tell are missing.
    Unknown,
    /// The stored grant is of another provider or client.
    Foreign,
}

/// Compares a candidate with the stored grant: by when their access tokens were granted if both
/// say so, else by when they expire.
pub fn compare(candidate: &Candidate, stored: Option<&Grant>, provider: &Provider) -> Standing {
    let Some(stored) = stored else {
        return Standing::Wanted;
    };
    let same = stored.refresh_token == candidate.refresh_token;
    match (&stored.verdict, same) {
        (Some(_), true) => return Standing::Dead,
        (Some(_), false) => return Standing::Wanted,
        (None, true) => return Standing::Same,
        (None, false) => {}
    }
    let ours = stored.client_id.is_empty() || provider.granted(stored);
    if !ours {
        return Standing::Foreign;
    }
    let token = stored.token.as_ref();
    let obtained = candidate.obtained_at.zip(token.map(|token| token.obtained_at));
    let expires = || candidate.expires_at.zip(token.map(|token| token.expires_at));
    match obtained.or_else(expires) {
        Some((offered, held)) if offered > held => Standing::Newer,
        Some(_) => Standing::Older,
        None => Standing::Unknown,
    }
}

#[cfg(test)]
mod tests;
