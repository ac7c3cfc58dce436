//! The API: everything on the listener that is neither the authorization server nor the control.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State as Extract};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::body::{self, Arrived, Unread};
use crate::completion::{self, Completion, MODELS};
use crate::fault::{self, Reset, Target};
use crate::form::Parameters;
use crate::jwt::Claims;
use crate::log::RequestEntry;
use crate::{DeadToken, Shared, realtime};

/// The most pieces of one answer.
const MAX_CHUNKS: u64 = 1_000_000;

/// Answers any API request and logs it.
pub(crate) async fn serve(Extract(shared): Extract<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let tokens = presented(&shared, &head.headers);
    let entry = entry(&head, &tokens);
    let sequence = shared.change(|state, now_ms| {
        state.logs.arrive(RequestEntry { time_ms: now_ms, ..entry.clone() })
    });
    // An echo tells of a body without having kept it.
    let keep = !head.uri.path().contains("/echo");
    let call = Call { sequence, head, tokens, entry };
    let response = match body::read(&shared, sequence, body, keep).await {
        Ok(body) => call.answer(&shared, body).await,
        Err(Unread::TooLarge) => {
            failure(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 MiB", None)
        }
        Err(Unread::Broken) => failure(StatusCode::BAD_REQUEST, "the body did not arrive", None),
    };
    if response.extensions().get::<Reset>().is_none() {
        let status = Some(response.status().as_u16());
        shared.change(|state, _| state.logs.amend(sequence, |entry| entry.status = status));
    }
    response
}

/// For each `authorization` header the claims of the access token in it, if it is one of ours.
fn presented(shared: &Shared, headers: &HeaderMap) -> Vec<Option<Claims>> {
    let bearer = |value: &HeaderValue| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| shared.key.verify(token)).flatten()
    };
    headers.get_all(AUTHORIZATION).iter().map(bearer).collect()
}

fn name_of(token: &Option<Claims>) -> String {
    token.as_ref().map_or_else(|| "invalid".to_owned(), |claims| claims.jti.clone())
}

fn entry(head: &Parts, tokens: &[Option<Claims>]) -> RequestEntry {
    RequestEntry {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string),
        headers: shown(&head.headers, tokens),
        authorization: tokens.iter().map(name_of).collect(),
        jti: match tokens {
            [Some(claims)] => Some(claims.jti.clone()),
            _ => None,
        },
        ..RequestEntry::default()
    }
}

/// Headers as they may be shown: no token in them.
fn shown(headers: &HeaderMap, tokens: &[Option<Claims>]) -> Vec<(String, String)> {
    let mut tokens = tokens.iter();
    let show = |(name, value): (&axum::http::HeaderName, &HeaderValue)| {
        let value = if name == AUTHORIZATION {
            format!("[{}]", tokens.next().map_or_else(|| "invalid".to_owned(), name_of))
        } else {
            value.as_bytes().iter().map(|&byte| char::from(byte)).collect()
        };
        (name.as_str().to_owned(), value)
    };
    headers.iter().map(show).collect()
}

/// One request, its head understood.
struct Call {
    sequence: u64,
    head: Parts,
    tokens: Vec<Option<Claims>>,
    entry: RequestEntry,
}

impl Call {
    async fn answer(self, shared: &Shared, body: Arrived) -> Response {
        let trailers = shown(&body.trailers, &[]);
        let path = self.head.uri.path().to_owned();
        let fault = shared.change(|state, _| {
            state.logs.amend(self.sequence, |entry| {
                entry.trailers = trailers;
                entry.body_sha256.clone_from(&body.sha256);
            });
            let models = path == "/v1/models" && self.head.method == Method::GET;
            let fault = models.then(|| state.take_fault(Target::Models)).flatten();
            fault.or_else(|| state.take_fault(Target::Api))
        });
        fault::strike(fault, async { self.route(shared, &path, &body) }).await
    }

