//! The shape of a sidecar proxy, as small as it can be: takes out the client's credentials, puts the
//! token in, and passes on. From Envoy it takes plain HTTP, so that it is not handicapped.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;

const STRIPPED: [HeaderName; 8] =
    [ACCEPT_ENCODING, CONNECTION, COOKIE, FORWARDED, TE, TRANSFER_ENCODING, UPGRADE, VIA];

type Answer = Response<Either<Incoming, http_body_util::Empty<bytes::Bytes>>>;

/// Runs until it is killed.
pub async fn run(upstream: &str) -> Result<()> {
    let token = std::env::var("TOKEN").context("TOKEN is not set")?;
    let token: &'static HeaderValue = Box::leak(Box::new(format!("Bearer {token}").parse()?));
    let upstream: &'static Uri = Box::leak(Box::new(upstream.parse()?));
    let client = Client::builder(TokioExecutor::new()).build(connector()?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        tokio::spawn(async move {
            let forward = |request| forward(request, client.clone(), token, upstream);
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(forward)).await;
        });
    }
}

/// Towards the API: plain, or TLS with HTTP/2 if the API speaks it, as Envoy does.
fn connector() -> Result<HttpsConnector<HttpConnector>> {
    let mut trusted = RootCertStore::empty();
    if let Some(certificate) = std::env::var_os("TRUSTED_CA") {
        trusted.add(CertificateDer::from_pem_file(certificate)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    Ok(builder.enable_all_versions().wrap_connector(http))
}

async fn forward(
    mut request: Request<Incoming>,
    client: Client<HttpsConnector<HttpConnector>, Incoming>,
    token: &HeaderValue,
    upstream: &Uri,
) -> Result<Answer, Infallible> {
    let path = request.uri().path_and_query().cloned();
    let headers = request.headers_mut();
    for name in &STRIPPED {
        headers.remove(name);
    }
    headers.remove("x-proxy-api-key");
    headers.insert(AUTHORIZATION, token.clone());
    headers.remove(HOST);
    let mut parts = upstream.clone().into_parts();
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
