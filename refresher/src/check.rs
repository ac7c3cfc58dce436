//! The check of the whole way: one request through Envoy's own listener, the gate and the bearer to
//! the API.
//!
//! Where a gate asks for client keys, the request shows one that is made at each start, opens
//! nothing else, and goes nowhere but to the listener on this machine.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filter::client::ClientKey;
use filter::refusal::Refusal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::http;
use crate::secret::Secret;
use crate::surroundings::Surroundings;

/// How long the whole check may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// For how long a result is told to all who ask, in milliseconds, so that a monitor cannot use up
/// the account.
pub const SHARED_MS: u64 = 1_500;

/// What a check found. The names are the Python predecessor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeepCheck {
    /// `ok` or `failed`.
    pub status: String,
    /// How long the request took, in milliseconds.
    pub latency_ms: u64,
    /// The API's status code; absent (`null`) where the request did not get that far.
    pub upstream_status: Option<u16>,
    /// What is wrong, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the check ended, in Unix seconds.
    pub checked_at: u64,
    /// Where Envoy was asked. Unknown from a refresher that is older than this member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
}

impl DeepCheck {
    /// Whether the API answered as it should.
    pub fn is_good(&self) -> bool {
        self.error.is_none()
    }
}

/// Makes checks, one at a time.
#[derive(Clone, Debug)]
pub struct Checker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: Option<Secret>,
    path: String,
    surroundings: Surroundings,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<watch::Receiver<Option<DeepCheck>>>,
    /// The last result, and when it came on the boot-time clock.
    last: Option<(DeepCheck, u64)>,
}

impl Checker {
    /// Checks that ask the API for this path, with a key of these random bits. Without any, no
    /// check gets through a gate that asks for keys.
    pub fn new(path: &str, bits: Option<&[u8]>, surroundings: Surroundings, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            key: bits.map(|bits| Secret::new(URL_SAFE_NO_PAD.encode(bits))),
            path: path.to_owned(),
            surroundings,
            clock,
            state: Mutex::default(),
        }))
    }

    /// How the gate knows the check's requests.
    pub fn probe(&self) -> Option<ClientKey> {
        let key = self.0.key.as_ref()?;
        Some(ClientKey::of_probe(key.expose().as_bytes(), &self.0.path))
    }

    /// The last result, if there is one.
    pub fn last(&self) -> Option<DeepCheck> {
        self.0.lock().last.as_ref().map(|(check, _)| check.clone())
    }

    /// Checks, or waits for the check under way, or tells the result of a moment ago.
    pub async fn check(&self) -> DeepCheck {
        let mut running = {
            let now = self.0.clock.now();
            let mut state = self.0.lock();
            match (&state.running, &state.last) {
                (Some(running), _) => running.clone(),
                (None, Some((check, at))) if now.boot_ms.saturating_sub(*at) < SHARED_MS => {
                    return check.clone();
                }
                (None, _) => {
                    let (sender, running) = watch::channel(None);
                    state.running = Some(running.clone());
                    // A task of its own: who asked first may not wait for the end.
                    tokio::spawn(Arc::clone(&self.0).run(sender));
                    running
                }
            }
        };
        match running.wait_for(Option::is_some).await {
            Ok(check) => check.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| failed(0, None, "internal"))
    }
}

impl Inner {
    async fn run(self: Arc<Self>, sender: watch::Sender<Option<DeepCheck>>) {
        let begin = self.clock.now();
        let listener = self.surroundings.listener();
        let answer = self.ask(listener).await;
        let end = self.clock.now();
        let latency_ms = end.boot_ms.saturating_sub(begin.boot_ms);
        let check = match answer {
            Ok((status, body)) => judge(status, &body, latency_ms),
            Err(error) => failed(latency_ms, None, error),
        };
        let check = DeepCheck { checked_at: end.unix(), listener: Some(listener), ..check };
        let mut state = self.lock();
        state.running = None;
        state.last = Some((check.clone(), end.boot_ms));
        sender.send_replace(Some(check));
    }

