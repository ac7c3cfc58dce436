//! Whom we log in to: presets, overridden field by field, and what a provider says of itself.

pub mod discovery;
pub mod metadata;
pub mod preset;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use crate::oauth::client::{AuthMethod, Client, Proof};
use crate::store::{self, Grant};

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
    /// Where grants are ended (RFC 7009).
    pub revocation_endpoint: Option<Url>,
    /// The client's id.
    pub client_id: String,
    /// The file with the client's secret, if it has one. Read at each use.
    pub client_secret_file: Option<PathBuf>,
    /// How the secret is presented; unset: as the provider's metadata say.
    pub token_endpoint_auth_method: Option<AuthMethod>,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// The ports of 127.0.0.1 that the client registered for its callback, in order of choice.
    pub redirect_ports: Vec<u16>,
    /// The path of the callback.
    pub redirect_path: String,
    /// Further parameters of the authorization request; a device authorization request has those
    /// of them that are not about a browser.
    pub authorize_params: BTreeMap<String, String>,
    /// Further parameters of token requests.
    pub token_params: BTreeMap<String, String>,
    /// Origins whose pages may call the callback from a script.
    pub callback_origins: Vec<String>,
    /// Certificates, PEM, that the provider's may be signed by besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The API's base address.
    pub upstream: Url,
    /// Headers of every request to the API. They stand in Envoy's configuration, where its admin
    /// interface shows them: no place for a credential.
    pub upstream_headers: Vec<(String, String)>,
    /// Which of the API's answers say that the token was refused.
    pub dead_token: filter::verdict::Rule,
}

/// The endpoints of a provider: those configured, the rest discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// What the provider calls itself, if it is known.
    pub issuer: Option<String>,
    /// Whether every authorization response names the issuer (RFC 9207, section 3).
    pub names_issuer: bool,
    /// Where a browser asks for a code.
    pub authorization: Option<Url>,
    /// Where grants are exchanged.
    pub token: Url,
    /// Where the device flow begins.
    pub device_authorization: Option<Url>,
    /// Where grants are ended.
    pub revocation: Option<Url>,
    /// How a client presents its secret, where the provider publishes that.
    pub auth_method: Option<AuthMethod>,
}

impl Provider {
    /// The client as the token endpoint is to see it; `published` is the method that the metadata
    /// led to. Reads the secret's file, if there is one.
    ///
    /// # Errors
    ///
    /// When that file cannot be read, or others can read it.
    pub fn client(&self, published: Option<AuthMethod>) -> Result<Client, store::Error> {
        let proof = match &self.client_secret_file {
            None => Proof::None,
            Some(path) => {
                let method = self.token_endpoint_auth_method.or(published);
                Proof::Secret(store::read_secret(path)?, method.unwrap_or(AuthMethod::Basic))
            }
        };
        Ok(Client { id: self.client_id.clone(), proof, params: self.token_params.clone() })
    }

    /// The client that a grant was issued to: this one, or the public client of the program that it
    /// was imported from.
    ///
    /// # Errors
    ///
    /// As [`Self::client`].
    pub fn client_of(&self, grant: &Grant) -> Result<Client, store::Error> {
        if grant.client_id == self.client_id {
            return self.client(grant.auth_method);
        }
        let params = self.token_params.clone();
        Ok(Client { id: grant.client_id.clone(), proof: Proof::None, params })
    }

    /// The name under which `/health` shows it: the preset `xai` has that of the predecessors, whose
    /// clients know no other.
    pub fn known_as(&self) -> &str {
        if self.name == "xai" { "xai-oauth" } else { &self.name }
    }

    /// Whether the client's id is the preset's, and not one that the user has chosen.
    pub fn has_preset_client(&self) -> bool {
        let preset = preset::preset(&self.name).and_then(|fields| fields.client_id);
        preset.as_ref() == Some(&self.client_id) && self.client_secret_file.is_none()
    }

    /// Whether a grant is this provider's and this client's, so that its refresh token may be sent
    /// where the grant says.
    ///
    /// The token endpoint must be the configured one exactly. Where only the issuer is configured,
    /// the grant must name it; a grant that names none must at least be exchanged on its origin.
    /// An imported grant may be of the client of the program that it came from: `import` has
    /// judged that.
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
            && (grant.client_id == self.client_id || grant.source.is_some())
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
