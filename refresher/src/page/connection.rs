//! The connections of the page: few, and none for ever.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::accept;

/// How many connections there are at the same time; a browser opens six.
pub const MAX_CONNECTIONS: usize = 32;

/// The largest head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

/// How many headers a request may have.
pub const MAX_HEADERS: usize = 64;

/// How long the head of the next request may be awaited, on an idle connection too.
pub const HEAD: Duration = Duration::from_secs(15);

/// How long a connection lives, before it has to be made anew.
const LIFE: Duration = Duration::from_secs(300);

/// How long the last answer on it may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves until it is dropped, and every connection with it.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    accept::connections(listener, MAX_CONNECTIONS, |stream| attend(stream, router.clone())).await;
}

async fn attend(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What a client did wrong is its own affair.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(LIFE) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(FAREWELL, connection).await;
}
