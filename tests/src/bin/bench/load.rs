//! The load: so many connections, on each one request after the other.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::upstream::COMPLETION;
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

/// A connection to a proxy.
pub struct Client {
    address: SocketAddr,
    connection: Connection,
}

enum Connection {
    Http1 { stream: TcpStream, request: Vec<u8>, answer: Vec<u8> },
    Http2(SendRequest<Full<Bytes>>),
}

/// Opens connections. On each there has been an answer, so that none has to be opened later.
pub async fn connect(
    address: SocketAddr,
    protocol: Protocol,
    connections: usize,
) -> Result<Vec<Client>> {
    let mut opened = JoinSet::new();
    for _ in 0..connections {
        opened.spawn(async move {
            let mut client = Client::connect(address, protocol).await?;
            client.ask().await?;
            anyhow::Ok(client)
        });
    }
    let mut clients = Vec::with_capacity(connections);
    while let Some(client) = opened.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

/// What a load has brought.
pub struct Outcome {
    /// How long each request took, in nanoseconds, sorted.
    pub times: Vec<u32>,
    /// Until the last answer.
    pub elapsed: Duration,
    /// The connections are still open, so that their ends are not measured.
    pub clients: Vec<Client>,
}

/// Sends requests until the time is over, and waits for the answers that are still due.
pub async fn run(clients: Vec<Client>, time: Duration) -> Result<Outcome> {
    let watch = Stopwatch::start();
    let mut running = JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            let mut times = Vec::with_capacity(1 << 10);
            while watch.elapsed() < time {
                let begin = watch.elapsed();
                client.ask().await?;
                times.push(u32::try_from((watch.elapsed() - begin).as_nanos()).unwrap_or(u32::MAX));
            }
            anyhow::Ok((client, times))
        });
    }
    let (mut clients, mut times) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (client, own) = ended??;
        clients.push(client);
        times.extend(own);
    }
    let elapsed = watch.elapsed();
    times.sort_unstable();
    Ok(Outcome { times, elapsed, clients })
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

impl Client {
    async fn connect(address: SocketAddr, protocol: Protocol) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connection = match protocol {
            Protocol::Http1 => Connection::Http1 {
                stream,
                request: request(address, "POST", "/v1/chat/completions", QUESTION),
                answer: Vec::with_capacity(4096),
            },
            Protocol::Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                // It ends with the sender; what fails, the sender tells.
                tokio::spawn(async move { drop(connection.await) });
                Connection::Http2(sender)
            }
        };
        Ok(Self { address, connection })
    }

    /// Sends a request; the answer has to be the API's, and whole.
    async fn ask(&mut self) -> Result<()> {
        match &mut self.connection {
            Connection::Http1 { stream, request, answer } => {
                stream.write_all(request).await?;
                answer.clear();
                while length(answer)?.is_none_or(|length| answer.len() < length) {
                    if stream.read_buf(answer).await? == 0 {
                        bail!("the connection was closed");
                    }
                }
                ensure!(answer.ends_with(COMPLETION), "another answer than the API's");
            }
            Connection::Http2(sender) => {
                let request = Request::post(format!("http://{}/v1/chat/completions", self.address))
                    .header("user-agent", "OpenAI/Python 3.54.0")
                    .header("accept", "application/json")
                    .header("accept-encoding", "gzip, deflate")
                    .header("authorization", format!("Bearer {KEY}"))
                    .header("x-stainless-lang", "python")
                    .header("x-stainless-runtime", "CPython")
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from_static(QUESTION.as_bytes())))?;
                let answer = sender.send_request(request).await?;
                ensure!(answer.status() == 200, "{}", answer.status());
                let body = answer.into_body().collect().await?.to_bytes();
                ensure!(body == COMPLETION, "another answer than the API's");
            }
        }
        Ok(())
    }
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
