//! Further ways to the bundle: mutual TLS for Envoys on other machines, and plain HTTP on loopback
//! for a mesh that cannot reach a unix socket.
//!
//! Only what a filter and the pages behind its gate need is served here. Connections are bounded in
//! number, and what has shown no certificate yet is bounded in time.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::tls::Tls;
use crate::{accept, chain, clock};

/// How many connections there are at the same time: two for each worker of 500 Envoys.
pub const MAX_CONNECTIONS: usize = 4096;

/// How many of them may be in their handshake.
pub const MAX_HANDSHAKES: usize = 256;

/// How long a handshake may take, its turn included.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// How many bytes of a request's head may have come without its end; with what is read at once a head
/// can have twice as many. Hyper does not take less than 8 KiB.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// How many headers a request may have: those of a client of the gate come through, too.
pub const MAX_HEADERS: usize = 128;

/// How long the head of the next request may be awaited. Longer than Envoy keeps an idle connection
/// of the shipped cluster, so that none is closed while a request is on its way.
pub const HEAD: Duration = Duration::from_secs(120);

/// How often the log hears of clients that are not let in, in milliseconds.
const COMPLAINT_MS: u64 = 10_000;

/// Why a way cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}")]
pub struct Error {
    /// The setting.
    setting: &'static str,
    /// The address.
    address: SocketAddr,
    /// Why.
    source: io::Error,
}

/// The Envoy at the other end, by the name in its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Arc<str>);

/// Listens for Envoys on other machines. To be called in a Tokio runtime.
///
/// # Errors
///
/// When the address cannot be listened on.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    bind("publish.listen", address)
}

/// Listens on loopback. To be called in a Tokio runtime.
///
/// # Errors
///
/// When the port cannot be listened on.
pub fn listen_on_loopback(port: u16) -> Result<TcpListener, Error> {
    bind("publish.loopback_port", (Ipv4Addr::LOCALHOST, port).into())
}

fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A port that was given up a moment ago is free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // After a restart all of them come back at once.
        socket.listen(MAX_CONNECTIONS as u32)
    };
    listen().map_err(|source| Error { setting, address, source })
}

/// Serves clients with a certificate that is let in, until this is dropped. What `terms` say holds
/// at once, for connections that are open too.
pub async fn serve(listener: TcpListener, terms: watch::Receiver<Arc<Tls>>, router: Router) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    accept::connections(listener, MAX_CONNECTIONS, |stream| {
        let _ = stream.set_nodelay(true);
        let (terms, router, handshakes) = (terms.clone(), router.clone(), handshakes.clone());
        attend(stream, terms, router, handshakes)
    })
    .await;
}

/// Serves everybody who can connect, until this is dropped.
pub async fn serve_plainly(listener: TcpListener, router: Router) {
    accept::connections(listener, MAX_CONNECTIONS, |stream| {
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        async move {
            // What a client did wrong is its own affair.
            let _ = http(stream, service).await;
        }
    })
    .await;
}

async fn attend(
    stream: TcpStream,
    mut terms: watch::Receiver<Arc<Tls>>,
    router: Router,
    handshakes: Arc<Semaphore>,
) {
    let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
    let server = terms.borrow_and_update().server.clone();
    let accepted = tokio::time::timeout(HANDSHAKE, async {
        let _one_of_few = handshakes.acquire().await;
        TlsAcceptor::from(server).accept(stream).await
    });
    let accepted = accepted.await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            complain(&from, &chain::line(&error));
            return;
        }
        Err(_) => {
            tracing::debug!(%from, "a TLS handshake took too long");
            return;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown: Arc<[CertificateDer<'static>]> =
        shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let admitted = terms.borrow().admit(&shown, clock::now().unix());
    let name = match admitted {
        Ok(name) => name,
        Err(refusal) => {
            complain(&from, &refusal.to_string());
            return;
        }
    };
    tracing::debug!(%from, %name, "a client was let in");
    let peer = Peer(name.into());
    let (current, chain) = (terms.clone(), shown.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // A certificate may expire while its connection is open.
        let admitted = current.borrow().admit(&chain, clock::now().unix());
        request.extensions_mut().insert(peer.clone());
        let router = TowerToHyperService::new(router.clone());
        async move {
            match admitted {
                Ok(_) => router.call(request).await,
                Err(_) => Ok(StatusCode::FORBIDDEN.into_response()),
            }
        }
    });
    let mut connection = std::pin::pin!(http(stream, service));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            changed = terms.changed() => {
                let admitted = terms.borrow_and_update().admit(&shown, clock::now().unix());
                if let (Ok(()), Ok(_)) = (changed, &admitted) {
                    continue;
                }
                tracing::info!(%from, "a client is let in no longer");
                return;
            }
        }
    }
}

/// An Envoy that is not let in tries again twice a second, and so could anybody: the log hears of it
/// now and then.
fn complain(from: &str, error: &str) {
    static TOLD_MS: AtomicU64 = AtomicU64::new(0);
    let now_ms = clock::now().boot_ms.max(1);
    let told_ms = TOLD_MS.load(Ordering::Relaxed);
    if told_ms == 0 || now_ms.saturating_sub(told_ms) >= COMPLAINT_MS {
        TOLD_MS.store(now_ms, Ordering::Relaxed);
        tracing::warn!(%from, %error, "a client was not let in");
    } else {
        tracing::debug!(%from, %error, "a client was not let in");
    }
}

async fn http<S, IO>(stream: IO, service: S) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Lets only filters, and not web pages, to what has secrets in it: a browser can be made to send
/// requests to a loopback port, but not with a `Host` that is no address of that port.
pub async fn guard(request: Request, next: axum::middleware::Next) -> Response {
    use axum::http::header::{HOST, ORIGIN};
    let headers = request.headers();
    let host = crate::page::guard::only(headers, HOST.as_str());
    let is_filter = host == Some(AUTHORITY) && !headers.contains_key(ORIGIN);
    if is_filter {
        next.run(request).await
    } else {
        StatusCode::MISDIRECTED_REQUEST.into_response()
    }
}

/// The `Host` with which filters ask.
const AUTHORITY: &str = "refresher";
