//! Faults: how an answer is withheld, replaced, slowed down or bent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{
    HeaderName, HeaderValue, StatusCode, header::CONTENT_LENGTH, header::CONTENT_TYPE,
};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Channel;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The token endpoint, device polls included.
    Token,
    /// The device authorization endpoint.
    Device,
    /// Both discovery documents.
    Discovery,
    /// Every path of the API, before the token is looked at.
    Api,
    /// `GET /v1/models` alone.
    Models,
}

/// When a fault that replaces the answer strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Instead of the request being processed: the grant is not spent.
    #[default]
    Instead,
    /// After it was processed: the grant is spent, and the client does not know.
    After,
}

/// A fault. Any of `status`, `body`, `silence` and `reset` replaces the answer; the others bend
/// the true one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What it strikes.
    pub target: Target,
    /// How many requests; none: until cleared.
    #[serde(default)]
    pub count: Option<u32>,
    /// When a replacement strikes.
    #[serde(default)]
    pub mode: Mode,
    /// Status of the replacement; 200 when only a body is given.
    #[serde(default)]
    pub status: Option<u16>,
    /// Body of the replacement, `application/json` unless the headers say otherwise.
    #[serde(default)]
    pub body: Option<String>,
    /// Headers to set on the answer.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Wait so many milliseconds: before processing, or with [`Mode::After`] between that and
    /// the answer.
    #[serde(default)]
    pub delay_ms: u64,
    /// Send the body byte by byte, so many milliseconds apart.
    #[serde(default)]
    pub drip_ms: Option<u64>,
    /// Never answer.
    #[serde(default)]
    pub silence: bool,
    /// Drop the connection with a reset.
    #[serde(default)]
    pub reset: bool,
    /// Merged into the answer's JSON object when it is a success; `null` removes a member. To
    /// remove `refresh_token` has the effect of
    /// [`same_refresh_token`](Self::same_refresh_token) too: the client keeps what it has.
    #[serde(default)]
    pub patch: Map<String, Value>,
    /// A refresh answers with the same refresh token, which stays good.
    #[serde(default)]
    pub same_refresh_token: bool,
}

impl Fault {
    /// A fault that does nothing yet, to be completed with struct update syntax.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            count: None,
            mode: Mode::Instead,
            status: None,
            body: None,
            headers: BTreeMap::new(),
            delay_ms: 0,
            drip_ms: None,
            silence: false,
            reset: false,
            patch: Map::new(),
            same_refresh_token: false,
        }
    }

    /// Whether the client never gets the true answer.
    pub(crate) fn replaces(&self) -> bool {
        self.status.is_some() || self.body.is_some() || self.silence || self.reset
    }

    /// Whether the request is not even processed.
    pub(crate) fn prevents(&self) -> bool {
        self.replaces() && self.mode == Mode::Instead
    }

    /// Whether the refresh token presented stays good.
    pub(crate) fn keeps_refresh_token(&self) -> bool {
        self.same_refresh_token || self.patch.get("refresh_token") == Some(&Value::Null)
    }
}

/// Marks a response whose connection is to be reset instead.
#[derive(Clone, Copy)]
pub(crate) struct Reset;

/// Processes a request under a fault, if there is one.
pub(crate) async fn strike<F>(fault: Option<Fault>, process: F) -> Response
where
    F: Future<Output = Response>,
{
    let Some(fault) = fault else { return process.await };
    let delay = Duration::from_millis(fault.delay_ms);
    let answer = match (fault.prevents(), fault.mode) {
        (true, _) => {
            tokio::time::sleep(delay).await;
            StatusCode::OK.into_response()
        }
        (false, Mode::Instead) => {
            tokio::time::sleep(delay).await;
            process.await
        }
        (false, Mode::After) => {
            let answer = process.await;
            tokio::time::sleep(delay).await;
            answer
        }
    };
    bend(fault, answer).await
}

async fn bend(fault: Fault, mut answer: Response) -> Response {
    if fault.silence {
        std::future::pending::<Infallible>().await;
    }
    if fault.reset {
        answer.extensions_mut().insert(Reset);
        return answer;
    }
    if fault.replaces() {
        let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
        let body = fault.body.unwrap_or_default();
        answer = (status.unwrap_or_default(), [(CONTENT_TYPE, "application/json")], body)
            .into_response();
    } else if !fault.patch.is_empty() && answer.status().is_success() {
        answer = patched(answer, fault.patch).await;
    }
    for (name, value) in &fault.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    match fault.drip_ms {
        Some(pause) => dripping(answer, Duration::from_millis(pause)).await,
        None => answer,
    }
}

async fn patched(answer: Response, patch: Map<String, Value>) -> Response {
    let (mut head, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        return Response::from_parts(head, body.into());
    };
    object.extend(patch);
    object.retain(|_, value| !value.is_null());
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Value::Object(object).to_string().into())
}

async fn dripping(answer: Response, pause: Duration) -> Response {
    let (mut head, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    head.headers.remove(CONTENT_LENGTH);
    let (mut sender, channel) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for at in 0..body.len() {
            if at > 0 {
                tokio::time::sleep(pause).await;
            }
            if sender.send_data(body.slice(at..=at)).await.is_err() {
                break;
            }
        }
    });
    Response::from_parts(head, Body::new(channel))
}
