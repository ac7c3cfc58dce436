//! The device authorization grant (RFC 8628): what the provider says and when to ask again.

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::oauth::ErrorCode;
use crate::oauth::answer::{Answer, Granted, Response};
use crate::provider::{Insecure, require_secure};
use crate::secret::Secret;

/// The pause between two polls unless the provider names one, in seconds (RFC 8628, section 3.2).
pub const DEFAULT_INTERVAL_S: u64 = 5;

/// The longest pause between two polls, in seconds.
pub const MAX_INTERVAL_S: u64 = MAX_LIFE_S;

/// The longest pause that polls without an answer lead to, in seconds.
pub const MAX_BACK_OFF_S: u64 = 60;

/// What `slow_down` adds to the pause, for good, in seconds (RFC 8628, section 3.5).
pub const SLOW_DOWN_S: u64 = 5;

/// The life of the codes where the provider does not say it, in seconds.
pub const DEFAULT_LIFE_S: u64 = 600;

/// The longest life of the codes that is believed, in seconds.
pub const MAX_LIFE_S: u64 = 3600;

/// What the device authorization endpoint granted (RFC 8628, section 3.2).
#[derive(Debug)]
pub struct DeviceAuthorization {
    /// What we poll with.
    pub device_code: Secret,
    /// What the user types: printable ASCII.
    pub user_code: String,
    /// Where the user types it: https, or http on loopback.
    pub verification_uri: String,
    /// The same address with the code in it, if the provider offers one.
    pub verification_uri_complete: Option<String>,
    /// The pause between two polls, in seconds.
    pub interval_s: u64,
    /// The life of the codes, in seconds.
    pub life_s: u64,
}

/// Why no device login can begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The provider has no such endpoint, or not for this client.
    #[error("the provider does not offer the device flow to this client (status {status})")]
    Off {
        /// The HTTP status.
        status: u16,
    },
    /// The provider refused.
    #[error("the provider refused the device flow: {0}")]
    Refused(ErrorCode),
    /// An answer that is no device authorization.
    #[error("the answer of the device authorization endpoint is unusable (status {status})")]
    Unusable {
        /// The HTTP status.
        status: u16,
    },
    /// An answer that could deceive the user.
    #[error("{field} of the device authorization has characters that cannot be shown")]
    Unprintable {
        /// The field.
        field: &'static str,
    },
    /// An address that must not be opened.
    #[error("{field} of the device authorization is refused")]
    Address {
        /// The field.
        field: &'static str,
        /// Why.
        source: Insecure,
    },
}

#[derive(Deserialize)]
struct Wire {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: Option<Value>,
    interval: Option<Value>,
}

/// Reads the answer of the device authorization endpoint.
///
/// # Errors
///
/// See [`Error`].
pub fn read(response: &Response) -> Result<DeviceAuthorization, Error> {
    let status = response.status;
    match status {
        200 => {}
        404 | 405 | 501 => return Err(Error::Off { status }),
        _ => return Err(refusal(response)),
    }
    let wire: Wire =
        serde_json::from_slice(&response.body).map_err(|_| Error::Unusable { status })?;
    let device_code = Secret::new(wire.device_code);
    if device_code.expose().is_empty() {
        return Err(Error::Unusable { status });
    }
    let user_code = printable("user_code", wire.user_code, b' ')?;
    let verification_uri = address("verification_uri", wire.verification_uri)?;
    let verification_uri_complete = wire
        .verification_uri_complete
        .map(|uri| address("verification_uri_complete", uri))
        .transpose()?;
    Ok(DeviceAuthorization {
        device_code,
        user_code,
        verification_uri,
        verification_uri_complete,
        interval_s: number(wire.interval.as_ref(), DEFAULT_INTERVAL_S).clamp(1, MAX_INTERVAL_S),
        life_s: number(wire.expires_in.as_ref(), DEFAULT_LIFE_S).clamp(1, MAX_LIFE_S),
    })
}