    async fn ask(&self, listener: SocketAddr) -> Result<(u16, Vec<u8>), &'static str> {
        if !is_own(listener.ip()) {
            return Err("listener_not_on_this_machine");
        }
        let url = format!("http://{listener}{}", self.path);
        match http::ask_listener(&url, self.key.as_ref(), DEADLINE).await {
            Ok(answer) => Ok((answer.status, answer.body.to_vec())),
            Err(http::Error::NotSent(_)) => Err("envoy_unreachable"),
            Err(error) => Err(error.class()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below the lock is complete before anything can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an address is this machine's: only then can a socket be bound to it.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || TcpListener::bind(SocketAddr::new(ip, 0)).is_ok()
}

fn failed(latency_ms: u64, upstream_status: Option<u16>, error: &str) -> DeepCheck {
    DeepCheck {
        status: "failed".to_owned(),
        latency_ms,
        upstream_status,
        error: Some(error.to_owned()),
        checked_at: 0,
        listener: None,
    }
}

/// The errors by which the filter says that the request did not get to the API.
const REFUSALS: [Refusal; 9] = [
    Refusal::INVALID_CLIENT_KEY,
    Refusal::CLIENT_KEYS_REQUIRED,
    Refusal::MISDIRECTED,
    Refusal::NO_BUNDLE,
    Refusal::LOGIN_REQUIRED,
    Refusal::TOKEN_EXPIRED,
    Refusal::TOKEN_REJECTED,
    Refusal::UNKNOWN_CREDENTIAL,
    Refusal::NOT_ADMITTED,
];

/// How Envoy's own details begin when it could not reach the API.
const UNREACHABLE: [&str; 3] = ["upstream_reset", "no_healthy_upstream", "cluster_not_found"];

#[derive(Deserialize)]
struct Body {
    error: BodyError,
}

#[derive(Deserialize)]
struct BodyError {
    code: String,
}

fn judge(status: u16, body: &[u8], latency_ms: u64) -> DeepCheck {
    if (200..300).contains(&status) {
        return DeepCheck {
            status: "ok".to_owned(),
            latency_ms,
            upstream_status: Some(status),
            error: None,
            checked_at: 0,
            listener: None,
        };
    }
    let code = serde_json::from_slice::<Body>(body).map(|body| body.error.code).unwrap_or_default();
    if REFUSALS.iter().any(|refusal| refusal.status == status && refusal.code == code) {
        return failed(latency_ms, None, &code);
    }
    if status == 503 && UNREACHABLE.iter().any(|begin| code.starts_with(begin)) {
        return failed(latency_ms, None, "api_unreachable");
    }
    failed(latency_ms, Some(status), &format!("http_{status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_apis_or_one_that_was_given_on_the_way() {
        let found = |status, body: &str| {
            let check = judge(status, body.as_bytes(), 5);
            assert_eq!(check.is_good(), check.status == "ok");
            (check.upstream_status, check.error)
        };
        let error = |word: &str| Some(word.to_owned());
        assert_eq!(found(200, "[]"), (Some(200), None));
        assert_eq!(found(204, ""), (Some(204), None));
        assert_eq!(found(500, "<html>"), (Some(500), error("http_500")));
        assert_eq!(found(302, ""), (Some(302), error("http_302")));
        assert_eq!(found(429, r#"{"error": {"code": "x"}}"#), (Some(429), error("http_429")));
        let login = r#"{"error": {"code": "login_required", "message": ""}}"#;
        assert_eq!(found(503, login), (None, error("login_required")));
        assert_eq!(found(500, login), (Some(500), error("http_500")));
        let reset = r#"{"error": {"code": "upstream_reset_before_response_started{x}"}}"#;
        assert_eq!(found(503, reset), (None, error("api_unreachable")));
    }

    #[test]
    fn only_addresses_of_this_machine_are_asked() {
        assert!(is_own(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_own(IpAddr::from([192, 0, 2, 1])));
    }
}
