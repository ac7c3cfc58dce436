//! The device authorization grant (RFC 8628): its endpoint, its page, and its polls.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, Request, State as Extract};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Shared;
use crate::fault::{self, Target};
use crate::form::{Parameters, is_form};
use crate::page;
use crate::state::{Issued, Refusal, State};
use crate::token;

/// Consonants only: no words by accident, no 0 and O (RFC 8628, section 6.1).
const USER_CODE_ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// By how much `slow_down` raises the interval (RFC 8628, section 3.5).
const SLOW_DOWN_MS: u64 = 5_000;

/// A device login.
pub(crate) struct Device {
    device_code: String,
    user_code: String,
    scope: String,
    interval_ms: u64,
    polled_ms: Option<u64>,
    expires_ms: u64,
    decision: Decision,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Pending,
    Approved,
    Denied,
    Redeemed,
}

/// What the device authorization endpoint hands out.
pub(crate) struct DeviceCodes {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
}

impl State {
    /// Starts a device login.
    pub(crate) fn start_device(
        &mut self,
        client_id: Option<&str>,
        scope: Option<&str>,
        now_ms: u64,
    ) -> Result<DeviceCodes, Refusal> {
        if client_id != Some(&self.options.client_id) {
            return Err(Refusal::InvalidClient("client_id is not registered"));
        }
        let scope = Self::grantable_scope(scope).ok_or(Refusal::InvalidScope)?;
        let (device_code, user_code) = (self.secret(), user_code(self.entropy.bytes()));
        let decision =
            if self.options.approve_device { Decision::Approved } else { Decision::Pending };
        let number = self.devices.last_key_value().map_or(0, |(last, _)| *last) + 1;
        let device = Device {
            device_code: device_code.clone(),
            user_code: user_code.clone(),
            scope,
            interval_ms: self.options.device_interval.saturating_mul(1000),
            polled_ms: None,
            expires_ms: now_ms.saturating_add(self.options.device_life.saturating_mul(1000)),
            decision,
        };
        self.devices.insert(number, device);
        Ok(DeviceCodes { device_code, user_code })
    }

    /// A poll (RFC 8628, section 3.5).
    pub(crate) fn poll_device(
        &mut self,
        device_code: &str,
        now_ms: u64,
    ) -> Result<Issued, Refusal> {
        let device = self.devices.values_mut().find(|device| device.device_code == device_code);
        let device = device.ok_or(Refusal::InvalidGrant("unknown device_code"))?;
        if device.decision == Decision::Redeemed {
            return Err(Refusal::SpentTwice);
        }
        if now_ms >= device.expires_ms {
            return Err(Refusal::ExpiredToken);
        }
        let last = device.polled_ms.replace(now_ms);
        if last.is_some_and(|last| now_ms < last.saturating_add(device.interval_ms)) {
            device.interval_ms += SLOW_DOWN_MS;
            return Err(Refusal::SlowDown);
        }
        match device.decision {
            Decision::Pending => Err(Refusal::AuthorizationPending),
            Decision::Denied => Err(Refusal::AccessDenied),
            Decision::Approved | Decision::Redeemed => {
                device.decision = Decision::Redeemed;
                let scope = device.scope.clone();
                Ok(self.log_in(scope, None, now_ms))
            }
        }
    }

    /// The user's decision about a user code, or about the latest that waits for one.
    pub(crate) fn decide_device(
        &mut self,
        user_code: Option<&str>,
        approve: bool,
        now_ms: u64,
    ) -> bool {
        let mut waiting = self.devices.values_mut().rev().filter(|device| device.waits(now_ms));
        let device = waiting
            .find(|device| user_code.is_none_or(|typed| plain(typed) == plain(&device.user_code)));
        let Some(device) = device else { return false };
        device.decision = if approve { Decision::Approved } else { Decision::Denied };
        true
    }

    /// The latest user code that waits for a decision.
    pub(crate) fn pending_device(&self, now_ms: u64) -> Option<String> {
        let latest = self.devices.values().rev().find(|device| device.waits(now_ms));
        latest.map(|device| device.user_code.clone())
    }
}

impl Device {
    fn waits(&self, now_ms: u64) -> bool {
        self.decision == Decision::Pending && now_ms < self.expires_ms
    }
}

fn user_code(random: [u8; 32]) -> String {
    let letters = random.iter().filter_map(|byte| USER_CODE_ALPHABET.get(usize::from(byte % 20)));
    let letters: Vec<char> = letters.take(8).map(|&letter| char::from(letter)).collect();
    let (first, second) = letters.split_at(letters.len() / 2);
    first.iter().chain(&['-']).chain(second).collect()
}

/// People type what they like: case and punctuation do not count (RFC 8628, section 6.1).
fn plain(user_code: &str) -> String {
    let letters = user_code.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_uppercase()).collect()
}

