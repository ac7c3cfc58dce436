//! The providers that need no configuration.

use std::collections::BTreeMap;

/// The fields of a provider as written, each of which a configuration can override.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// See [`crate::provider::Provider::issuer`].
    pub issuer: Option<String>,
    /// See [`crate::provider::Provider::authorization_endpoint`].
    pub authorization_endpoint: Option<String>,
    /// See [`crate::provider::Provider::token_endpoint`].
    pub token_endpoint: Option<String>,
    /// See [`crate::provider::Provider::device_authorization_endpoint`].
    pub device_authorization_endpoint: Option<String>,
    /// See [`crate::provider::Provider::revocation_endpoint`].
    pub revocation_endpoint: Option<String>,
    /// See [`crate::provider::Provider::client_id`].
    pub client_id: Option<String>,
    /// See [`crate::provider::Provider::client_secret_file`].
    pub client_secret_file: Option<String>,
    /// See [`crate::provider::Provider::token_endpoint_auth_method`].
    pub token_endpoint_auth_method: Option<String>,
    /// See [`crate::provider::Provider::scopes`].
    pub scopes: Option<Vec<String>>,
    /// See [`crate::provider::Provider::redirect_ports`].
    pub redirect_ports: Option<Vec<u16>>,
    /// See [`crate::provider::Provider::redirect_path`].
    pub redirect_path: Option<String>,
    /// See [`crate::provider::Provider::authorize_params`].
    pub authorize_params: Option<BTreeMap<String, String>>,
    /// See [`crate::provider::Provider::token_params`].
    pub token_params: Option<BTreeMap<String, String>>,
    /// See [`crate::provider::Provider::callback_origins`].
    pub callback_origins: Option<Vec<String>>,
    /// See [`crate::provider::Provider::upstream`].
    pub upstream: Option<String>,
    /// See [`crate::provider::Provider::ca_file`].
    pub ca_file: Option<String>,
    /// See [`crate::provider::Provider::upstream_headers`].
    pub upstream_headers: Option<Vec<(String, String)>>,
    /// See [`filter::verdict::Rule::statuses`].
    pub dead_token_statuses: Option<Vec<u16>>,
    /// See [`filter::verdict::Rule::codes`].
    pub dead_token_codes: Option<Vec<String>>,
}

impl Fields {
    /// These fields, and those of `other` where these have none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            issuer: self.issuer.or(other.issuer),
            authorization_endpoint: self.authorization_endpoint.or(other.authorization_endpoint),
            token_endpoint: self.token_endpoint.or(other.token_endpoint),
            device_authorization_endpoint: self
                .device_authorization_endpoint
                .or(other.device_authorization_endpoint),
            revocation_endpoint: self.revocation_endpoint.or(other.revocation_endpoint),
            client_id: self.client_id.or(other.client_id),
            client_secret_file: self.client_secret_file.or(other.client_secret_file),
            token_endpoint_auth_method: self
                .token_endpoint_auth_method
                .or(other.token_endpoint_auth_method),
            scopes: self.scopes.or(other.scopes),
            redirect_ports: self.redirect_ports.or(other.redirect_ports),
            redirect_path: self.redirect_path.or(other.redirect_path),
            authorize_params: self.authorize_params.or(other.authorize_params),
            token_params: self.token_params.or(other.token_params),
            callback_origins: self.callback_origins.or(other.callback_origins),
            upstream: self.upstream.or(other.upstream),
            ca_file: self.ca_file.or(other.ca_file),
            upstream_headers: self.upstream_headers.or(other.upstream_headers),
            dead_token_statuses: self.dead_token_statuses.or(other.dead_token_statuses),
            dead_token_codes: self.dead_token_codes.or(other.dead_token_codes),
        }
    }
}

/// The names of the presets.
pub const NAMES: [&str; 2] = ["demo", "xai"];

/// The preset of this name.
pub fn preset(name: &str) -> Option<Fields> {
    match name {
        "xai" => Some(xai()),
        "demo" => Some(demo()),
        _ => None,
    }
}

/// xAI, with the public client of its command line program. Only the literal address
/// `http://127.0.0.1:56121/callback` is registered.
fn xai() -> Fields {
    Fields {
        issuer: text("https://auth.x.ai"),
        client_id: text("b1a00492-073a-47ea-816f-4c329264a828"),
        scopes: words("openid profile email offline_access grok-cli:access api:access"),
        redirect_ports: Some(vec![56121]),
        callback_origins: Some(vec!["https://accounts.x.ai".to_owned()]),
        upstream: text("https://api.x.ai"),
        ..Fields::default()
    }
}

/// The simulated provider of the demo.
fn demo() -> Fields {
    Fields {
        issuer: text("http://127.0.0.1:9990"),
        client_id: text("torchbearer-demo"),
        scopes: words("openid offline_access api:access"),
        redirect_ports: Some(vec![56121, 56122, 56123]),
        upstream: text("http://127.0.0.1:9990"),
        ..Fields::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "keeps the tables above readable")]
fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "keeps the tables above readable")]
fn words(value: &str) -> Option<Vec<String>> {
    Some(value.split(' ').map(str::to_owned).collect())
}
