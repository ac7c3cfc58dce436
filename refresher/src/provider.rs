//! Whom we log in to: presets, overridden field by field, and what a provider says of itself.

pub mod discovery;
pub mod preset;

use std::collections::BTreeMap;
use std::net::IpAddr;

use url::{Host, Url};

use crate::store::Grant;

/// An OAuth 2.0 provider and the API behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name in configuration and file names.
    pub name: String,
    /// Where endpoints come from that are not named here (RFC 8414).
    pub issuer: Option<Url>,
    /// Where a browser asks for a code.
    pub authorization_endpoint: Option<Url>,
    /// Where grants are exchanged.
    pub token_endpoint: Option<Url>,
    /// Where the device flow begins.
    pub device_authorization_endpoint: Option<Url>,
    /// The public client's id.
    pub client_id: String,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// The ports of 127.0.0.1 that the client registered for its callback, in order of choice.
    pub redirect_ports: Vec<u16>,
    /// The path of the callback.
    pub redirect_path: String,
    /// Further parameters of the authorization request.
    pub authorize_params: BTreeMap<String, String>,
    /// Origins whose pages may call the callback from a script.
    pub callback_origins: Vec<String>,
    /// The API's base address.
    pub upstream: Url,
}

/// The endpoints of a provider: those configured, the rest discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// What the provider calls itself, if it is known.
    pub issuer: Option<String>,
    /// Where a browser asks for a code.
    pub authorization: Option<Url>,
    /// Where grants are exchanged.
    pub token: Url,
    /// Where the device flow begins.
    pub device_authorization: Option<Url>,
}

impl Provider {
    /// Whether a grant is this provider's and this client's, so that its refresh token may be sent
    /// where the grant says.
    ///
    /// The token endpoint must be the configured one exactly. Where only the issuer is configured,
    /// the grant must name it; a grant that names none must at least be exchanged on its origin.
    pub fn granted(&self, grant: &Grant) -> bool {
        let endpoint = match (&self.token_endpoint, &self.issuer, &grant.issuer) {
            (Some(configured), _, _) => *configured == grant.token_endpoint,
            (None, Some(issuer), Some(named)) => {
                named.trim_end_matches('/') == issuer.as_str().trim_end_matches('/')
            }
            (None, Some(issuer), None) => issuer.origin() == grant.token_endpoint.origin(),
            (None, None, _) => false,
        };
        endpoint
            && grant.client_id == self.client_id
            && require_secure(&grant.token_endpoint).is_ok()
    }
}

/// An address that must not be asked or shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Insecure {
    /// No URL at all.
    #[error("not a url")]
    Malformed,
    /// Neither https nor on loopback.
    #[error("must be https, or http on a loopback address")]
    Scheme,
    /// A name and password in it.
    #[error("must not carry a user name or password")]
    UserInfo,
}

/// Accepts https, and http on loopback, without user information.
///
/// # Errors
///
/// See [`Insecure`].
pub fn require_secure(url: &Url) -> Result<(), Insecure> {
    match (url.scheme(), url.host()) {
        (_, None) => Err(Insecure::Malformed),
        _ if !url.username().is_empty() || url.password().is_some() => Err(Insecure::UserInfo),
        ("https", _) => Ok(()),
        ("http", _) if is_loopback(url) => Ok(()),
        _ => Err(Insecure::Scheme),
    }
}

/// Whether a URL's host is `localhost` or a loopback address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback_http_are_secure() {
        for (url, expected) in [
            ("https://auth.x.ai/token", Ok(())),
            ("http://127.0.0.1:9990/token", Ok(())),
            ("http://localhost/token", Ok(())),
            ("http://[::1]:1/token", Ok(())),
            ("http://auth.x.ai/token", Err(Insecure::Scheme)),
            ("http://127.0.0.1.evil.example/", Err(Insecure::Scheme)),
            ("http://localhost.evil.example/", Err(Insecure::Scheme)),
            ("ftp://127.0.0.1/", Err(Insecure::Scheme)),
            ("https://user@auth.x.ai/", Err(Insecure::UserInfo)),
            ("data:text/plain,x", Err(Insecure::Malformed)),
        ] {
            assert_eq!(require_secure(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