/// `POST /oauth2/device/code`.
pub(crate) async fn device_code(
    Extract(shared): Extract<Arc<Shared>>,
    request: Request,
) -> Response {
    let fault = shared.change(|state, _| state.take_fault(Target::Device));
    fault::strike(fault, async {
        match start(&shared, request).await {
            Ok(answer) => answer,
            Err(refusal) => token::refused(refusal),
        }
    })
    .await
}

async fn start(shared: &Shared, request: Request) -> Result<Response, Refusal> {
    let form = token::read_form(request).await?;
    shared.change(|state, now_ms| {
        let codes = state.start_device(form.get("client_id"), form.get("scope"), now_ms)?;
        let answer = json!({
            "device_code": codes.device_code,
            "user_code": codes.user_code,
            "verification_uri": format!("{}/device", shared.url),
            "verification_uri_complete": format!("{}/device?user_code={}", shared.url, codes.user_code),
            "expires_in": state.options.device_life,
            "interval": state.options.device_interval,
        });
        Ok((token::NO_STORE, Json(answer)).into_response())
    })
}

/// `GET /device`: the page for the user.
pub(crate) async fn show(RawQuery(query): RawQuery) -> Response {
    match Parameters::parse(query.unwrap_or_default().as_bytes()) {
        Ok(parameters) => page::device(parameters.get("user_code").unwrap_or_default()),
        Err(_) => page::error("A parameter occurs more than once."),
    }
}

/// `POST /device`: the page's form.
pub(crate) async fn decide(
    Extract(shared): Extract<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (true, Ok(form)) = (is_form(&headers), Parameters::parse(&body)) else {
        return page::error("This is not the form of the device page.");
    };
    let (Some(code), Some(decision @ ("approve" | "deny"))) =
        (form.get("user_code"), form.get("decision"))
    else {
        return page::error("The form is not complete.");
    };
    let approve = decision == "approve";
    if !shared.change(|state, now_ms| state.decide_device(Some(code), approve, now_ms)) {
        return page::error("This code is unknown, has expired, or was answered before.");
    }
    page::done(if approve { "The device is logged in." } else { "The device was refused." })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn started() -> (State, DeviceCodes) {
        let options = Options { device_interval: 5, device_life: 600, ..Options::default() };
        let mut state = State::new(options, [1; 32]);
        let codes = state.start_device(Some("torchbearer-demo"), None, 0).ok().unwrap();
        (state, codes)
    }

    #[test]
    fn each_poll_that_comes_too_soon_costs_five_seconds() {
        let (mut state, codes) = started();
        for (now_ms, refusal) in [
            (0, Refusal::AuthorizationPending),
            (5_000, Refusal::AuthorizationPending),
            (9_999, Refusal::SlowDown),
            (19_998, Refusal::SlowDown),
            (34_998, Refusal::AuthorizationPending),
            (49_997, Refusal::SlowDown),
            (599_999, Refusal::AuthorizationPending),
            (600_000, Refusal::ExpiredToken),
        ] {
            assert_eq!(
                state.poll_device(&codes.device_code, now_ms).err(),
                Some(refusal),
                "{now_ms}"
            );
        }
    }

    #[test]
    fn an_approved_code_is_good_once() {
        let (mut state, codes) = started();
        let typed = codes.user_code.to_lowercase().replace('-', " ");
        assert_eq!(state.pending_device(0).as_deref(), Some(codes.user_code.as_str()));
        assert!(!state.decide_device(Some("BBBB-BBBB"), true, 0));
        assert!(state.decide_device(Some(&typed), true, 0));
        assert!(!state.decide_device(Some(&typed), false, 0), "decided once");
        assert!(state.poll_device(&codes.device_code, 1).is_ok());
        let again = state.poll_device(&codes.device_code, 900_000);
        assert_eq!(again.err(), Some(Refusal::SpentTwice));
    }

    #[test]
    fn a_denied_or_foreign_code_is_refused() {
        let (mut state, codes) = started();
        assert!(state.decide_device(None, false, 0));
        assert_eq!(state.poll_device(&codes.device_code, 0).err(), Some(Refusal::AccessDenied));
        assert!(matches!(state.poll_device("other", 0), Err(Refusal::InvalidGrant(_))));
        assert!(state.start_device(Some("other"), None, 0).is_err());
        assert!(state.start_device(Some("torchbearer-demo"), Some("root"), 0).is_err());
    }

    #[test]
    fn user_codes_have_eight_unambiguous_letters() {
        let (_, codes) = started();
        let (first, second) = codes.user_code.split_once('-').unwrap();
        assert_eq!((first.len(), second.len()), (4, 4));
        assert!(plain(&codes.user_code).bytes().all(|byte| USER_CODE_ALPHABET.contains(&byte)));
    }
}
