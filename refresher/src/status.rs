//! What `status` says: the stored grant, and what a running refresher makes of it.

use std::time::Duration;

use filter::bundle::DEFAULT_CREDENTIAL;
use serde::Serialize;

use crate::config::Config;
use crate::publish::health::Health;
use crate::store::{self, Store};
use crate::{clock, http};

/// How long a running refresher may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// The state of one credential, from the file and from a running refresher. Without secrets.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub credential: String,
    /// `ready`, `unavailable` or `login_required`; without a running refresher `logged_in` or
    /// `login_required`.
    pub state: String,
    /// Why it is not ready, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
    /// What is wrong with the store, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

/// What `status` says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The provider's name.
    pub provider: String,
    /// Whether a refresher is serving on the socket.
    pub serving: bool,
    /// The socket.
    pub socket: String,
    /// Why the running refresher could not read the client keys, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_keys_alarm: Option<String>,
    /// All credentials.
    pub credentials: Vec<Line>,
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

    /// The report in lines; `unix` is now, in Unix seconds.
    pub fn lines(&self, unix: u64) -> String {
        use std::fmt::Write as _;
        let serving = if self.serving { "serving on" } else { "not serving on" };
        let mut text = format!("provider {}, {serving} {}\n", self.provider, self.socket);
        for line in &self.credentials {
            let _ = write!(text, "{}: {}", line.credential, line.state);
            if let Some(reason) = &line.reason {
                let _ = write!(text, " ({reason})");
            }
            if let Some(expires_at) = line.expires_at {
                let _ = match expires_at.checked_sub(unix) {
                    Some(left) => write!(text, ", token expires in {left} s"),
                    None => write!(text, ", token has expired"),
                };
            }
            if line.oauth_reauth_required && line.state != "login_required" {
                let provider = &self.provider;
                let _ = write!(
                    text,
                    ", login will be required when the token expires: refresher login \
                     --provider {provider} --credential {}",
                    line.credential
                );
            }
            if let Some(generation) = line.generation {
                let _ = write!(text, ", generation {generation}");
            }
            if let (Some(at), Some(status)) = (line.last_refresh_at, &line.last_refresh_status) {
                let ago = unix.saturating_sub(at);
                let _ = write!(text, ", last refresh {ago} s ago: {status}");
            }
            if let Some(alarm) = &line.alarm {
                let _ = write!(text, ", alarm: {alarm}");
            }
            text.push('\n');
        }
        if let Some(alarm) = &self.client_keys_alarm {
            let _ = writeln!(text, "client keys: alarm: {alarm}");
        }
        text
    }
}

/// Collects the report.
///
/// # Errors
///
/// When a grant cannot be read while no refresher is serving.
pub async fn collect(config: &Config) -> Result<Report, store::Error> {
    let answer = http::ask_socket(&config.socket, "/health", false, DEADLINE).await;
    let health = answer.ok().and_then(|answer| serde_json::from_slice::<Health>(&answer.body).ok());
    let serving =
        health.as_ref().is_some_and(|health| health.provider_setting == config.provider.name);
    let (client_keys_alarm, credentials) = match health.filter(|_| serving) {
        Some(mut health) => (health.client_keys_alarm.take(), served(health)),
        None => (None, stored(config)?),
    };
    Ok(Report {
        provider: config.provider.name.clone(),
        serving,
        socket: config.socket.display().to_string(),
        client_keys_alarm,
        credentials,
    })
}

fn served(health: Health) -> Vec<Line> {
    let line = |(credential, status): (String, crate::publish::health::Status)| Line {
        credential,
        state: status.state,
        reason: status.reason,
        expires_at: status.expires_at,
        generation: status.generation,
        oauth_reauth_required: status.oauth_reauth_required,
        last_refresh_at: status.oauth_refresh.last_refresh_at,
        last_refresh_status: status.oauth_refresh.last_refresh_status,
        alarm: status.alarm,
    };
    health.credentials.into_iter().map(line).collect()
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
        expires_at: token.map(|token| token.expires_at),
        generation: token.map(|token| token.generation),
        oauth_reauth_required,
        last_refresh_at: None,
        last_refresh_status: None,
        alarm: None,
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
