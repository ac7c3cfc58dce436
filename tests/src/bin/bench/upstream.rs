//! The API of the bench: it answers at once, over plain HTTP or TLS, and tells when it last saw
//! another token than the current one.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Channel, Either, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
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
const COMPLETION: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1779000000,"model":"grok-4","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":10,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":0}}}"#;

type Body = Either<Full<Bytes>, Channel<Bytes>>;

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
    /// Streams that wait for the start.
    waiting: AtomicUsize,
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
        let shared = Arc::new(Shared {
            started: Stopwatch::start(),
            tokens: Mutex::default(),
            waiting: AtomicUsize::new(0),
        });
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

    /// How long after `since`, a time on this API's clock, another token than the current one came
    /// last, and how many requests there have been.
    pub fn last_other(&self) -> (Option<Duration>, u64) {
        let tokens = self.tokens();
        (tokens.last_other, tokens.requests)
    }

    /// The time on the clock that events carry.
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
) -> Result<Response<Body>, Infallible> {
    shared.note(request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()));
    let plan = Plan::of(request.uri().query().unwrap_or_default());
    let _ = request.into_body().collect().await;
    let (kind, body) = match plan {
        None => {
            ("application/json", Either::Left(Full::new(Bytes::from_static(COMPLETION.as_bytes()))))
        }
        Some(plan) => ("text/event-stream", Either::Right(stream(plan, shared))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

/// What the query of a stream asks for: so many events, so far apart, after so many streams are
/// open.
struct Plan {
    events: u64,
    gap: Duration,
    streams: usize,
}

impl Plan {
    fn of(query: &str) -> Option<Self> {
        let number = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(known, _)| *known == name)?.1.parse::<u64>().ok()
        };
        Some(Self {
            events: number("events")?,
            gap: Duration::from_micros(number("gap_us").unwrap_or(0)),
            streams: usize::try_from(number("streams")?).ok()?,
        })
    }
}

fn stream(plan: Plan, shared: Arc<Shared>) -> Channel<Bytes> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        // All begin together.
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        while !shared.waiting.load(Ordering::SeqCst).is_multiple_of(plan.streams) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut tick = (!plan.gap.is_zero()).then(|| tokio::time::interval(plan.gap));
        for number in 0..plan.events {
            if let Some(tick) = &mut tick {
                tick.tick().await;
            }
            let event = event(number, shared.started.elapsed());
            if sender.send_data(event.into()).await.is_err() {
                return;
            }
            // Each event leaves by itself, as from a model.
            tokio::task::yield_now().await;
        }
        let _ = sender.send_data(Bytes::from_static(b"data: [DONE]\n\n")).await;
    });
    body
}

/// One chunk of a chat completion that carries the time at which it was made.
fn event(number: u64, at: Duration) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1779000000,\"model\":\"grok-4\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word {number}\"}}}}],\"at\":{:015}}}\n\n",
        at.as_nanos()
    )
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
