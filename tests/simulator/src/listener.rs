//! The listener: HTTP/1.1 connections, with the power to reset one, or to make it a WebSocket.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fault::Reset;
use crate::realtime::{self, Opened};
use crate::{Shared, api, authorization, device, endpoint, token};

/// More than Envoy lets through, so that what Envoy lets through is seen.
const MAX_HEADERS: usize = 512;

/// Serves until the future is dropped; the connections end with it.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = router(shared);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone()));
                }
                // Out of file descriptors, most likely: give the others a chance to close.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(token::discovery))
        .route("/.well-known/oauth-authorization-server", get(token::discovery))
        .route("/oauth2/authorize", get(authorization::authorize))
        .route("/oauth2/consent", post(authorization::consent))
        .route("/oauth2/token", post(token::token))
        .route("/oauth2/device/code", post(device::device_code))
        .route("/oauth2/revoke", post(token::revoke))
        .route("/device", get(device::show).post(device::decide))
        .nest("/_control", endpoint::routes())
        .fallback(api::serve)
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(shared)
}

/// Says to the connection that it ends here.
#[derive(Debug)]
struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection dropped by a fault")
    }
}

impl Error for Dropped {}

async fn connection(stream: TcpStream, router: Router) {
    // A stream of small events is the point of this server: no waiting for more of them.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let opened = Arc::new(AtomicBool::new(false));
    let opening = Arc::clone(&opened);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = router.call(request);
        let opening = Arc::clone(&opening);
        // Pinned, so that the connection can be polled by reference and taken apart afterwards.
        Box::pin(async move {
            let response: Response = answer.await.unwrap_or_else(|never| match never {});
            opening.store(response.extensions().get::<Opened>().is_some(), Ordering::Relaxed);
            match response.extensions().get::<Reset>() {
                Some(Reset) => Err(Dropped),
                None => Ok(response),
            }
        })
    });
    let mut connection = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let dropped = ended.is_err_and(|error| error.source().is_some_and(|it| it.is::<Dropped>()));
    let parts = connection.into_parts();
    if dropped {
        // Closing with a zero linger time sends a reset instead of an orderly end.
        let _ = parts.io.into_inner().set_zero_linger();
    } else if opened.load(Ordering::Relaxed) {
        realtime::serve(parts.io.into_inner(), parts.read_buf).await;
    }
}
