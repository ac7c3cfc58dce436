//! What is answered on the unix socket, and on the further ways.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use filter::bundle::{BUNDLE_PATH, REJECTIONS_PATH, Rejection, RejectionRefusal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::admin::Error;
use crate::check::Checker;
use crate::clock::{self, Now};
use crate::config::Config;
use crate::overview::{OVERVIEW_PATH, Overview};
use crate::page::access::Door;
use crate::publish::exposition::{self, Page};
use crate::publish::health::{self, Health};
use crate::publish::metrics::{self, Facts};
use crate::publish::remote::{self, Peer};
use crate::publish::workers::Workers;
use crate::publish::{Published, Publisher};
use crate::rotation::Settlement;
use crate::serve::desk::Desk;
use crate::serve::keyring::Keyring;
use crate::surroundings::Surroundings;
use crate::{chain, keys, memory};

/// The largest body of a request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The longest that a poll can wait, in seconds.
pub const MAX_WAIT_S: u64 = 60;

/// Where `login` says that a grant has changed, and `keys` that the client keys have.
pub const RELOAD_PATH: &str = "/v1/reload";

/// Where `page` gets a ticket for the status page.
pub const PAGE_PATH: &str = "/v1/page";

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Service {
    /// The configuration in force, which says whose tokens these are.
    pub config: watch::Receiver<Arc<Config>>,
    /// Where bundles come from.
    pub publisher: Publisher,
    /// Where rejections go.
    pub desk: Desk,
    /// The client keys.
    pub keyring: Keyring,
    /// When the refresher started, in Unix seconds.
    pub started_at: u64,
    /// The filter VMs that poll.
    pub workers: Workers,
    /// Where Envoy is.
    pub surroundings: Surroundings,
    /// Checks of the whole way.
    pub checker: Checker,
    /// The way into the status page.
    pub door: Door,
    /// Whether bundles have the tokens in them, or only what is known of them.
    pub tokens: Tokens,
}

/// How tokens come to Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// In the bundle.
    Bundled,
    /// As secrets of their own, which Envoy watches.
    BySds,
}

impl Service {
    fn health(&self, now: Now) -> Health {
        let statuses = self.publisher.statuses();
        let generation = self.publisher.subscribe().borrow().generation;
        let alarm = self.keyring.alarm();
        let config = self.config.borrow().clone();
        health::sum_up(&config.provider, statuses, alarm, generation, now.unix()).with_config_alarm(
            self.publisher.config_alarm().or_else(|| self.publisher.certificate_alarm(now.unix())),
        )
    }

    fn overview(&self, now: Now) -> Overview {
        Overview {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            at: now.unix(),
            health: self.health(now),
            workers: self.workers.list(now),
            starts_envoy: Some(self.surroundings.settled()),
            envoy: None,
        }
    }

    /// A bundle as this way has it, once Envoy has had the time to see the tokens' files.
    async fn document(&self, published: Published) -> Bytes {
        match self.tokens {
            Tokens::Bundled => published.document,
            Tokens::BySds => {
                let ahead_ms = published.settled_ms.saturating_sub(clock::now().boot_ms);
                tokio::time::sleep(Duration::from_millis(ahead_ms)).await;
                published.without_tokens
            }
        }
    }

    /// Envoy's counters, if it answers.
    async fn counters(&self) -> Option<Page> {
        let told = |error: &Error| tracing::debug!(error = %chain::line(error), "no counters");
        self.surroundings.admin().counters().await.inspect_err(told).ok()
    }
}

/// The answer to a reload: the client keys in this file are published by now.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file, its directory resolved.
    pub client_keys_file: String,
    /// Why it could not be read, if so.
    pub client_keys_alarm: Option<String>,
}

/// What filters need, and what is served behind their gate.
fn gate_routes() -> Router<Service> {
    Router::new()
        .route(BUNDLE_PATH, get(bundle))
        .route(REJECTIONS_PATH, post(reject))
        .route("/ready", get(report_readiness))
}

/// The routes for Envoys on other machines. What belongs to the Envoy beside this refresher is not
/// among them, nor what changes something here.
pub fn remote_router(service: Service) -> Router {
    gate_routes()
        .route("/metrics", get(report_own_metrics))
        .route("/health", get(report_own_health))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(service)
}

/// The routes on loopback, for an Envoy beside this refresher that cannot reach its socket.
pub fn loopback_router(service: Service) -> Router {
    Router::new()
        .route(BUNDLE_PATH, get(bundle))
        .route(REJECTIONS_PATH, post(reject))
        .layer(axum::middleware::from_fn(remote::guard))
        .route("/ready", get(report_readiness))
        .route("/metrics", get(report_metrics))
        .route("/health", get(report_health))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(service)
}

/// The routes of the socket.
pub fn router(service: Service) -> Router {
    gate_routes()
        .route(RELOAD_PATH, post(reload))
        .route(OVERVIEW_PATH, get(report_overview))
        .route("/metrics", get(report_metrics))
        .route(PAGE_PATH, post(invite))
        .route("/health", get(report_health))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(service)
}

#[derive(Deserialize)]
struct Poll {
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    worker: String,
}

