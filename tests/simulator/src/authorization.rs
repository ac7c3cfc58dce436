//! The authorization endpoint: validation, the consent page, the code (RFC 6749, section 4.1, with
//! PKCE, RFC 7636, and the issuer in the answer, RFC 9207).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State as Extract};
use axum::http::{HeaderMap, StatusCode, header::LOCATION};
use axum::response::{IntoResponse, Response};
use url::Url;

use crate::Shared;
use crate::digest::s256;
use crate::form::{Parameters, is_form};
use crate::page;
use crate::state::{Issued, Refusal, State};

const CONSENT_LIFE_MS: u64 = 600_000;
const CODE_LIFE_MS: u64 = 60_000;

/// A valid authorization request that waits for the user.
pub(crate) struct Consent {
    redirect_uri: String,
    code_challenge: String,
    state: String,
    scope: String,
    nonce: Option<String>,
    expires_ms: u64,
}

/// A code that was sent to the client. It stays known once exchanged, to notice the second time.
pub(crate) struct Code {
    consent: Consent,
    expires_ms: u64,
    family: Option<u64>,
}

/// Why an authorization request does not get as far as the consent page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Nobody to send the user back to.
    Shown(&'static str),
    /// Sent back to the client (RFC 6749, section 4.1.2.1).
    SentBack(String),
}

impl State {
    /// Validates an authorization request; returns the id of its consent form.
    pub(crate) fn ask_consent(
        &mut self,
        request: &Parameters,
        issuer: &str,
        now_ms: u64,
    ) -> Result<String, Invalid> {
        if request.get("client_id") != Some(&self.options.client_id) {
            return Err(Invalid::Shown("The client_id is not registered."));
        }
        let redirect_uri = request
            .get("redirect_uri")
            .filter(|uri| self.options.redirect_uris.iter().any(|registered| registered == uri))
            .ok_or(Invalid::Shown("The redirect_uri is not registered for this client."))?;
        let state = request.get("state");
        let back = |error: &str, description: &str| {
            let mut parameters = vec![("error", error), ("error_description", description)];
            parameters.extend(state.map(|state| ("state", state)));
            Invalid::SentBack(answer(redirect_uri, issuer, &parameters))
        };
        let Some(state) = state else {
            return Err(back("invalid_request", "state is required"));
        };
        match request.get("response_type") {
            Some("code") => {}
            Some(_) => return Err(back("unsupported_response_type", "only code is supported")),
            None => return Err(back("invalid_request", "response_type is required")),
        }
        if request.get("code_challenge_method") != Some("S256") {
            return Err(back("invalid_request", "code_challenge_method has to be S256"));
        }
        let Some(code_challenge) = request.get("code_challenge").filter(|it| is_pkce_value(it))
        else {
            return Err(back(
                "invalid_request",
                "code_challenge has 43 to 128 unreserved characters",
            ));
        };
        let Some(scope) = Self::grantable_scope(request.get("scope")) else {
            return Err(back("invalid_scope", "a scope is unknown"));
        };
        let consent = Consent {
            redirect_uri: redirect_uri.to_owned(),
            code_challenge: code_challenge.to_owned(),
            state: state.to_owned(),
            scope,
            nonce: request.get("nonce").map(str::to_owned),
            expires_ms: now_ms + CONSENT_LIFE_MS,
        };
        let id = self.entropy.opaque();
        self.consents.insert(id.clone(), consent);
        Ok(id)
    }

    /// The user's answer to a consent form, good for one time; returns where to send the user.
    pub(crate) fn consent(
        &mut self,
        id: &str,
        approve: bool,
        issuer: &str,
        now_ms: u64,
    ) -> Option<String> {
        let consent = self.consents.remove(id).filter(|consent| now_ms < consent.expires_ms)?;
        let (redirect_uri, state) = (consent.redirect_uri.clone(), consent.state.clone());
        if !approve {
            let denied = [("error", "access_denied"), ("state", state.as_str())];
            return Some(answer(&redirect_uri, issuer, &denied));
        }
        let code = self.secret();
        let expires_ms = now_ms + CODE_LIFE_MS;
        self.codes.insert(code.clone(), Code { consent, expires_ms, family: None });
        Some(answer(&redirect_uri, issuer, &[("code", &code), ("state", &state)]))
    }

    /// Exchanges a code (RFC 6749, section 4.1.3; RFC 7636, section 4.6).
    pub(crate) fn redeem_code(
        &mut self,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
        now_ms: u64,
    ) -> Result<Issued, Refusal> {
        let known = self.codes.get(code).ok_or(Refusal::InvalidGrant("unknown code"))?;
        if let Some(family) = known.family {
            // RFC 6749, section 4.1.2: a code used twice revokes what was issued for it.
            self.revoke_family(family);
            return Err(Refusal::SpentTwice);
        }
        if now_ms >= known.expires_ms {
            return Err(Refusal::InvalidGrant("code has expired"));
        }
        if known.consent.redirect_uri != redirect_uri {
            return Err(Refusal::InvalidGrant(
                "redirect_uri is not the one of the authorization request",
            ));
        }
        if s256(verifier) != known.consent.code_challenge {
            return Err(Refusal::InvalidGrant("code_verifier does not match the code_challenge"));
        }
        let (scope, nonce) = (known.consent.scope.clone(), known.consent.nonce.clone());
        let issued = self.log_in(scope, nonce, now_ms);
        if let Some(known) = self.codes.get_mut(code) {
            known.family = Some(issued.family);
        }
        Ok(issued)
    }
}

