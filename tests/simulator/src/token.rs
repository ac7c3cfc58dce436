//! The token endpoint (RFC 6749, section 3.2), revocation (RFC 7009) and discovery (RFC 8414).

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State as Extract};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, PRAGMA, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::Shared;
use crate::authorization::is_pkce_value;
use crate::fault::{self, Fault, Target};
use crate::form::{Parameters, is_form};
use crate::jwt::{Claims, IdClaims};
use crate::state::{Issued, Refusal, SCOPES, State};

/// RFC 6749, section 5.1.
pub(crate) const NO_STORE: [(HeaderName, &str); 2] =
    [(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")];

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const MAX_FORM_BYTES: usize = 64 << 10;

/// The one user whose account this is.
const SUBJECT: &str = "simulated-user";

/// `POST /oauth2/token`.
pub(crate) async fn token(Extract(shared): Extract<Arc<Shared>>, request: Request) -> Response {
    let fault = shared.change(|state, _| {
        state.logs.summary.token_requests += 1;
        state.take_fault(Target::Token)
    });
    let form = read_form(request).await;
    if fault.as_ref().is_some_and(Fault::prevents)
        && let Some((grant, presented)) = form.as_ref().ok().and_then(presented)
    {
        shared.change(|state, now_ms| state.logs.present(now_ms, grant, presented, "fault", false));
    }
    let issued = !fault.as_ref().is_some_and(Fault::replaces);
    let keep = fault.as_ref().is_some_and(Fault::keeps_refresh_token);
    fault::strike(fault, async {
        let granted = form.and_then(|form| {
            shared.change(|state, now_ms| grant(state, &form, keep, issued, now_ms))
        });
        match granted {
            Ok(tokens) => (NO_STORE, Json(signed(&shared, tokens))).into_response(),
            Err(refusal) => refused(refusal),
        }
    })
    .await
}

/// Reads the form of a request to an endpoint for public clients.
pub(crate) async fn read_form(request: Request) -> Result<Parameters, Refusal> {
    let (head, body) = request.into_parts();
    if !is_form(&head.headers) {
        return Err(Refusal::InvalidRequest(
            "the body has to be application/x-www-form-urlencoded",
        ));
    }
    // RFC 6749, section 2.3.1: not in the request URI.
    if head.uri.query().is_some() {
        return Err(Refusal::InvalidRequest("parameters belong into the body"));
    }
    if head.headers.contains_key(AUTHORIZATION) {
        return Err(Refusal::InvalidClient("this is a public client: no client authentication"));
    }
    let body = to_bytes(body, MAX_FORM_BYTES).await;
    let body = body.map_err(|_| Refusal::InvalidRequest("the body is too large or incomplete"))?;
    let form = Parameters::parse(&body);
    form.map_err(|_| Refusal::InvalidRequest("a parameter occurs more than once"))
}

/// The grant that a form presents: its kind in the ledger, and itself.
fn presented(form: &Parameters) -> Option<(&'static str, &str)> {
    let (kind, parameter) = match form.get("grant_type")? {
        "authorization_code" => ("authorization_code", "code"),
        "refresh_token" => ("refresh_token", "refresh_token"),
        DEVICE_CODE => ("device_code", "device_code"),
        _ => return None,
    };
    Some((kind, form.get(parameter)?))
}

/// Decides about a token request and enters it into the ledger.
fn grant(
    state: &mut State,
    form: &Parameters,
    keep: bool,
    issued: bool,
    now_ms: u64,
) -> Result<Issued, Refusal> {
    let decided = decide(state, form, keep, now_ms);
    if let Some((grant, presented)) = presented(form) {
        let outcome = match &decided {
            Ok(_) => "ok",
            Err(Refusal::SpentTwice) => "spent_twice",
            Err(refusal) => wire(*refusal).1,
        };
        state.logs.present(now_ms, grant, presented, outcome, issued);
    }
    decided
}

fn decide(
    state: &mut State,
    form: &Parameters,
    keep: bool,
    now_ms: u64,
) -> Result<Issued, Refusal> {
    let require = |name: &str, missing| form.get(name).ok_or(Refusal::InvalidRequest(missing));
    let grant_type = require("grant_type", "grant_type is required")?;
    if form.get("client_secret").is_some() {
        return Err(Refusal::InvalidClient("this is a public client: it has no secret"));
    }
    if require("client_id", "client_id is required")? != state.options.client_id {
        return Err(Refusal::InvalidClient("client_id is not registered"));
    }
    match grant_type {
        "authorization_code" => {
            let code = require("code", "code is required")?;
            let redirect_uri = require("redirect_uri", "redirect_uri is required")?;
            let verifier = require("code_verifier", "code_verifier is required")?;
            if !is_pkce_value(verifier) {
                let reason = "code_verifier has 43 to 128 unreserved characters";
                return Err(Refusal::InvalidRequest(reason));
            }
            state.remember(verifier);
            state.redeem_code(code, redirect_uri, verifier, now_ms)
        }
        "refresh_token" => {
            let token = require("refresh_token", "refresh_token is required")?;
            state.refresh(token, form.get("scope"), keep, now_ms)
        }
        DEVICE_CODE => {
            let code = require("device_code", "device_code is required")?;
            state.poll_device(code, now_ms)
        }
        _ => Err(Refusal::UnsupportedGrantType),
    }
}

/// The answer with tokens (RFC 6749, section 5.1).
pub(crate) fn signed(shared: &Shared, issued: Issued) -> Value {
    let client_id = shared.client_id.clone();
    let (iss, iat, exp) = (shared.url.clone(), issued.issued_at, issued.expires_at);
    let openid = issued.scope.split(' ').any(|scope| scope == "openid");
    let id_token = openid.then(|| {
        let (iss, sub, aud) = (iss.clone(), SUBJECT.to_owned(), client_id.clone());
        shared.key.sign("JWT", &IdClaims { iss, sub, aud, iat, exp, nonce: issued.nonce })
    });
    let claims = Claims {
        aud: iss.clone(),
        iss,
        sub: SUBJECT.to_owned(),
        client_id,
        iat,
        exp,
        jti: issued.jti,
        scope: issued.scope.clone(),
    };
    let access_token = shared.key.sign("at+jwt", &claims);
    shared.change(|state, _| state.remember(&access_token));
    let mut answer = json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": exp - iat,
        "scope": issued.scope,
    });
    let optional = [("refresh_token", issued.refresh_token), ("id_token", id_token)];
    if let Value::Object(members) = &mut answer {
        members.extend(
            optional.into_iter().filter_map(|(name, it)| Some((name.to_owned(), it?.into()))),
        );
    }
    answer
}