async fn bundle(
    State(service): State<Service>,
    peer: Option<Extension<Peer>>,
    Query(poll): Query<Poll>,
) -> Response {
    let serving = service.publisher.published_ms(poll.generation);
    let envoy = peer.as_ref().map_or("", |Extension(Peer(name))| name);
    service.workers.heard(envoy, &poll.worker, poll.generation, serving, clock::now());
    let mut published = service.publisher.subscribe();
    let wait = Duration::from_secs(poll.wait.min(MAX_WAIT_S));
    let differs = |published: &Published| {
        published.generation != 0 && published.generation != poll.generation
    };
    match tokio::time::timeout(wait, next(&mut published, differs)).await {
        Ok(Some(published)) => json_bytes(StatusCode::OK, service.document(published).await),
        Ok(None) | Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn next(
    published: &mut watch::Receiver<Published>,
    wanted: impl FnMut(&Published) -> bool,
) -> Option<Published> {
    published.wait_for(wanted).await.ok().map(|published| published.clone())
}

async fn reject(State(service): State<Service>, body: Bytes) -> Response {
    let Ok(rejection) = serde_json::from_slice::<Rejection>(&body) else {
        let refusal = RejectionRefusal { error: "invalid_request".to_owned(), retry_after: None };
        return json(StatusCode::BAD_REQUEST, &refusal);
    };
    let Rejection { credential, generation, status } = rejection;
    tracing::debug!(%credential, generation, status, "the upstream refused a token");
    match service.desk.reject(&credential, generation).await {
        Some(Settlement::Replaced) => {
            let published = service.publisher.subscribe().borrow().clone();
            json_bytes(StatusCode::OK, service.document(published).await)
        }
        Some(Settlement::LoginRequired) => {
            let refusal =
                RejectionRefusal { error: "login_required".to_owned(), retry_after: None };
            json(StatusCode::CONFLICT, &refusal)
        }
        Some(Settlement::Unavailable { retry_after_s }) => unavailable(retry_after_s),
        Some(Settlement::Pending) => unavailable(1),
        None => {
            let error = "unknown_credential".to_owned();
            json(StatusCode::NOT_FOUND, &RejectionRefusal { error, retry_after: None })
        }
    }
}

fn unavailable(seconds: u64) -> Response {
    let error = "unavailable".to_owned();
    let refusal = RejectionRefusal { error, retry_after: Some(seconds) };
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &refusal);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

async fn reload(State(service): State<Service>) -> Response {
    service.desk.reload();
    let client_keys_alarm = service.keyring.reload(clock::now());
    let client_keys_file = service.keyring.path(keys::file::resolved);
    json(StatusCode::OK, &Reloaded { client_keys_file, client_keys_alarm })
}

#[derive(Deserialize)]
struct Depth {
    #[serde(default)]
    deep: String,
}

async fn report_health(State(service): State<Service>, Query(depth): Query<Depth>) -> Response {
    if !matches!(depth.deep.as_str(), "1" | "true") {
        return json(StatusCode::OK, &service.health(clock::now()));
    }
    let check = service.checker.check().await;
    let good = check.is_good();
    let health = Health { deep_check: Some(check), ..service.health(clock::now()) };
    json(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health)
}

/// An Envoy elsewhere asks this on behalf of its clients: its own way to the API is not ours to check.
async fn report_own_health(State(service): State<Service>, Query(depth): Query<Depth>) -> Response {
    match depth.deep.as_str() {
        "1" | "true" => StatusCode::NOT_FOUND.into_response(),
        _ => json(StatusCode::OK, &service.health(clock::now())),
    }
}

async fn report_metrics(State(service): State<Service>) -> Response {
    let envoy = service.counters().await;
    metrics_page(&service, |facts| metrics::page(Facts { envoy, ..facts }))
}

/// The refresher's part alone.
async fn report_own_metrics(State(service): State<Service>) -> Response {
    metrics_page(&service, metrics::own_page)
}

fn metrics_page(service: &Service, page: impl FnOnce(Facts<'_>) -> Page) -> Response {
    let overview = service.overview(clock::now());
    let check = service.checker.last();
    let resident_bytes = memory::resident_bytes();
    let facts = Facts { overview: &overview, resident_bytes, check: check.as_ref(), envoy: None };
    bytes(StatusCode::OK, exposition::CONTENT_TYPE, page(facts).text().into())
}

async fn report_overview(State(service): State<Service>) -> Response {
    json(StatusCode::OK, &overview(&service).await)
}

/// What is known now, for every place that shows it.
pub async fn overview(service: &Service) -> Overview {
    let mut overview = service.overview(clock::now());
    if let Some(counters) = service.counters().await {
        overview.envoy = service.surroundings.admin().envoy(&counters).await.ok();
    }
    overview
}

async fn invite(State(service): State<Service>) -> Response {
    match service.door.issue(clock::now()) {
        Some(invitation) => json(StatusCode::OK, &invitation),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn report_readiness(State(service): State<Service>) -> Response {
    let (ready, body) = health::readiness(&service.publisher.statuses());
    json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    json_bytes(status, serde_json::to_vec(body).unwrap_or_default().into())
}

fn json_bytes(status: StatusCode, body: Bytes) -> Response {
    bytes(status, "application/json", body)
}

fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
