//! The one outgoing HTTP client: bounded in time and size, never redirected.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, RETRY_AFTER};
use rustls::{ClientConfig, RootCertStore};
use url::Url;
use zeroize::Zeroizing;

use crate::admin::Admin;
use crate::chain;
use crate::oauth::answer::Response;
use crate::oauth::request::Request;
use crate::provider::{Insecure, is_loopback, require_secure};
use crate::secret::Secret;

/// The longest that one exchange takes, from the first byte out to the last byte in.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// What says to a provider who asks (RFC 9110, section 10.1.5).
const USER_AGENT: &str = concat!("torchbearer-refresher/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Why an exchange brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address must not be asked.
    #[error("address refused")]
    Insecure(#[from] Insecure),
    /// The client cannot be built, for example without a system trust store.
    #[error("http client cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// The file of certificates to trust cannot be used.
    #[error(transparent)]
    Trust(Box<Untrusted>),
    /// The connection never opened: the provider has seen nothing.
    #[error("provider cannot be reached")]
    NotSent(#[source] reqwest::Error),
    /// The request may have arrived, but its answer did not.
    #[error("provider did not answer")]
    Unanswered(#[source] reqwest::Error),
    /// The answer is larger than [`MAX_BYTES`].
    #[error("provider answered with more than {MAX_BYTES} bytes")]
    TooLarge,
}

/// A `ca_file` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("ca_file {path}: {reason}; accepted: a PEM file with at least one certificate")]
pub struct Untrusted {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Error {
    /// Whether the provider can have acted on the request.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::TooLarge)
    }

    /// The error in a word, for health and logs.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Insecure(_) => "address_refused",
            Self::Setup(_) => "client_setup",
            Self::Trust(_) => "ca_file",
            Self::NotSent(_) => "connect",
            Self::Unanswered(error) if error.is_timeout() => "timeout",
            Self::Unanswered(_) => "no_answer",
            Self::TooLarge => "answer_too_large",
        }
    }
}

/// Sends a request and reads the whole answer, within [`DEADLINE`]. The certificates in `ca_file`
/// are trusted besides the system's.
///
/// # Errors
///
/// As [`send_within`].
pub async fn send(request: &Request, ca_file: Option<&Path>) -> Result<Response, Error> {
    send_within(request, ca_file, DEADLINE).await
}

/// Sends a request and reads the whole answer within `deadline`.
///
/// The client lives for this one exchange: they are minutes apart, and a trust store held in
/// between would be most of the process's memory.
///
/// # Errors
///
/// See [`Error`]. An answer of any status is no error.
pub async fn send_within(
    request: &Request,
    ca_file: Option<&Path>,
    deadline: Duration,
) -> Result<Response, Error> {
    Ok(send_dated(request, ca_file, deadline).await?.response)
}

/// An answer, and when its sender says that it was made.
pub struct Dated {
    /// The answer.
    pub response: Response,
    /// Its `Date` (RFC 9110, section 6.6.1), in Unix seconds.
    pub date: Option<u64>,
}

/// As [`send_within`], with the answer's date.
///
/// # Errors
///
/// As [`send_within`].
pub async fn send_dated(
    request: &Request,
    ca_file: Option<&Path>,
    deadline: Duration,
) -> Result<Dated, Error> {
    require_secure(&request.url)?;
    exchange(&client(&request.url, ca_file, deadline)?, request).await
}

/// Asks the server on a unix socket for a path, within `deadline`. Without a form it is a `GET`.
///
/// # Errors
///
/// See [`Error`].
pub async fn ask_socket(
    socket: &Path,
    path: &str,
    post: bool,
    deadline: Duration,
) -> Result<Response, Error> {
    let client = plain().unix_socket(socket).timeout(deadline).build().map_err(Error::Setup)?;
    let url = format!("http://localhost{path}");
    let request = if post { client.post(url) } else { client.get(url) };
    Ok(receive(request, MAX_BYTES).await?.response)
}

/// Asks Envoy's admin interface for a path with its query, within `deadline`; an answer of more
/// than `max_bytes` is none.
///
/// # Errors
///
/// See [`Error`].
pub async fn ask_admin(
    admin: &Admin,
    target: &str,
    deadline: Duration,
    max_bytes: usize,
) -> Result<Response, Error> {
    let builder = plain().timeout(deadline);
    let (builder, base) = match admin {
        Admin::Socket(path) => (builder.unix_socket(path.as_path()), "http://localhost"),
        Admin::Http(url) => (builder, url.as_str().trim_end_matches('/')),
    };
    let client = builder.build().map_err(Error::Setup)?;
    Ok(receive(client.get(format!("{base}{target}")), max_bytes).await?.response)
}

/// Sends a `GET` to Envoy's listener on this machine, with this client key, within `deadline`.
///
/// # Errors
///
/// See [`Error`].
pub async fn ask_listener(
    url: &str,
    key: Option<&Secret>,
    deadline: Duration,
) -> Result<Response, Error> {
    let client = plain().user_agent(USER_AGENT).timeout(deadline).build().map_err(Error::Setup)?;
    let request = client.get(url);
    let request = match key {
        Some(key) => request.bearer_auth(key.expose()),
        None => request,
    };
    Ok(receive(request, MAX_BYTES).await?.response)
}

async fn exchange(client: &reqwest::Client, request: &Request) -> Result<Dated, Error> {
    let builder = match &request.form {
        None => client.get(request.url.clone()),
        Some(form) => client
            .post(request.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.expose().to_owned()),
    };
    let builder = match &request.basic {
        None => builder,
        Some((user, password)) => builder.basic_auth(user, Some(password.expose())),
    };
    receive(builder.header(ACCEPT, "application/json"), MAX_BYTES).await
}

async fn receive(request: reqwest::RequestBuilder, max_bytes: usize) -> Result<Dated, Error> {
    let mut answer = request.send().await.map_err(failure)?;
    let retry_after = answer.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let date = answer.headers().get(DATE).and_then(|value| value.to_str().ok());
    let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
    let date = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(Error::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let response = Response { status: answer.status().as_u16(), retry_after, body };
    Ok(Dated { response, date: date.map(|date| date.as_secs()) })
}

/// The address is dropped from the error: an authorize or callback URL in a log is a secret.
fn failure(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_builder() {
        Error::Setup(error)
    } else if error.is_connect() {
        Error::NotSent(error)
    } else {
        Error::Unanswered(error)
    }
}

fn client(url: &Url, ca_file: Option<&Path>, deadline: Duration) -> Result<reqwest::Client, Error> {
    // A second installation changes nothing and says so; that is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = match (url.scheme(), ca_file) {
        ("http", _) => plain(),
        (_, None) => reqwest::Client::builder().https_only(true),
        (_, Some(path)) => {
            reqwest::Client::builder().https_only(true).tls_certs_merge(certificates(path)?)
        }
    };
    // A proxy could not reach our loopback, and must not see what is for it alone.
    let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
    builder
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(deadline)
        // The deadline alone would not tell whether anything was sent.
        .connect_timeout(deadline * 2 / 3)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(Error::Setup)
}

/// Whether a file of certificates can be used.
///
/// # Errors
///
/// [`Error::Trust`] when it cannot.
pub fn check_trust(ca_file: &Path) -> Result<(), Error> {
    certificates(ca_file).map(drop)
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let refused =
        |reason: String| Error::Trust(Box::new(Untrusted { path: path.to_owned(), reason }));
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| refused(chain::line(&error)))?;
    if certificates.is_empty() {
        return Err(refused("has no certificate".to_owned()));
    }
    Ok(certificates)
}

/// A client that speaks no TLS, with an empty trust store so that none is loaded.
fn plain() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a request ends whose connection is taken, and then left alone.
    async fn unanswered(scheme: &str) -> Error {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
        let url = Url::parse(&url).unwrap();
        let client = client(&url, None, Duration::from_millis(600)).unwrap();
        client.post(url).send().await.map_err(failure).unwrap_err()
    }

    #[tokio::test]
    async fn what_has_no_connection_yet_was_not_sent() {
        // Nobody takes part in the handshake.
        let error = unanswered("https").await;
        assert!(matches!(error, Error::NotSent(_)) && !error.may_have_arrived(), "{error:?}");
        let error = unanswered("http").await;
        assert!(matches!(error, Error::Unanswered(_)) && error.may_have_arrived(), "{error:?}");
    }
}
