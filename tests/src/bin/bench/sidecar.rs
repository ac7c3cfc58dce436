//! The shape of a sidecar proxy, as small as it can be: takes out the client's credentials, puts the
//! token in, and passes on. Without TLS, so that it is not handicapped.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri, http::uri::Authority};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

const STRIPPED: [HeaderName; 8] =
    [ACCEPT_ENCODING, CONNECTION, COOKIE, FORWARDED, TE, TRANSFER_ENCODING, UPGRADE, VIA];

type Answer = Response<Either<Incoming, http_body_util::Empty<bytes::Bytes>>>;

/// Runs until it is killed.
pub async fn run(upstream: &str) -> Result<()> {
    let token = std::env::var("TOKEN").context("TOKEN is not set")?;
    let token: &'static HeaderValue = Box::leak(Box::new(format!("Bearer {token}").parse()?));
    let uri: Uri = upstream.parse()?;
    let authority: &'static Authority =
        Box::leak(Box::new(uri.authority().context("an authority")?.clone()));
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        tokio::spawn(async move {
            let forward = |request| forward(request, client.clone(), token, authority);
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(forward)).await;
        });
    }
}

async fn forward(
    mut request: Request<Incoming>,
    client: Client<HttpConnector, Incoming>,
    token: &HeaderValue,
    authority: &Authority,
) -> Result<Answer, Infallible> {
    let path = request.uri().path_and_query().cloned();
    let headers = request.headers_mut();
    for name in &STRIPPED {
        headers.remove(name);
    }
    headers.remove("x-proxy-api-key");
    headers.insert(AUTHORIZATION, token.clone());
    headers.remove(HOST);
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(hyper::http::uri::Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query = path;
    let bad = || {
        let mut answer = Response::new(Either::Right(http_body_util::Empty::new()));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    };
    let Ok(uri) = Uri::from_parts(parts) else { return Ok(bad()) };
    *request.uri_mut() = uri;
    Ok(client.request(request).await.map_or_else(|_| bad(), |answer| answer.map(Either::Left)))
}
