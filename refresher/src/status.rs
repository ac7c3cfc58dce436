//! What `status` says: the stored grants, and what a running refresher makes of them.
//!
//! [`lines`] puts it on a screen, [`wait`] says whether all workers serve a generation.

pub mod lines;
pub mod screen;
pub mod wait;
pub mod words;

use std::time::Duration;

use filter::bundle::DEFAULT_CREDENTIAL;
use serde::Serialize;

use crate::config::Config;
use crate::overview::{OVERVIEW_PATH, Overview};
use crate::publish::health::{Health, Status};
use crate::store::{self, Store};
use crate::{clock, http};
use screen::Look;

/// How long a running refresher may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// The state of one credential, from the file and from a running refresher. Without secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub credential: String,
    /// `ready`, `unavailable` or `login_required`; without a running refresher `logged_in` or
    /// `login_required`.
    pub state: String,
    /// Why it is not ready, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the token was issued, in Unix seconds.
    pub issued_at: Option<u64>,
    /// When the token expires, in Unix seconds.
    pub expires_at: Option<u64>,
    /// The token's generation.
    pub generation: Option<u64>,
    /// Whether nothing helps but a login once the token has expired.
    pub oauth_reauth_required: bool,
    /// When the running refresher last tried a refresh, in Unix seconds.
    pub last_refresh_at: Option<u64>,
    /// How that ended.
    pub last_refresh_status: Option<String>,
    /// The class of the last failure, in a word.
    pub last_refresh_error_class: Option<String>,
    /// When it refreshes next, in Unix seconds.
    pub next_refresh_at: Option<u64>,
    /// Refreshes that succeeded since the refresher's start.
    pub refresh_success_count: u64,
    /// Refreshes that failed since then.
    pub refresh_failure_count: u64,
    /// What is wrong with the store, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

/// What `status` says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The provider's name.
    pub provider: String,
    /// Whether a refresher is serving on the socket.
    pub serving: bool,
    /// The socket.
    pub socket: String,
    /// When this was collected, in Unix seconds.
    pub at: u64,
    /// Why the running refresher could not read the client keys, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_keys_alarm: Option<String>,
    /// Why a changed configuration is not in force, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_alarm: Option<String>,
    /// All credentials.
    pub credentials: Vec<Line>,
    /// What is not well, each with what helps.
    pub remedies: Vec<String>,
    /// What the running refresher says of everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overview: Option<Overview>,
}

impl Report {
    /// Whether nothing helps but a login.
    pub fn login_required(&self) -> bool {
        self.credentials.iter().all(|line| line.state == "login_required")
    }

    /// Whether requests are answered, or would be as soon as a refresher serves.
    pub fn is_good(&self) -> bool {
        self.credentials.iter().any(|line| matches!(line.state.as_str(), "ready" | "logged_in"))
    }

    /// The report in whole lines, for a file or a pipe; `unix` is now, in Unix seconds.
    pub fn lines(&self, unix: u64) -> String {
        lines::show(self, Look::PLAIN, unix)
    }
}

/// Collects the report.
///
/// # Errors
///
/// When a grant cannot be read while no refresher is serving.
pub async fn collect(config: &Config) -> Result<Report, store::Error> {
    let overview = ask(config).await;
    let credentials = match &overview {
        Some(overview) => served(&overview.health),
        None => stored(config)?,
    };
    let mut report = Report {
        provider: config.provider.name.clone(),
        serving: overview.is_some(),
        socket: config.socket.display().to_string(),
        at: clock::now().unix(),
        client_keys_alarm: overview.as_ref().and_then(|it| it.health.client_keys_alarm.clone()),
        config_alarm: overview.as_ref().and_then(|it| it.health.config_alarm.clone()),
        credentials,
        remedies: Vec::new(),
        overview,
    };
    report.remedies = lines::remedies(&report);
    Ok(report)
}

/// What the refresher on the socket says, if it is one of this provider's.
pub async fn ask(config: &Config) -> Option<Overview> {
    let answer = http::ask_socket(&config.socket, OVERVIEW_PATH, false, DEADLINE).await.ok()?;
    let overview = match serde_json::from_slice::<Overview>(&answer.body) {
        Ok(overview) => overview,
        // One of an earlier release has no such document.
        Err(_) => of_earlier_release(config).await?,
    };
    is_of(config, &overview.health).then_some(overview)
}

/// Whether a refresher serves the provider of these settings.
pub fn is_of(config: &Config, health: &Health) -> bool {
    health.provider_setting == config.provider.name
}