    fn route(&self, shared: &Shared, path: &str, body: &Arrived) -> Response {
        if let Some(refused) = self.refuse(shared) {
            return refused;
        }
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let reads = self.head.method == Method::GET || self.head.method == Method::HEAD;
        let posts = self.head.method == Method::POST;
        match segments.as_slice() {
            ["echo", ..] | ["v1", "echo", ..] => self.echo(body),
            ["v1", "models"] if reads => {
                let models: Vec<Value> = MODELS.iter().map(|id| model(id)).collect();
                Json(json!({"object": "list", "data": models})).into_response()
            }
            ["v1", "models", id] if reads && MODELS.contains(id) => Json(model(id)).into_response(),
            ["v1", "models", id] if reads => unknown_model(id),
            ["v1", "chat", "completions"] if posts => {
                self.complete(shared, &body.bytes, "messages")
            }
            ["v1", "responses"] if posts => self.complete(shared, &body.bytes, "input"),
            ["v1", "status", code] if reads || posts => self.status(code),
            ["v1", "body"] if posts => match self.query() {
                Some(query) => body::returned(&query, &body.bytes),
                None => failure(StatusCode::BAD_REQUEST, "a bad query", None),
            },
            ["v1", "realtime"] if reads => realtime::open(&self.head),
            ["v1", "models", ..] | ["v1", "chat", "completions"] | ["v1", "responses"] => {
                failure(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here", None)
            }
            _ => failure(StatusCode::NOT_FOUND, "there is nothing at this path", None),
        }
    }

    /// The answer to a request without exactly one live access token.
    fn refuse(&self, shared: &Shared) -> Option<Response> {
        let url = &shared.url;
        shared.change(|state, now_ms| {
            if let [Some(claims)] = self.tokens.as_slice()
                && claims.iss == *url
                && state.admits(&claims.jti, now_ms)
            {
                return None;
            }
            state.logs.summary.refused += 1;
            state.logs.amend(self.sequence, |entry| entry.refused = true);
            Some(dead(state.options.dead_token))
        })
    }

    fn query(&self) -> Option<Parameters> {
        Parameters::parse(self.head.uri.query().unwrap_or_default().as_bytes()).ok()
    }

    fn echo(&self, body: &Arrived) -> Response {
        Json(json!({
            "method": self.entry.method,
            "path": self.entry.path,
            "headers": self.entry.headers,
            "authorization": self.entry.authorization,
            "body_bytes": body.length,
            "body_sha256": body.sha256,
        }))
        .into_response()
    }

    fn status(&self, code: &str) -> Response {
        let status = code.parse().ok().filter(|code| (200..=999).contains(code));
        let (Some(Ok(status)), Some(query)) = (status.map(StatusCode::from_u16), self.query())
        else {
            return failure(
                StatusCode::BAD_REQUEST,
                "not a status from 200 to 999, or a bad query",
                None,
            );
        };
        let body = query.get("body").unwrap_or_default().to_owned();
        let mut response = (status, body).into_response();
        let content_type = query.get("content_type").unwrap_or("application/json");
        let headers = [(CONTENT_TYPE, Some(content_type)), (RETRY_AFTER, query.get("retry_after"))];
        for (name, value) in headers {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// Both generating endpoints; `prompt` is the member with the conversation.
    fn complete(&self, shared: &Shared, body: &Bytes, prompt: &str) -> Response {
        let bad = |message: &str| failure(StatusCode::BAD_REQUEST, message, None);
        let Ok(request @ Value::Object(_)) = serde_json::from_slice::<Value>(body) else {
            return bad("the body is not a JSON object");
        };
        let Some(model) = request.get("model").and_then(Value::as_str) else {
            return bad("model is required");
        };
        if !MODELS.contains(&model) {
            return unknown_model(model);
        }
        let conversation = match request.get(prompt) {
            Some(Value::Array(messages)) if !messages.is_empty() => request.get(prompt),
            Some(Value::String(_)) if prompt == "input" => request.get(prompt),
            _ => None,
        };
        let Some(conversation) = conversation else {
            return bad("the conversation is missing, empty or of the wrong type");
        };
        let (number, created, chunks, delay_ms) = shared.change(|state, now_ms| {
            let options = &state.options;
            (self.sequence, now_ms / 1000, options.stream_chunks, options.stream_delay_ms)
        });
        let wish =
            |name: &str, default: u64| request.get(name).and_then(Value::as_u64).unwrap_or(default);
        let chunks = usize::try_from(wish("x_chunks", chunks).min(MAX_CHUNKS)).unwrap_or_default();
        let pause = Duration::from_millis(wish("x_delay_ms", delay_ms));
        let prompt_bytes = conversation.to_string().len();
        let completion =
            Completion { number, created, model: model.to_owned(), chunks, prompt_bytes };
        let streams = request.get("stream").and_then(Value::as_bool).unwrap_or_default();
        let usage = request.pointer("/stream_options/include_usage").and_then(Value::as_bool);
        match (prompt, streams) {
            ("messages", true) => {
                completion::stream(completion.chat_events(usage.unwrap_or_default()), pause)
            }
            ("messages", false) => Json(completion.chat()).into_response(),
            (_, true) => completion::stream(completion.response_events(), pause),
            (_, false) => Json(completion.response()).into_response(),
        }
    }
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 1_750_000_000, "owned_by": "xai"})
}

fn unknown_model(id: &str) -> Response {
    let message = format!("The model `{id}` does not exist or you do not have access to it.");
    failure(StatusCode::NOT_FOUND, &message, Some("model_not_found"))
}

/// An error in OpenAI's shape.
fn failure(status: StatusCode, message: &str, code: Option<&str>) -> Response {
    let error =
        json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    (status, Json(json!({"error": error}))).into_response()
}

/// How a dead token is answered.
fn dead(shape: DeadToken) -> Response {
    const MESSAGE: &str = "The access token is missing, expired or revoked.";
    let body = match shape {
        DeadToken::Unauthorized => {
            let mut response = failure(StatusCode::UNAUTHORIZED, MESSAGE, Some("invalid_api_key"));
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return response;
        }
        DeadToken::Forbidden => {
            json!({"code": "unauthenticated:bad-credentials", "error": MESSAGE})
        }
        DeadToken::ForbiddenOld => {
            json!({"error": format!("unauthenticated:bad-credentials {MESSAGE}")})
        }
    };
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}