/// RFC 7636, sections 4.1 and 4.2: 43 to 128 unreserved characters.
pub(crate) fn is_pkce_value(value: &str) -> bool {
    (43..=128).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// The redirect URI with an answer in its query.
fn answer(redirect_uri: &str, issuer: &str, parameters: &[(&str, &str)]) -> String {
    let Ok(mut uri) = Url::parse(redirect_uri) else { return redirect_uri.to_owned() };
    uri.query_pairs_mut().extend_pairs(parameters).append_pair("iss", issuer);
    uri.into()
}

/// `GET /oauth2/authorize`.
pub(crate) async fn authorize(
    Extract(shared): Extract<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let Ok(request) = Parameters::parse(query.unwrap_or_default().as_bytes()) else {
        return page::error("A parameter occurs more than once.");
    };
    let asked = shared.change(|state, now_ms| {
        let id = state.ask_consent(&request, &shared.url, now_ms)?;
        if !state.options.approve_consent {
            return Ok(id);
        }
        let location = state.consent(&id, true, &shared.url, now_ms);
        Err(location.map_or(Invalid::Shown("The consent has expired."), Invalid::SentBack))
    });
    match asked {
        Ok(id) => page::consent(&id, request.get("client_id"), request.get("scope")),
        Err(Invalid::Shown(reason)) => page::error(reason),
        Err(Invalid::SentBack(location)) => {
            (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
        }
    }
}

/// `POST /oauth2/consent`: the page's form.
pub(crate) async fn consent(
    Extract(shared): Extract<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (true, Ok(form)) = (is_form(&headers), Parameters::parse(&body)) else {
        return page::error("This is not the form of the consent page.");
    };
    let (Some(id), Some(decision @ ("approve" | "deny"))) =
        (form.get("consent"), form.get("decision"))
    else {
        return page::error("The form is not complete.");
    };
    let location = shared
        .change(|state, now_ms| state.consent(id, decision == "approve", &shared.url, now_ms));
    match location {
        Some(location) => (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response(),
        None => page::error("This consent page has expired or was answered before."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const REDIRECT: &str = "http://127.0.0.1:56121/callback";

    fn request(changed: &str, value: &str) -> Parameters {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, good) in [
            ("client_id", "torchbearer-demo"),
            ("redirect_uri", REDIRECT),
            ("response_type", "code"),
            ("state", "s&1"),
            ("code_challenge", &s256(VERIFIER)),
            ("code_challenge_method", "S256"),
            ("scope", "openid offline_access"),
        ] {
            query.append_pair(name, if name == changed { value } else { good });
        }
        Parameters::parse(query.finish().as_bytes()).unwrap()
    }

    fn state_with_code(now_ms: u64) -> (State, String) {
        let mut state = State::new(Options::default(), [1; 32]);
        let id = state.ask_consent(&request("", ""), "http://i", now_ms).unwrap();
        let location = state.consent(&id, true, "http://i", now_ms).unwrap();
        assert!(state.consent(&id, true, "http://i", now_ms).is_none(), "a form is good once");
        let url = Url::parse(&location).unwrap();
        let code = url.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
        (state, code)
    }

    #[test]
    fn what_is_wrong_with_a_request_decides_where_the_user_goes() {
        for (name, value, error) in [
            ("client_id", "other", None),
            ("redirect_uri", "http://127.0.0.1:56121/callback/", None),
            ("redirect_uri", "http://localhost:56121/callback", None),
            ("redirect_uri", "", None),
            ("state", "", Some("invalid_request")),
            ("response_type", "token", Some("unsupported_response_type")),
            ("code_challenge", "", Some("invalid_request")),
            ("code_challenge", "short", Some("invalid_request")),
            ("code_challenge_method", "plain", Some("invalid_request")),
            ("code_challenge_method", "", Some("invalid_request")),
            ("scope", "openid root", Some("invalid_scope")),
        ] {
            let mut state = State::new(Options::default(), [1; 32]);
            match (state.ask_consent(&request(name, value), "http://i", 0), error) {
                (Err(Invalid::Shown(_)), None) => {}
                (Err(Invalid::SentBack(location)), Some(error)) => {
                    assert!(
                        location.starts_with(&format!("{REDIRECT}?error={error}&")),
                        "{location}"
                    );
                    assert_eq!(location.contains("state=s%261"), name != "state", "{location}");
                }
                (other, _) => panic!("{name}={value}: {other:?}"),
            }
            assert!(state.consents.is_empty());
        }
    }

    #[test]
    fn a_code_is_good_once_and_used_twice_revokes() {
        let (mut state, code) = state_with_code(0);
        let issued = state.redeem_code(&code, REDIRECT, VERIFIER, 1).unwrap();
        assert!(state.admits(&issued.jti, 1));
        assert_eq!(
            state.redeem_code(&code, REDIRECT, VERIFIER, 1).err(),
            Some(Refusal::SpentTwice)
        );
        assert!(!state.admits(&issued.jti, 1));
    }

    #[test]
    fn a_code_is_bound_to_its_verifier_its_redirect_and_its_minute() {
        let other = VERIFIER.replace('d', "e");
        for (redirect_uri, verifier, now_ms, good) in [
            (REDIRECT, VERIFIER, 59_999, true),
            (REDIRECT, VERIFIER, 60_000, false),
            (REDIRECT, other.as_str(), 0, false),
            ("http://127.0.0.1:56122/callback", VERIFIER, 0, false),
        ] {
            let (mut state, code) = state_with_code(0);
            let redeemed = state.redeem_code(&code, redirect_uri, verifier, now_ms);
            assert_eq!(redeemed.is_ok(), good, "{redirect_uri} {verifier} {now_ms}");
        }
    }
}