async fn of_earlier_release(config: &Config) -> Option<Overview> {
    let answer = http::ask_socket(&config.socket, "/health", false, DEADLINE).await.ok()?;
    let health = serde_json::from_slice(&answer.body).ok()?;
    let at = clock::now().unix();
    Some(Overview {
        version: String::new(),
        started_at: at,
        at,
        health,
        workers: Vec::new(),
        starts_envoy: None,
        envoy: None,
    })
}

fn served(health: &Health) -> Vec<Line> {
    let line = |(credential, status): (&String, &Status)| Line {
        credential: credential.clone(),
        state: status.state.clone(),
        reason: status.reason.clone(),
        issued_at: status.issued_at,
        expires_at: status.expires_at,
        generation: status.generation,
        oauth_reauth_required: status.oauth_reauth_required,
        last_refresh_at: status.oauth_refresh.last_refresh_at,
        last_refresh_status: status.oauth_refresh.last_refresh_status.clone(),
        last_refresh_error_class: status.oauth_refresh.last_refresh_error_class.clone(),
        next_refresh_at: status.next_refresh_at,
        refresh_success_count: status.oauth_refresh.refresh_success_count,
        refresh_failure_count: status.oauth_refresh.refresh_failure_count,
        alarm: status.alarm.clone(),
    };
    health.credentials.iter().map(line).collect()
}

fn stored(config: &Config) -> Result<Vec<Line>, store::Error> {
    let mut names = Store::credentials(config);
    if !names.iter().any(|name| name == DEFAULT_CREDENTIAL) {
        names.insert(0, DEFAULT_CREDENTIAL.to_owned());
    }
    names.into_iter().map(|name| stored_line(config, name)).collect()
}

fn stored_line(config: &Config, credential: String) -> Result<Line, store::Error> {
    let grant = load(config, &credential)?;
    let reason = match &grant {
        None => Some("never_logged_in".to_owned()),
        Some(grant) => grant.verdict.as_ref().map(|verdict| verdict.reason.clone()),
    };
    let oauth_reauth_required = reason.is_some();
    let state = if oauth_reauth_required { "login_required" } else { "logged_in" }.to_owned();
    let token = grant.as_ref().and_then(|grant| grant.token.as_ref());
    Ok(Line {
        credential,
        state,
        reason,
        issued_at: token.map(|token| token.obtained_at),
        expires_at: token.map(|token| token.expires_at),
        generation: token.map(|token| token.generation),
        oauth_reauth_required,
        ..Line::default()
    })
}

fn load(config: &Config, credential: &str) -> Result<Option<store::Grant>, store::Error> {
    // To look is no reason to create anything.
    let Some(store) = Store::find(config, credential)? else {
        return Ok(None);
    };
    let Some(mut grant) = store.load(clock::now().unix())? else {
        return Ok(None);
    };
    if grant.client_id.is_empty() {
        grant.client_id.clone_from(&config.provider.client_id);
    }
    if !config.provider.granted(&grant) {
        let reason = "other_provider".to_owned();
        grant.verdict = Some(store::Verdict { reason, at: clock::now().unix() });
    }
    Ok(Some(grant))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// Of a refresher with one credential that is well.
    pub(crate) fn overview() -> Overview {
        let refreshes = json!({"last_refresh_at": 1_000, "last_refresh_status": "success",
            "last_refresh_error_class": null, "refresh_token_rotated": true,
            "refresh_success_count": 3, "refresh_failure_count": 0});
        let status = json!({"state": "ready", "generation": 7, "issued_at": 1_000,
            "expires_at": 8_200, "next_refresh_at": 4_600, "token_endpoint": null,
            "oauth_refresh": refreshes});
        let health = json!({"status": "ok", "provider": "acme", "api_base": "https://api.example",
            "token_expires_at": 8_200, "token_seconds_to_expiry": 5_200, "token_endpoint": null,
            "oauth_refresh": refreshes, "generation": 7, "credentials": {"default": status}});
        let overview = json!({"version": "0.1.0", "started_at": 400, "at": 3_000,
            "health": health, "workers": []});
        serde_json::from_value(overview).unwrap()
    }

    /// What `status` makes of an overview.
    pub(crate) fn report(overview: Option<Overview>) -> Report {
        let mut report = Report {
            provider: "acme".to_owned(),
            serving: overview.is_some(),
            socket: "/run/acme.sock".to_owned(),
            at: 3_000,
            client_keys_alarm: overview.as_ref().and_then(|it| it.health.client_keys_alarm.clone()),
            config_alarm: overview.as_ref().and_then(|it| it.health.config_alarm.clone()),
            credentials: overview.as_ref().map(|it| served(&it.health)).unwrap_or_default(),
            remedies: Vec::new(),
            overview,
        };
        report.remedies = lines::remedies(&report);
        report
    }
}
