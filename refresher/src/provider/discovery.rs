//! What a provider publishes about itself (RFC 8414, `OpenID` Connect Discovery).

use serde::Deserialize;
use url::Url;

use crate::http;
use crate::oauth::answer::Response;
use crate::oauth::client::AuthMethod;
use crate::oauth::request;
use crate::provider::{Endpoints, Insecure, Provider, require_secure};

/// Why a provider's endpoints are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metadata could not be fetched.
    #[error("metadata of {issuer} cannot be fetched")]
    Http {
        /// The issuer.
        issuer: Url,
        /// Why.
        source: http::Error,
    },
    /// The metadata is not a JSON object with the endpoints.
    #[error("metadata of {issuer} is unusable (status {status})")]
    Unusable {
        /// The issuer.
        issuer: Url,
        /// The HTTP status.
        status: u16,
    },
    /// The metadata is somebody else's (RFC 8414, section 3.3).
    #[error("metadata of {issuer} names another issuer")]
    OtherIssuer {
        /// The issuer.
        issuer: Url,
    },
    /// An endpoint must not be used.
    #[error("{endpoint} of {issuer} is refused")]
    Address {
        /// The issuer.
        issuer: Url,
        /// The metadata's field.
        endpoint: &'static str,
        /// Why.
        source: Insecure,
    },
    /// Neither configured nor discoverable.
    #[error("provider {provider} has no token endpoint; set its issuer or token_endpoint")]
    NoTokenEndpoint {
        /// The provider's name.
        provider: String,
    },
}

/// The endpoints of a provider. Asks the issuer only for what the configuration leaves open.
///
/// # Errors
///
/// See [`Error`].
pub async fn resolve(provider: &Provider) -> Result<Endpoints, Error> {
    let complete = provider.authorization_endpoint.is_some()
        && provider.device_authorization_endpoint.is_some();
    match (&provider.token_endpoint, &provider.issuer) {
        (Some(token), issuer) if complete || issuer.is_none() => {
            Ok(overridden(provider, configured(provider, token.clone())))
        }
        (_, Some(issuer)) => Ok(overridden(provider, fetch(provider, issuer).await?)),
        (_, None) => Err(Error::NoTokenEndpoint { provider: provider.name.clone() }),
    }
}

/// Where a provider ends grants, if it does. Asks the issuer only where the configuration leaves
/// that open.
///
/// # Errors
///
/// See [`Error`].
pub async fn revocation_endpoint(provider: &Provider) -> Result<Option<Url>, Error> {
    match (&provider.revocation_endpoint, &provider.issuer) {
        (Some(configured), _) => Ok(Some(configured.clone())),
        (None, Some(issuer)) => Ok(fetch(provider, issuer).await?.revocation),
        (None, None) => Ok(None),
    }
}

async fn fetch(provider: &Provider, issuer: &Url) -> Result<Endpoints, Error> {
    let answer = http::send(&request::fetch(address(issuer)), provider.ca_file.as_deref())
        .await
        .map_err(|source| Error::Http { issuer: issuer.clone(), source })?;
    read(&answer, issuer)
}

/// What the configuration alone says of a provider with this token endpoint.
pub fn configured(provider: &Provider, token: Url) -> Endpoints {
    let issuer = provider.issuer.as_ref().map(name);
    Endpoints {
        issuer,
        authorization: None,
        token,
        device_authorization: None,
        revocation: None,
        auth_method: None,
    }
}

fn overridden(provider: &Provider, found: Endpoints) -> Endpoints {
    Endpoints {
        issuer: found.issuer,
        authorization: provider.authorization_endpoint.clone().or(found.authorization),
        token: provider.token_endpoint.clone().unwrap_or(found.token),
        device_authorization: provider
            .device_authorization_endpoint
            .clone()
            .or(found.device_authorization),
        revocation: provider.revocation_endpoint.clone().or(found.revocation),
        auth_method: found.auth_method,
    }
}

/// The issuer as it names itself: without the slash that a URL type adds to an empty path.
fn name(issuer: &Url) -> String {
    issuer.as_str().trim_end_matches('/').to_owned()
}

/// Where an issuer's metadata is: the well-known path after the issuer's own.
fn address(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    let path = issuer.path().trim_end_matches('/');
    url.set_path(&format!("{path}/.well-known/openid-configuration"));
    url
}

#[derive(Deserialize)]
struct Wire {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Reads the answer to a request for an issuer's metadata.
///
/// # Errors
///
/// See [`Error`].
pub fn read(answer: &Response, issuer: &Url) -> Result<Endpoints, Error> {
    let unusable = || Error::Unusable { issuer: issuer.clone(), status: answer.status };
    if answer.status != 200 {
        return Err(unusable());
    }
    let wire: Wire = serde_json::from_slice(&answer.body).map_err(|_| unusable())?;
    if wire.issuer.trim_end_matches('/') != name(issuer) {
        return Err(Error::OtherIssuer { issuer: issuer.clone() });
    }
    let endpoint = |field: &'static str, text: String| {
        let refused = |source| Error::Address { issuer: issuer.clone(), endpoint: field, source };
        let url = Url::parse(&text).map_err(|_| refused(Insecure::Malformed))?;
        require_secure(&url).map_err(refused)?;
        Ok(url)
    };
    let optional = |field, text: Option<String>| text.map(|text| endpoint(field, text)).transpose();
    Ok(Endpoints {
        issuer: Some(wire.issuer),
        authorization: optional("authorization_endpoint", wire.authorization_endpoint)?,
        token: endpoint("token_endpoint", wire.token_endpoint)?,
        device_authorization: optional(
            "device_authorization_endpoint",
            wire.device_authorization_endpoint,
        )?,
        revocation: optional("revocation_endpoint", wire.revocation_endpoint)?,
        auth_method: wire
            .token_endpoint_auth_methods_supported
            .map(|supported| AuthMethod::choose(&supported)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn metadata(status: u16, body: &str) -> Result<Endpoints, Error> {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        let answer = Response { status, retry_after: None, body };
        read(&answer, &Url::parse("https://id.example").unwrap())
    }

    const GOOD: &str = r#"{"issuer": "https://id.example",
        "authorization_endpoint": "https://id.example/authorize",
        "token_endpoint": "https://id.example/token"}"#;

    #[test]
    fn metadata_of_the_issuer_is_read() {
        let found = metadata(200, GOOD).unwrap();
        assert_eq!(found.token.as_str(), "https://id.example/token");
        assert_eq!(found.device_authorization, None);
        let slash = GOOD.replace("id.example\",", "id.example/\",");
        assert!(metadata(200, &slash).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(metadata(404, GOOD), Err(Error::Unusable { .. })));
        assert!(matches!(metadata(200, "<html>"), Err(Error::Unusable { .. })));
        let other = GOOD.replace("https://id.example\"", "https://evil.example\"");
        assert!(matches!(metadata(200, &other), Err(Error::OtherIssuer { .. })));
        let plain = GOOD.replace("https://id.example/token", "http://id.example/token");
        assert!(matches!(metadata(200, &plain), Err(Error::Address { .. })));
    }

    #[test]
    fn the_well_known_path_follows_the_issuers_own() {
        for (issuer, expected) in [
            ("https://id.example", "https://id.example/.well-known/openid-configuration"),
            ("https://id.example/a/", "https://id.example/a/.well-known/openid-configuration"),
        ] {
            assert_eq!(address(&Url::parse(issuer).unwrap()).as_str(), expected);
        }
    }
}
