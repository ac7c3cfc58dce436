//! The callback's listener: 127.0.0.1 only, for one login only.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::callback::{self, Callback, Expected};
use super::pages::Page;

/// A callback of this login, and the way to tell the browser what came of it.
pub(super) type Arrival = (Callback, oneshot::Sender<Page>);

/// Binds the first registered port that is free.
pub(super) async fn bind(ports: &[u16]) -> Result<(TcpListener, u16), Error> {
    let mut refused = None;
    for &port in ports {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => {
                let port = listener.local_addr().map_err(Error::Listen)?.port();
                return Ok((listener, port));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                tracing::info!(port, %error, "callback port not free");
            }
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        return Err(Error::Listen(error));
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    Err(Error::PortsBusy { ports: ports.join(", ") })
}

#[derive(Clone)]
struct Service {
    expected: Arc<Expected>,
    origins: Arc<[String]>,
    arrivals: mpsc::Sender<Arrival>,
}

/// Serves the callback until `ended`, the answers under way included.
pub(super) async fn serve(
    listener: TcpListener,
    expected: Arc<Expected>,
    origins: Arc<[String]>,
    arrivals: mpsc::Sender<Arrival>,
    ended: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let service = Service { expected, origins, arrivals };
    let router = Router::new().fallback(answer).with_state(service);
    let ended = async move { drop(ended.await) };
    axum::serve(listener, router).with_graceful_shutdown(ended).await
}

async fn answer(State(service): State<Service>, request: Request) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let origin = origin.filter(|origin| {
        origin.to_str().is_ok_and(|origin| service.origins.iter().any(|known| known == origin))
    });
    let mut response = if request.method() == Method::OPTIONS {
        preflight(origin.is_some())
    } else if request.method() == Method::GET {
        page(arrive(&service, request.uri().clone()).await)
    } else {
        empty(StatusCode::METHOD_NOT_ALLOWED)
    };
    if let Some(origin) = origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    harden(response.headers_mut());
    response
}

async fn arrive(service: &Service, uri: Uri) -> Page {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let callback = callback::judge(path, query, &service.expected);
    match callback {
        Callback::NotFound => Page::NotFound,
        Callback::OtherAttempt => Page::OtherAttempt,
        Callback::Code(_) | Callback::Refused(..) | Callback::OtherIssuer(_) => {
            let (reply, told) = oneshot::channel();
            // Nobody listens any more when the login has just ended by another way.
            if service.arrivals.send((callback, reply)).await.is_err() {
                return Page::OtherAttempt;
            }
            told.await.unwrap_or(Page::OtherAttempt)
        }
    }
}

/// A page of the provider may call us from a script: its browser asks first (CORS, and private
/// network access).
fn preflight(known: bool) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    if known {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
        headers.insert(
            HeaderName::from_static("access-control-allow-private-network"),
            HeaderValue::from_static("true"),
        );
    }
    response
}

fn page(page: Page) -> Response {
    let mut response = Response::new(Body::from(page.html()));
    *response.status_mut() =
        StatusCode::from_u16(page.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The address of this page holds a code: it must not be kept, sent on, or framed.
fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (header::VARY, "origin"),
        (header::CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
