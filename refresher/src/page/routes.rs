//! What the page can ask for, and what it is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::document::{self, Document};
use super::guard;
use super::logins::{Kind, Login, Logins};
use crate::config::Config;
use crate::keys::listing::{self, Row};
use crate::keys::{KeyFile, Ring};
use crate::overview::Overview;
use crate::publish::server::{self, Service};
use crate::{chain, clock, store};

mod keys;

/// The largest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 16 << 10;

/// How long a request may take, its body included.
const DEADLINE: Duration = Duration::from_secs(20);

/// The header that carries the session. A page of another origin cannot send one.
pub const SESSION: &str = "x-torchbearer-session";

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Desk {
    service: Service,
    logins: Logins,
    page: Arc<Document>,
    port: u16,
}

impl Desk {
    /// The settings that are in force.
    fn config(&self) -> Arc<Config> {
        self.service.config.borrow().clone()
    }
}

/// The routes of the page that is served on `port`.
pub(super) fn router(service: Service, port: u16) -> Router {
    let (logins, page) = (Logins::default(), Arc::new(Document::new()));
    let desk = Desk { service, logins, page, port };
    let own = Router::new()
        .route("/api/state", get(state))
        .route("/api/logins", post(begin_login))
        .route("/api/logins/cancel", post(cancel_login))
        .route("/api/keys/add", post(keys::add))
        .route("/api/keys/rotate", post(keys::rotate))
        .route("/api/keys/revoke", post(keys::revoke))
        .layer(middleware::from_fn_with_state(desk.clone(), admit));
    Router::new()
        .route("/", get(page_itself))
        .route("/api/session", post(begin_session))
        .merge(own)
        .fallback(async || refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing here"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(desk.clone(), guard_all))
        .with_state(desk)
}

/// What holds for every request and answer.
async fn guard_all(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let judged = guard::judge(request.method(), request.uri(), request.headers(), desk.port);
    let mut response = match judged {
        Err(refusal) => refuse(refusal.status(), refusal.code(), &refusal.to_string()),
        Ok(()) => tokio::time::timeout(DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
            refuse(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long")
        }),
    };
    document::harden(response.headers_mut());
    response
}

/// Nobody sees or changes anything without a session.
async fn admit(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let session = guard::only(request.headers(), SESSION).unwrap_or_default();
    if desk.service.door.admits(session, clock::now()) {
        return next.run(request).await;
    }
    let message = "no session: \"refresher page\" opens the page with one";
    refuse(StatusCode::UNAUTHORIZED, "session_required", message)
}

async fn page_itself(State(desk): State<Desk>) -> Response {
    let mut response = Response::new(Body::from(desk.page.html.clone()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, desk.page.policy.clone());
    response
}

async fn begin_session(State(desk): State<Desk>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        ticket: crate::secret::Secret,
    }
    let asked: Asked = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let Some(session) = desk.service.door.redeem(asked.ticket.expose(), clock::now()) else {
        let message = "this address has been used, or is too old: \"refresher page\" makes another";
        return refuse(StatusCode::FORBIDDEN, "invalid_ticket", message);
    };
    // The ticket in it is spent.
    let _ = std::fs::remove_file(desk.config().state_dir.join(super::FORWARDING));
    answer(&json!({"session": session}))
}

/// Everything that the page shows.
#[derive(Serialize)]
struct Shown {
    overview: Overview,
    client_keys: ClientKeys,
    logins: Vec<Login>,
}

#[derive(Serialize)]
struct ClientKeys {
    /// Whether a request needs one.
    required: bool,
    /// Why those of the store are not shown.
    problem: Option<String>,
    rows: Vec<Row>,
}

async fn state(State(desk): State<Desk>) -> Response {
    let overview = server::overview(&desk.service).await;
    let client_keys = client_keys(&desk.config(), clock::now().unix());
    answer(&Shown { overview, client_keys, logins: desk.logins.list() })
}

fn client_keys(config: &Config, now: u64) -> ClientKeys {
    let stored = match KeyFile::find(&config.state_dir) {
        Ok(Some(file)) => file.load(now),
        Ok(None) => Ok(None),
        Err(error) => Err(error.into()),
    };
    let (ring, problem) = match stored {
        Ok(ring) => (ring, None),
        Err(error) => (Some(Ring::default()), Some(chain::line(&error))),
    };
    let required = ring.is_some() || !config.client_keys.is_empty();
    ClientKeys { required, problem, rows: listing::rows(config, ring.as_ref(), now) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    credential: String,
    kind: Kind,
}

async fn begin_login(State(desk): State<Desk>, body: Bytes) -> Response {
    let Begin { credential, kind } = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    if !store::is_name(&credential) {
        return unaccepted("credential", &format!("accepted: {}", store::NAME_RULE));
    }
    match desk.logins.begin(desk.config(), &credential, kind) {
        Ok(()) => answer(&json!({"logins": desk.logins.list()})),
        Err(busy) => refuse(StatusCode::CONFLICT, "busy", &busy.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    credential: String,
}

async fn cancel_login(State(desk): State<Desk>, body: Bytes) -> Response {
    let Cancel { credential } = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    if desk.logins.cancel(&credential) {
        return answer(&json!({"logins": desk.logins.list()}));
    }
    refuse(StatusCode::CONFLICT, "no_login", "no login of this credential is under way")
}

/// Reads a body, or says what is wrong with it. A bad value is not repeated: it may be a secret.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is not what is accepted here (line {line}:{column})");
        refuse(StatusCode::BAD_REQUEST, "invalid_request", &message)
    })
}

fn answer<T: Serialize>(body: &T) -> Response {
    json_of(StatusCode::OK, body)
}

/// A setting of the user's is not accepted.
fn unaccepted(field: &str, message: &str) -> Response {
    let error = json!({"code": "not_accepted", "field": field, "message": message});
    json_of(StatusCode::BAD_REQUEST, &json!({"error": error}))
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    json_of(status, &json!({"error": {"code": code, "field": Value::Null, "message": message}}))
}

fn json_of<T: Serialize>(status: StatusCode, body: &T) -> Response {
    let json = HeaderValue::from_static("application/json");
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, json)], bytes).into_response()
}
