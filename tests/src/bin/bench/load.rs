//! The load: so many connections, on each one request after the other.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::variant::KEY;

/// What a client of a chat sends.
const QUESTION: &str = r#"{"model":"grok-4","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Tell me something about foxes and dogs, in one sentence."}],"temperature":0.7}"#;

/// How a client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, kept alive.
    Http1,
    /// HTTP/2 with prior knowledge, one stream at a time on each connection.
    Http2,
}

impl Protocol {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
        }
    }
}

/// Sends requests until the time is over; gives how long each took, in nanoseconds.
pub async fn run(
    address: SocketAddr,
    protocol: Protocol,
    connections: usize,
    time: Duration,
) -> Result<Vec<u32>> {
    let watch = Stopwatch::start();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        match protocol {
            Protocol::Http1 => clients.spawn(http1(address, watch, time)),
            Protocol::Http2 => clients.spawn(http2(address, watch, time)),
        };
    }
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        times.extend(client??);
    }
    Ok(times)
}

/// A request on an HTTP/1.1 connection, as bytes.
pub fn request(address: SocketAddr, method: &str, target: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\nuser-agent: OpenAI/Python 3.54.0\r\n\
         accept: application/json\r\naccept-encoding: gzip, deflate\r\n\
         authorization: Bearer {KEY}\r\n\
         x-stainless-lang: python\r\nx-stainless-runtime: CPython\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn http1(address: SocketAddr, watch: Stopwatch, time: Duration) -> Result<Vec<u32>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = request(address, "POST", "/v1/chat/completions", QUESTION);
    let mut times = Vec::with_capacity(1 << 14);
    let mut answer = Vec::with_capacity(4096);
    while watch.elapsed() < time {
        let begin = watch.elapsed();
        stream.write_all(&request).await?;
        answer.clear();
        while length(&answer)?.is_none_or(|length| answer.len() < length) {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the connection was closed");
            }
        }
        times.push(u32::try_from((watch.elapsed() - begin).as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(times)
}

/// How many bytes the answer has in all, once its head is there.
fn length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    let name = b"content-length: ";
    let place = answer.windows(name.len()).position(|window| window.eq_ignore_ascii_case(name));
    let digits = answer.get(place.context("an answer has a length")? + name.len()..);
    let digits = digits.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    Ok(Some(head + 4 + length))
}

async fn http2(address: SocketAddr, watch: Stopwatch, time: Duration) -> Result<Vec<u32>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut times = Vec::with_capacity(1 << 14);
    while watch.elapsed() < time {
        let request = Request::post(format!("http://{address}/v1/chat/completions"))
            .header("user-agent", "OpenAI/Python 3.54.0")
            .header("accept", "application/json")
            .header("accept-encoding", "gzip, deflate")
            .header("authorization", format!("Bearer {KEY}"))
            .header("x-stainless-lang", "python")
            .header("x-stainless-runtime", "CPython")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(QUESTION.as_bytes())))?;
        let begin = watch.elapsed();
        let answer = sender.send_request(request).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        answer.into_body().collect().await?;
        times.push(u32::try_from((watch.elapsed() - begin).as_nanos()).unwrap_or(u32::MAX));
    }
    connection.abort();
    Ok(times)
}
