//! The control endpoint: [`Control`] over HTTP, for tests in other languages and for people.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::control::Control;
use crate::fault::Fault;
use crate::{DeadToken, Shared};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    user_code: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dead {
    r#as: DeadToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Life {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stream {
    chunks: u64,
    delay_ms: u64,
}

/// The routes under `/_control`; the table is in the crate's documentation.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/ledger", get(ledger))
        .route("/requests", get(requests))
        .route("/summary", get(summary))
        .route("/secrets", get(secrets))
        .route("/clear", post(clear))
        .route("/kill", post(kill))
        .route("/revoke_all", post(revoke_all))
        .route("/device/approve", post(approve))
        .route("/device/deny", post(deny))
        .route("/dead_token", post(dead_token))
        .route("/token_life", post(token_life))
        .route("/stream", post(stream))
        .route("/grant", post(grant))
        .route("/fault", post(set_fault).delete(clear_faults))
}

type Shell = Extract<Arc<Shared>>;

async fn ledger(Extract(shared): Shell) -> Response {
    let control = Control(shared);
    let (spent_twice, entries) = (control.summary().spent_twice, control.ledger());
    Json(json!({"spent_twice": spent_twice, "entries": entries})).into_response()
}

async fn requests(Extract(shared): Shell) -> Response {
    Json(json!({"entries": Control(shared).requests()})).into_response()
}

async fn summary(Extract(shared): Shell) -> Response {
    Json(Control(shared).summary()).into_response()
}

async fn secrets(Extract(shared): Shell) -> Response {
    Json(json!({"secrets": Control(shared).secrets()})).into_response()
}

async fn clear(Extract(shared): Shell) -> Response {
    Control(shared).clear();
    done(json!({}))
}

async fn kill(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |Kill { jti }| {
        let control = Control(shared);
        let killed = match jti {
            Some(jti) => usize::from(control.kill_jti(&jti)),
            None => control.kill_access_token(),
        };
        done(json!({"killed": killed}))
    })
}

async fn revoke_all(Extract(shared): Shell) -> Response {
    done(json!({"revoked": Control(shared).revoke_all()}))
}

async fn approve(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |it: Decide| decided(Control(shared).approve_device(it.user_code.as_deref())))
}

async fn deny(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |it: Decide| decided(Control(shared).deny_device(it.user_code.as_deref())))
}

fn decided(found: bool) -> Response {
    if found {
        done(json!({}))
    } else {
        failed(StatusCode::NOT_FOUND, "no such device login waits")
    }
}

async fn dead_token(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |Dead { r#as }| {
        Control(shared).set_dead_token(r#as);
        done(json!({}))
    })
}

async fn token_life(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |Life { seconds }| {
        Control(shared).set_token_life(seconds);
        done(json!({}))
    })
}

async fn stream(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |Stream { chunks, delay_ms }| {
        Control(shared).set_stream(chunks, delay_ms);
        done(json!({}))
    })
}

async fn grant(Extract(shared): Shell) -> Response {
    Json(Control(shared).issue_grant()).into_response()
}

async fn set_fault(Extract(shared): Shell, body: Bytes) -> Response {
    with(&body, |fault: Fault| {
        if fault.status.is_some_and(|status| !(200..=999).contains(&status)) {
            return failed(StatusCode::BAD_REQUEST, "status has to be from 200 to 999");
        }
        Control(shared).set_fault(fault);
        done(json!({}))
    })
}

async fn clear_faults(Extract(shared): Shell) -> Response {
    Control(shared).clear_faults(None);
    done(json!({}))
}

/// Reads the order as JSON, whatever its content type; no body is an empty object.
fn with<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Response) -> Response {
    let order = if body.is_empty() { b"{}" } else { body };
    match serde_json::from_slice(order) {
        Ok(order) => act(order),
        Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn done(facts: Value) -> Response {
    let mut answer = Map::from_iter([("ok".to_owned(), Value::Bool(true))]);
    if let Value::Object(facts) = facts {
        answer.extend(facts);
    }
    Json(Value::Object(answer)).into_response()
}

fn failed(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"ok": false, "error": error}))).into_response()
}
