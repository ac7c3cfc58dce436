//! The API of the bench: it answers at once, over plain HTTP or TLS, and tells when it last saw
//! another token than the current one.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tests::Stopwatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

/// A chat completion as APIs send it.
pub const COMPLETION: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1779000000,"model":"grok-4","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":10,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":0}}}"#;

/// A running API.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate that it shows, where it speaks TLS.
    pub certificate: Option<PathBuf>,
    shared: Arc<Shared>,
}

struct Shared {
    started: Stopwatch,
    /// The value of `authorization` that counts as current, and when another came last.
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    current: Vec<u8>,
    last_other: Option<Duration>,
    requests: u64,
}

impl Upstream {
    /// Starts it; with a folder for its certificate, over TLS.
    pub async fn start(tls: Option<&Path>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { started: Stopwatch::start(), tokens: Mutex::default() });
        let (acceptor, certificate) = tls.map(certify).transpose()?.unzip();
        let served = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (shared, acceptor) = (served.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, shared).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { address, certificate, shared })
    }

    /// Its base address.
    pub fn url(&self) -> Result<Url> {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://localhost:{}", self.address.port()).parse()?)
    }

    /// From now on this token is the current one.
    pub fn expect(&self, token: &str) {
        let mut tokens = self.tokens();
        *tokens = Tokens { current: format!("Bearer {token}").into_bytes(), ..Tokens::default() };
    }

    /// Forgets what has come so far, but for the current token.
    pub fn forget(&self) {
        let mut tokens = self.tokens();
        (tokens.last_other, tokens.requests) = (None, 0);
    }

    /// When, on this API's clock, another token than the current one came last, and how many
    /// requests there have been.
    pub fn last_other(&self) -> (Option<Duration>, u64) {
        let tokens = self.tokens();
        (tokens.last_other, tokens.requests)
    }

    /// The time on this API's clock.
    pub fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn certify(dir: &Path) -> Result<(TlsAcceptor, PathBuf)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let path = dir.join("api.pem");
    std::fs::write(&path, certificate.pem())?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), path))
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, shared.clone()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(2000).initial_stream_window_size(1 << 20);
    // A connection that the proxy closes is no failure.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.note(request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()));
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(COMPLETION)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Shared {
    fn note(&self, authorization: Option<&[u8]>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.requests += 1;
        if authorization != Some(tokens.current.as_slice()) {
            tokens.last_other = Some(self.started.elapsed());
        }
    }
}