fn refusal(response: &Response) -> Error {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice::<Refusal>(&response.body)
        .ok()
        .and_then(|refusal| ErrorCode::parse(&refusal.error))
        .map_or(Error::Unusable { status: response.status }, Error::Refused)
}

/// A terminal obeys control characters, so a code or an address that has some is not shown.
fn printable(field: &'static str, text: String, least: u8) -> Result<String, Error> {
    let shown = |byte: u8| (least..=b'~').contains(&byte);
    if (1..=512).contains(&text.len()) && text.bytes().all(shown) {
        Ok(text)
    } else {
        Err(Error::Unprintable { field })
    }
}

fn address(field: &'static str, text: String) -> Result<String, Error> {
    let text = printable(field, text, b'!')?;
    let refused = |source| Error::Address { field, source };
    let url = Url::parse(&text).map_err(|_| refused(Insecure::Malformed))?;
    require_secure(&url).map_err(refused)?;
    Ok(text)
}

fn number(value: Option<&Value>, default: u64) -> u64 {
    value.and_then(Value::as_u64).filter(|&number| number > 0).unwrap_or(default)
}

/// When to poll next. Times are of the boot-time clock, in milliseconds.
#[derive(Debug)]
pub struct Poller {
    interval_s: u64,
    deadline_ms: u64,
}

/// What follows from the answer to a poll.
#[derive(Debug)]
pub enum Step {
    /// Ask again at this time.
    PollAt(u64),
    /// The user approved.
    Granted(Granted),
    /// The user declined.
    Denied,
    /// The codes have expired.
    Expired,
    /// The provider will never approve these codes.
    Failed(ErrorCode),
}

impl Poller {
    /// A poller for codes that were granted at `now_ms`.
    pub fn new(authorization: &DeviceAuthorization, now_ms: u64) -> Self {
        Self {
            interval_s: authorization.interval_s,
            deadline_ms: now_ms.saturating_add(authorization.life_s.saturating_mul(1000)),
        }
    }

    /// When to poll for the first time.
    pub fn wait(&self, now_ms: u64) -> Step {
        self.wait_at_least(0, now_ms)
    }

    /// When to poll after a poll that brought no answer: less often (RFC 8628, section 3.5).
    pub fn back_off(&mut self, now_ms: u64) -> Step {
        self.interval_s = self.interval_s.max((self.interval_s * 2).min(MAX_BACK_OFF_S));
        self.wait_at_least(0, now_ms)
    }

    /// What follows from an answer that arrived at `now_ms` (RFC 8628, section 3.5).
    pub fn advance(&mut self, answer: Answer, now_ms: u64) -> Step {
        match answer {
            Answer::Granted(granted) if granted.access_token.is_some() => Step::Granted(granted),
            Answer::Error { status, code, retry_after } if status < 500 => match code.as_str() {
                "slow_down" => {
                    self.interval_s = (self.interval_s + SLOW_DOWN_S).min(MAX_INTERVAL_S);
                    self.wait_at_least(retry_after.unwrap_or_default(), now_ms)
                }
                "access_denied" => Step::Denied,
                "expired_token" => Step::Expired,
                "authorization_pending" | "server_error" | "temporarily_unavailable" => {
                    self.wait_at_least(retry_after.unwrap_or_default(), now_ms)
                }
                // A rate limit of a gateway may use words of its own.
                _ if status == 429 => self.wait_at_least(retry_after.unwrap_or_default(), now_ms),
                _ => Step::Failed(code),
            },
            Answer::Error { retry_after, .. } | Answer::Unusable { retry_after, .. } => {
                self.wait_at_least(retry_after.unwrap_or_default(), now_ms)
            }
            Answer::Granted(_) => self.wait(now_ms),
        }
    }

    fn wait_at_least(&self, seconds: u64, now_ms: u64) -> Step {
        let pause_ms = self.interval_s.max(seconds).saturating_mul(1000);
        let at = now_ms.saturating_add(pause_ms);
        if at > self.deadline_ms { Step::Expired } else { Step::PollAt(at) }
    }
}

#[cfg(test)]
mod tests;
