//! One connection to Envoy's admin interface, kept for as long as that Envoy lives.
//!
//! An Envoy that is replaced by a hot restart closes its admin socket at once, and the new one has
//! a socket of the same path. A connection that was there before goes on, and is the only way to
//! learn what the old one still has to do.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Why Envoy did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("envoy's admin interface cannot be reached")]
    Connect(#[source] std::io::Error),
    /// The connection has ended, or makes no sense.
    #[error("envoy's admin interface does not answer")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("envoy's admin interface cannot be asked")]
    Request(#[from] hyper::http::Error),
    /// The answer is too large, or broke off.
    #[error("envoy's admin interface gave no whole answer")]
    Body,
    /// It took longer than [`DEADLINE`].
    #[error("envoy's admin interface did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
}

/// A connection to the admin interface of one Envoy.
#[derive(Debug)]
pub struct Admin {
    requests: SendRequest<Empty<Bytes>>,
}

impl Admin {
    /// Connects to whoever has the socket now.
    ///
    /// # Errors
    ///
    /// When nobody has.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let connecting = async {
            let stream = UnixStream::connect(socket).await.map_err(Error::Connect)?;
            let (requests, connection) = handshake(TokioIo::new(stream)).await?;
            // Ends with the connection, whoever closes it.
            tokio::spawn(connection);
            Ok(Self { requests })
        };
        tokio::time::timeout(DEADLINE, connecting).await.map_err(|_| Error::Timeout)?
    }

    /// Asks for a path.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn ask(
        &mut self,
        method: Method,
        target: &str,
    ) -> Result<(StatusCode, Bytes), Error> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost")
            .body(Empty::new())?;
        let answer = async {
            self.requests.ready().await?;
            let answer = self.requests.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            Ok((status, body.map_err(|_| Error::Body)?.to_bytes()))
        };
        tokio::time::timeout(DEADLINE, answer).await.map_err(|_| Error::Timeout)?
    }

    /// How many requests of clients are under way, WebSockets included.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn requests(&mut self) -> Result<u64, Error> {
        let filter = "/stats?filter=%5Ehttp%5C..*%5C.downstream_rq_active%24";
        let (_, body) = self.ask(Method::GET, filter).await?;
        Ok(active(&String::from_utf8_lossy(&body)))
    }
}

/// The sum of the gauges, without that of the admin interface, which counts this very question.
fn active(stats: &str) -> u64 {
    let gauge = |line: &str| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok();
    let lines = stats.lines().filter(|line| !line.starts_with("http.admin."));
    lines.filter_map(gauge).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_itself_is_not_under_way() {
        let stats = "http.admin.downstream_rq_active: 1\nhttp.proxy.downstream_rq_active: 3\n";
        assert_eq!(active(stats), 3);
        assert_eq!(active("http.admin.downstream_rq_active: 1\n"), 0);
        assert_eq!(active(""), 0);
    }
}
