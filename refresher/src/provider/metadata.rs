//! What a provider publishes about itself (RFC 8414, `OpenID` Connect Discovery): where, and what
//! of it counts.

use serde::Deserialize;
use url::Url;

use crate::oauth::answer::Response;
use crate::oauth::client::AuthMethod;
use crate::provider::{Insecure, require_secure};

/// What the metadata of an issuer say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What the provider calls itself.
    pub issuer: String,
    /// Where a browser asks for a code.
    pub authorization: Option<Url>,
    /// Where grants are exchanged.
    pub token: Option<Url>,
    /// Where the device flow begins.
    pub device_authorization: Option<Url>,
    /// Where grants are ended.
    pub revocation: Option<Url>,
    /// How a client presents its secret, where the provider publishes that.
    pub auth_method: Option<AuthMethod>,
    /// Whether every authorization response names the issuer (RFC 9207, section 3).
    pub names_issuer: bool,
}

/// Why an answer is no metadata of the issuer that was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing here: the issuer's other address may have it.
    #[error("status {status}")]
    Nowhere {
        /// The HTTP status.
        status: u16,
    },
    /// An answer that is no JSON object of metadata.
    #[error("status {status}")]
    Unusable {
        /// The HTTP status.
        status: u16,
    },
    /// The metadata is somebody else's (RFC 8414, section 3.3).
    #[error("names another issuer")]
    OtherIssuer,
    /// An endpoint must not be used.
    #[error("{endpoint} is refused: {reason}")]
    Address {
        /// The metadata's field.
        endpoint: &'static str,
        /// Why.
        reason: Insecure,
    },
}

/// Where an issuer's metadata can be, the likelier first.
///
/// `OpenID` Connect Discovery, section 4, has the well-known path after the issuer's own; RFC 8414,
/// section 3.1, has its own between the host and the issuer's.
pub fn addresses(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    [
        at(format!("{path}/.well-known/openid-configuration")),
        at(format!("/.well-known/oauth-authorization-server{path}")),
    ]
}

/// The issuer as it names itself: without the slash that a URL type adds to an empty path.
pub fn name(issuer: &Url) -> String {
    issuer.as_str().trim_end_matches('/').to_owned()
}

#[derive(Deserialize)]
struct Wire {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Reads the answer to a request for an issuer's metadata.
///
/// # Errors
///
/// See [`Error`].
pub fn read(answer: &Response, issuer: &Url) -> Result<Metadata, Error> {
    let status = answer.status;
    match status {
        200 => {}
        // A wait is asked for, here and at the other address alike.
        408 | 429 => return Err(Error::Unusable { status }),
        400..=499 => return Err(Error::Nowhere { status }),
        _ => return Err(Error::Unusable { status }),
    }
    let json: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|_| Error::Nowhere { status })?;
    let wire: Wire = serde_json::from_value(json).map_err(|_| Error::Unusable { status })?;
    if wire.issuer.trim_end_matches('/') != name(issuer) {
        return Err(Error::OtherIssuer);
    }
    Ok(Metadata {
        issuer: wire.issuer,
        authorization: endpoint("authorization_endpoint", wire.authorization_endpoint)?,
        token: endpoint("token_endpoint", wire.token_endpoint)?,
        device_authorization: endpoint(
            "device_authorization_endpoint",
            wire.device_authorization_endpoint,
        )?,
        revocation: endpoint("revocation_endpoint", wire.revocation_endpoint)?,
        auth_method: wire
            .token_endpoint_auth_methods_supported
            .map(|supported| AuthMethod::choose(&supported)),
        names_issuer: wire.authorization_response_iss_parameter_supported,
    })
}

fn endpoint(field: &'static str, text: Option<String>) -> Result<Option<Url>, Error> {
    let refused = |reason| Error::Address { endpoint: field, reason };
    let Some(text) = text else {
        return Ok(None);
    };
    let url = Url::parse(&text).map_err(|_| refused(Insecure::Malformed))?;
    require_secure(&url).map_err(refused)?;
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn metadata(status: u16, body: &str) -> Result<Metadata, Error> {
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
        assert_eq!(found.token.unwrap().as_str(), "https://id.example/token");
        assert_eq!((found.device_authorization, found.names_issuer), (None, false));
        let slash = GOOD.replace("id.example\",", "id.example/\",");
        assert!(metadata(200, &slash).is_ok());
        let naming =
            GOOD.replace('}', ", \"authorization_response_iss_parameter_supported\": true}");
        assert!(metadata(200, &naming).unwrap().names_issuer);
    }

    #[test]
    fn anything_else_is_refused() {
        for (status, body, expected) in [
            (404, GOOD, Error::Nowhere { status: 404 }),
            (403, "", Error::Nowhere { status: 403 }),
            (200, "<html>", Error::Nowhere { status: 200 }),
            (200, "{}", Error::Unusable { status: 200 }),
            (302, GOOD, Error::Unusable { status: 302 }),
            (429, GOOD, Error::Unusable { status: 429 }),
            (503, "<html>", Error::Unusable { status: 503 }),
        ] {
            assert_eq!(metadata(status, body), Err(expected), "{status} {body}");
        }
        let other = GOOD.replace("https://id.example\"", "https://evil.example\"");
        assert_eq!(metadata(200, &other), Err(Error::OtherIssuer));
        let plain = GOOD.replace("https://id.example/token", "http://id.example/token");
        assert!(matches!(metadata(200, &plain), Err(Error::Address { .. })));
    }

    #[test]
    fn the_two_addresses_are_made_as_their_standards_say() {
        for (issuer, openid, oauth) in [
            ("https://id.example", "/.well-known/openid-configuration", ""),
            ("https://id.example/a/", "/a/.well-known/openid-configuration", "/a"),
            ("https://id.example/a/b", "/a/b/.well-known/openid-configuration", "/a/b"),
        ] {
            let [first, second] = addresses(&Url::parse(issuer).unwrap());
            assert_eq!(first.as_str(), format!("https://id.example{openid}"));
            let oauth = format!("/.well-known/oauth-authorization-server{oauth}");
            assert_eq!(second.as_str(), format!("https://id.example{oauth}"));
        }
    }
}
