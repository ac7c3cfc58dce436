//! What `/health` and `/ready` say.

use std::collections::BTreeMap;

use filter::bundle::DEFAULT_CREDENTIAL;
use serde::{Deserialize, Serialize};

use crate::check::DeepCheck;
use crate::provider::Provider;

/// The state of one credential, without its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `ready`, `login_required` or `unavailable`, as in the bundle.
    pub state: String,
    /// Why it is not ready, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The token's generation.
    pub generation: Option<u64>,
    /// When the token was issued, in Unix seconds.
    #[serde(default)]
    pub issued_at: Option<u64>,
    /// When the token expires, in Unix seconds.
    pub expires_at: Option<u64>,
    /// When it is refreshed next, in Unix seconds.
    #[serde(default)]
    pub next_refresh_at: Option<u64>,
    /// Where its refresh token is exchanged.
    pub token_endpoint: Option<String>,
    /// Whether the refresh token is dead: once the access token expires, if it has not yet,
    /// nothing helps but a login.
    #[serde(default)]
    pub oauth_reauth_required: bool,
    /// Why the grant could not be read or written, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// How the refreshes went.
    pub oauth_refresh: Refreshes,
    /// Of these, the ones for a token that the API refused.
    #[serde(default)]
    pub rejection_refresh: Rejections,
}

impl Status {
    /// Whether a valid token is published.
    pub fn is_ready(&self) -> bool {
        self.state == "ready"
    }
}

/// How the refreshes of a credential went since the start. The names are the Python
/// predecessor's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshes {
    /// In Unix seconds.
    pub last_refresh_at: Option<u64>,
    /// `success` or `failure`.
    pub last_refresh_status: Option<String>,
    /// The class of the last failure, in a word.
    pub last_refresh_error_class: Option<String>,
    /// Whether the last success brought a new refresh token.
    pub refresh_token_rotated: bool,
    /// Successes.
    pub refresh_success_count: u64,
    /// Failures.
    pub refresh_failure_count: u64,
}

/// How the refreshes went that the API caused, by refusing a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejections {
    /// How many there were.
    pub attempts: u64,
    /// Those that ended with another token.
    pub successes: u64,
    /// Of these, the ones where the provider gave it; the others found it in the store.
    pub renewals: u64,
    /// Those that did not.
    pub failures: u64,
}

impl Refreshes {
    /// Forgets a failure that is of an earlier grant; what was counted stays.
    pub fn forgive(&mut self) {
        if self.last_refresh_error_class.take().is_some() {
            self.last_refresh_at = None;
            self.last_refresh_status = None;
        }
    }
}

/// The body of `/health`. The fields of the default credential stand at the top, under the names
/// of the Python predecessor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or `degraded` while a credential is not ready, or there is an alarm.
    pub status: String,
    /// The provider's name, as the predecessors' clients know it.
    pub provider: String,
    /// The provider's name in the settings.
    #[serde(default)]
    pub provider_setting: String,
    /// The API's base address.
    pub api_base: String,
    /// When the default credential's token expires, in Unix seconds.
    pub token_expires_at: Option<u64>,
    /// In how many seconds that is.
    pub token_seconds_to_expiry: Option<u64>,
    /// Where its refresh token is exchanged.
    pub token_endpoint: Option<String>,
    /// Whether its refresh token is dead.
    #[serde(default)]
    pub oauth_reauth_required: bool,
    /// How its refreshes went.
    pub oauth_refresh: Refreshes,
    /// Why the client keys could not be read, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_keys_alarm: Option<String>,
    /// Why a changed configuration is not in force, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_alarm: Option<String>,
    /// The bundle's generation.
    pub generation: u64,
    /// All credentials by name.
    pub credentials: BTreeMap<String, Status>,
    /// What a request to the API found, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deep_check: Option<DeepCheck>,
}

/// Sums up the credentials at `unix`, in Unix seconds.
pub fn sum_up(
    provider: &Provider,
    credentials: BTreeMap<String, Status>,
    client_keys_alarm: Option<String>,
    generation: u64,
    unix: u64,
) -> Health {
    let default = credentials.get(DEFAULT_CREDENTIAL).cloned().unwrap_or_default();
    let well = |status: &Status| status.is_ready() && status.alarm.is_none();
    let ok =
        !credentials.is_empty() && credentials.values().all(well) && client_keys_alarm.is_none();
    Health {
        status: if ok { "ok" } else { "degraded" }.to_owned(),
        provider: provider.known_as().to_owned(),
        provider_setting: provider.name.clone(),
        api_base: provider.upstream.as_str().trim_end_matches('/').to_owned(),
        token_expires_at: default.expires_at,
        token_seconds_to_expiry: default.expires_at.map(|at| at.saturating_sub(unix)),
        token_endpoint: default.token_endpoint,
        oauth_reauth_required: default.oauth_reauth_required,
        oauth_refresh: default.oauth_refresh,
        client_keys_alarm,
        config_alarm: None,
        generation,
        credentials,
        deep_check: None,
    }
}

impl Health {
    /// Adds why a changed configuration is not in force.
    #[must_use]
    pub fn with_config_alarm(mut self, alarm: Option<String>) -> Self {
        if alarm.is_some() {
            "degraded".clone_into(&mut self.status);
        }
        self.config_alarm = alarm;
        self
    }
}

/// The body of `/ready`, and whether that is good news: a valid token is being published.
pub fn readiness(credentials: &BTreeMap<String, Status>) -> (bool, Readiness) {
    if credentials.values().any(Status::is_ready) {
        return (true, Readiness { ready: true, state: "ready".to_owned(), reason: None });
    }
    let status = credentials.get(DEFAULT_CREDENTIAL).or_else(|| credentials.values().next());
    let state = status.map_or("starting", |status| status.state.as_str()).to_owned();
    let reason = status.and_then(|status| status.reason.clone());
    (false, Readiness { ready: false, state, reason })
}

/// The body of `/ready`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether a valid token is being published.
    pub ready: bool,
    /// As in the bundle.
    pub state: String,
    /// Why not, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, reason: Option<&str>) -> Status {
        Status { state: state.to_owned(), reason: reason.map(str::to_owned), ..Status::default() }
    }

    #[test]
    fn ready_needs_a_published_token() {
        assert!(!readiness(&BTreeMap::new()).0);
        let mut credentials = BTreeMap::from([(
            DEFAULT_CREDENTIAL.to_owned(),
            status("login_required", Some("invalid_grant")),
        )]);
        let (ready, body) = readiness(&credentials);
        assert!(!ready);
        assert_eq!(body.reason.as_deref(), Some("invalid_grant"));
        credentials.insert("bob".to_owned(), status("ready", None));
        assert!(readiness(&credentials).0);
    }
}
