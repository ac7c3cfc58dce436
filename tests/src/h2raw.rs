//! HTTP/2 by hand (RFC 9113), over cleartext with prior knowledge: names and values may be any
//! bytes, in any order, since they are sent as literals that nothing has looked at.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use loona_hpack::Decoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::message::{Field, Outcome};
use crate::raw::Answer;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest frame that every receiver takes (section 4.2).
const MAX_FRAME: usize = 16_384;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags; the first one is `ACK` of settings and pings, too.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection, on which one request at a time is made.
pub struct Http2 {
    stream: TcpStream,
    decoder: Decoder<'static>,
    next_id: u32,
    goaway: Option<u32>,
}

/// What one request is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The header fields, the pseudo-headers among them.
    pub head: &'a [Field],
    /// The body, at most what fits into the first flow control window.
    pub body: Option<&'a [u8]>,
    /// The trailers.
    pub trailers: &'a [Field],
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Http2 {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        // SETTINGS_INITIAL_WINDOW_SIZE and the connection's window: answers are never held up.
        let settings = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        let window = 0x3fff_ffff_u32.to_be_bytes();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &settings));
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &window));
        stream.write_all(&bytes).await?;
        Ok(Self { stream, decoder: Decoder::new(), next_id: 1, goaway: None })
    }

    /// Makes one request and waits for what becomes of it.
    ///
    /// # Errors
    ///
    /// When nothing does in time, or the answer is not HTTP/2.
    pub async fn request(&mut self, parts: Parts<'_>) -> Result<Outcome> {
        let frames = frames(self.next_id, parts);
        self.exchange(&frames).await
    }

    /// Makes a request without a body of this field block, which is sent as it is.
    ///
    /// # Errors
    ///
    /// When nothing comes of it in time, or the answer is not HTTP/2.
    pub async fn request_block(&mut self, block: &[u8]) -> Result<Outcome> {
        let frames = field_block(self.next_id, block, true);
        self.exchange(&frames).await
    }

    async fn exchange(&mut self, frames: &[u8]) -> Result<Outcome> {
        let id = self.next_id;
        self.next_id += 2;
        // A peer that has seen enough may close before it has read everything.
        let _ = self.stream.write_all(frames).await;
        match tokio::time::timeout(PATIENCE, self.outcome(id)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("no answer in time"),
        }
    }

    async fn outcome(&mut self, id: u32) -> Result<Outcome> {
        let mut head: Option<Answer> = None;
        let mut body = Vec::new();
        while let Some(frame) = self.read().await? {
            let own = frame.stream == id;
            match frame.kind {
                RST_STREAM if own => return Ok(Outcome::Reset(code(&frame.payload, 0))),
                GOAWAY => self.goaway = Some(code(&frame.payload, 4)),
                HEADERS if own => {
                    let answer = self.decode(&frame).await?;
                    // An interim answer is followed by the final one, that by trailers.
                    if head.is_none() && answer.status >= 200 {
                        head = Some(answer);
                    }
                }
                DATA if own => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if own && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                let mut answer = head.context("an answer without a status")?;
                answer.body = String::from_utf8_lossy(&body).into_owned();
                return Ok(Outcome::Answered(answer));
            }
        }
        Ok(Outcome::Closed(self.goaway))
    }

    async fn decode(&mut self, first: &Frame) -> Result<Answer> {
        let mut block = first.payload.clone();
        let mut flags = first.flags;
        while flags & END_HEADERS == 0 {
            let next = self.read().await?.context("half a header block")?;
            block.extend_from_slice(&next.payload);
            flags = next.flags;
        }
        let decoded = self.decoder.decode(&block);
        let decoded = decoded.map_err(|error| anyhow::anyhow!("HPACK: {error:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<_> =
            decoded.iter().map(|(name, value)| (text(name), text(value))).collect();
        let status = headers.iter().find(|(name, _)| name == ":status");
        let status = status.and_then(|(_, status)| status.parse().ok()).unwrap_or(0);
        Ok(Answer { status, headers, body: String::new() })
    }

    /// The next frame that matters; `None` at the end of the connection.
    async fn read(&mut self) -> Result<Option<Frame>> {
        loop {
            let mut head = [0; 9];
            match self.stream.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if ends(error.kind()) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            match self.stream.read_exact(&mut payload).await {
                Ok(_) => {}
                Err(error) if ends(error.kind()) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            if matches!(kind, SETTINGS | PING) && flags & END_STREAM == 0 {
                let echo = if kind == PING { payload.as_slice() } else { &[] };
                let _ = self.stream.write_all(&acknowledgement(kind, echo)).await;
            } else {
                return Ok(Some(Frame { kind, flags, stream, payload }));
            }
        }
    }
}

fn ends(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn code(payload: &[u8], at: usize) -> u32 {
    let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_be_bytes)
}

fn frames(id: u32, parts: Parts<'_>) -> Vec<u8> {
    let more = parts.body.is_some() || !parts.trailers.is_empty();
    let mut bytes = field_block(id, &literals(parts.head), !more);
    if let Some(body) = parts.body {
        let last = parts.trailers.is_empty();
        let mut chunks = body.chunks(MAX_FRAME).peekable();
        if chunks.peek().is_none() {
            bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, id, &[]));
        }
        while let Some(chunk) = chunks.next() {
            let ends = last && chunks.peek().is_none();
            bytes.extend(frame(DATA, if ends { END_STREAM } else { 0 }, id, chunk));
        }
    }
    if !parts.trailers.is_empty() {
        bytes.extend(field_block(id, &literals(parts.trailers), true));
    }
    bytes
}

/// Fields in the form that changes no table.
pub fn literals(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal field without indexing, with a new name (RFC 7541, section 6.2.2).
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// A field that is added to the table, and then stands there again and again (RFC 7541, sections
/// 6.2.1 and 6.1): a byte for each time.
pub fn repeated(field: &Field, times: usize) -> Vec<u8> {
    const INCREMENTAL_INDEXING: u8 = 0x40;
    const NEWEST: u8 = 0x80 | 62;
    let (name, value) = field;
    let mut block = vec![INCREMENTAL_INDEXING];
    string(&mut block, name);
    string(&mut block, value);
    block.resize(block.len() + times, NEWEST);
    block
}

/// `HEADERS`, and as many `CONTINUATION`s as it takes.
fn field_block(id: u32, block: &[u8], end_stream: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunks = block.chunks(MAX_FRAME).peekable();
    let mut kind = HEADERS;
    while let Some(chunk) = chunks.next() {
        let mut flags = if kind == HEADERS && end_stream { END_STREAM } else { 0 };
        if chunks.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend(frame(kind, flags, id, chunk));
        kind = CONTINUATION;
    }
    bytes
}

/// A string without Huffman's code (RFC 7541, section 5.2), its length as an integer of a prefix
/// of seven bits (section 5.1).
fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    let low = |number: usize| u8::try_from(number & 0x7f).unwrap_or(0);
    match bytes.len().checked_sub(127) {
        None => block.push(low(bytes.len())),
        Some(mut rest) => {
            block.push(127);
            while rest >= 128 {
                block.push(low(rest) | 0x80);
                rest >>= 7;
            }
            block.push(low(rest));
        }
    }
    block.extend_from_slice(bytes);
}

fn acknowledgement(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind, END_STREAM, 0, payload)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = length.get(1..).unwrap_or_default().to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
