//! HTTP: a client, and by hand for requests that client libraries would repair, and for unix sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client for requests that a library may send.
///
/// # Errors
///
/// When it cannot be made.
pub fn http_client() -> Result<reqwest::Client> {
    // The refresher brings TLS without a provider of its own, and Cargo unites features. Only the
    // first installation counts; the others fail, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, with the chunks put together.
    pub body: String,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// The body as JSON; null when it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Whether it is whole, and says that the connection ends with it.
    fn is_last(&self) -> bool {
        let length = self.header("content-length").and_then(|length| length.parse().ok());
        length == Some(self.body.len()) && self.header("connection") == Some("close")
    }

    /// Reads an answer; none where the bytes do not hold one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, body) = bytes.split_at(end);
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers: Vec<_> = lines.filter_map(header).collect();
        let body = body.get(4..).unwrap_or_default();
        let chunked = headers.iter().any(|(name, value)| {
            name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked")
        });
        let body = if chunked { unchunked(body) } else { body.to_vec() };
        Some(Self { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(line) = body.windows(2).position(|window| window == b"\r\n") {
        let size = body.get(..line).and_then(|size| str::from_utf8(size).ok());
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).unwrap_or(0);
        let start = line + 2;
        let Some(chunk) = body.get(start..start + size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        whole.extend_from_slice(chunk);
        body = body.get(start + size + 2..).unwrap_or_default();
    }
    whole
}

/// Sends these bytes and reads until the connection closes. The request should ask for that
/// (`Connection: close`).
///
/// # Errors
///
/// When there is no connection, or no answer in time.
pub async fn raw_request(address: SocketAddr, request: &[u8]) -> Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    exchange(stream, request).await
}

/// Sends these bytes and reads all that comes until the connection closes, which may be nothing.
///
/// # Errors
///
/// When there is no connection, or it is not closed in time.
pub async fn raw_bytes(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let stream = TcpStream::connect(address).await?;
    read_all(stream, bytes).await
}

/// Sends one request over a unix socket.
///
/// # Errors
///
/// When there is no connection, or no answer in time.
pub async fn unix_request(socket: &Path, method: &str, target: &str, body: &str) -> Result<Answer> {
    let stream = UnixStream::connect(socket).await?;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(stream, request.as_bytes()).await
}

async fn exchange<S>(stream: S, request: &[u8]) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Answer::parse(&read_all(stream, request).await?).context("the answer is not HTTP")
}

async fn read_all<S>(mut stream: S, request: &[u8]) -> Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that has seen enough may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = async {
        // A peer that resets after its answer has still answered.
        while stream.read_buf(&mut answer).await.is_ok_and(|bytes| bytes > 0) {
            if Answer::parse(&answer).is_some_and(|answer| answer.is_last()) {
                // Envoy gives its peers a second to close first.
                let _ = stream.shutdown().await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.context("no answer in time")?;
    Ok(answer)
}