/// Status, error code and description of a refusal (RFC 6749, section 5.2; RFC 8628, section 3.5).
fn wire(refusal: Refusal) -> (StatusCode, &'static str, &'static str) {
    let bad = StatusCode::BAD_REQUEST;
    match refusal {
        Refusal::InvalidRequest(description) => (bad, "invalid_request", description),
        Refusal::InvalidClient(description) => {
            (StatusCode::UNAUTHORIZED, "invalid_client", description)
        }
        Refusal::InvalidGrant(description) => (bad, "invalid_grant", description),
        Refusal::SpentTwice => {
            (bad, "invalid_grant", "grant was used before; everything issued is revoked")
        }
        Refusal::InvalidScope => (bad, "invalid_scope", "scope is unknown or was not granted"),
        Refusal::UnsupportedGrantType => {
            (bad, "unsupported_grant_type", "grant_type is not supported")
        }
        Refusal::AuthorizationPending => {
            (bad, "authorization_pending", "the user has not decided yet")
        }
        Refusal::SlowDown => (bad, "slow_down", "polled too soon: the interval is 5 s longer now"),
        Refusal::ExpiredToken => (bad, "expired_token", "device_code has expired"),
        Refusal::AccessDenied => (bad, "access_denied", "the user refused"),
    }
}

/// A refusal as the client gets it.
pub(crate) fn refused(refusal: Refusal) -> Response {
    let (status, error, description) = wire(refusal);
    let body = Json(json!({"error": error, "error_description": description}));
    let mut response = (status, NO_STORE, body).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = axum::http::HeaderValue::from_static("Basic realm=\"simulator\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// `POST /oauth2/revoke`: ends the token's family. An unknown token is answered the same
/// (RFC 7009, section 2.2).
pub(crate) async fn revoke(Extract(shared): Extract<Arc<Shared>>, request: Request) -> Response {
    let form = match read_form(request).await {
        Ok(form) => form,
        Err(refusal) => return refused(refusal),
    };
    let Some(token) = form.get("token") else {
        return refused(Refusal::InvalidRequest("token is required"));
    };
    if form.get("client_id") != Some(&shared.client_id) {
        return refused(Refusal::InvalidClient("client_id is not registered"));
    }
    let jti = shared.key.verify(token.as_bytes()).map(|claims| claims.jti);
    shared.change(|state, _| {
        let of_access = jti.and_then(|jti| state.family_of_access_token(&jti));
        if let Some(family) = of_access.or_else(|| state.family_of_refresh_token(token)) {
            state.revoke_family(family);
        }
    });
    (StatusCode::OK, NO_STORE).into_response()
}

/// `GET /.well-known/openid-configuration` and its twin.
pub(crate) async fn discovery(Extract(shared): Extract<Arc<Shared>>) -> Response {
    let fault = shared.change(|state, _| state.take_fault(Target::Discovery));
    let url = &shared.url;
    let document = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/oauth2/authorize"),
        "token_endpoint": format!("{url}/oauth2/token"),
        "device_authorization_endpoint": format!("{url}/oauth2/device/code"),
        "revocation_endpoint": format!("{url}/oauth2/revoke"),
        "grant_types_supported": ["authorization_code", "refresh_token", DEVICE_CODE],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": SCOPES,
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": true,
    });
    fault::strike(fault, async { Json(document).into_response() }).await
}
