//! A request that can be sent over either protocol, byte for byte as it is written down.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Result;

use crate::h2raw::{Http2, Parts};
use crate::raw::{Answer, raw_bytes};

/// Name and value of a header field.
pub type Field = (Vec<u8>, Vec<u8>);

/// The version of HTTP that a request is sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 over cleartext, with prior knowledge.
    Http2,
}

impl Protocol {
    /// Every one that Envoy's listener speaks.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// What has become of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// Its stream was reset, with this code.
    Reset(u32),
    /// The connection ended without an answer, over HTTP/2 perhaps with the code of a `GOAWAY`.
    Closed(Option<u32>),
}

impl Outcome {
    /// The answer's status; 0: there was no answer.
    pub fn status(&self) -> u16 {
        self.answer().map_or(0, |answer| answer.status)
    }

    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        if let Self::Answered(answer) = self { Some(answer) } else { None }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "{}: {}", answer.status, answer.body),
            Self::Reset(code) => write!(f, "reset with code {code}"),
            Self::Closed(code) => write!(f, "closed with code {code:?}"),
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Message {
    method: Vec<u8>,
    target: Vec<u8>,
    authority: Vec<u8>,
    fields: Vec<Field>,
    body: Option<Vec<u8>>,
    trailers: Vec<Field>,
}

impl Message {
    /// A request to `localhost`.
    pub fn new(method: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.as_ref().to_vec(),
            target: target.as_ref().to_vec(),
            authority: b"localhost".to_vec(),
            fields: Vec::new(),
            body: None,
            trailers: Vec::new(),
        }
    }

    /// A GET.
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    /// A POST.
    pub fn post(target: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        Self { body: Some(body.as_ref().to_vec()), ..Self::new("POST", target) }
    }

    /// The same to another host.
    #[must_use]
    pub fn to(self, authority: impl AsRef<[u8]>) -> Self {
        Self { authority: authority.as_ref().to_vec(), ..self }
    }

    /// The same with one more header. The name in lower case, for HTTP/2's sake.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The same with one more trailer.
    #[must_use]
    pub fn with_trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.trailers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    ///
    /// When there is no connection, or nothing comes of the request in time.
    pub async fn send(&self, protocol: Protocol, address: SocketAddr) -> Result<Outcome> {
        match protocol {
            Protocol::Http1 => {
                let answer = raw_bytes(address, &self.http1()).await?;
                Ok(Answer::parse(&answer).map_or(Outcome::Closed(None), Outcome::Answered))
            }
            Protocol::Http2 => Http2::connect(address).await?.request(self.http2().parts()).await,
        }
    }

    /// Its bytes in HTTP/1.1; the connection is to be closed afterwards. Trailers make the body
    /// chunked.
    pub fn http1(&self) -> Vec<u8> {
        let mut bytes = [&self.method, b" ".as_slice(), &self.target, b" HTTP/1.1\r\n"].concat();
        let mut line = |name: &[u8], value: &[u8]| {
            bytes.extend([name, b": ", value, b"\r\n"].concat());
        };
        line(b"host", &self.authority);
        line(b"connection", b"close");
        for (name, value) in &self.fields {
            line(name, value);
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.trailers.is_empty() {
            if self.body.is_some() {
                line(b"content-length", body.len().to_string().as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(body);
        } else {
            line(b"transfer-encoding", b"chunked");
            bytes.extend_from_slice(b"\r\n");
            if !body.is_empty() {
                bytes.extend(format!("{:x}\r\n", body.len()).bytes());
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n");
            for (name, value) in &self.trailers {
                bytes.extend([name, b": ".as_slice(), value, b"\r\n"].concat());
            }
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    /// Its fields in HTTP/2.
    pub fn http2(&self) -> Http2Message<'_> {
        let pseudo = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let mut head = vec![
            pseudo(":method", &self.method),
            pseudo(":scheme", b"http"),
            pseudo(":authority", &self.authority),
            pseudo(":path", &self.target),
        ];
        head.extend(self.fields.iter().cloned());
        Http2Message { head, message: self }
    }
}

/// A request as HTTP/2 has it.
#[derive(Clone, Debug)]
pub struct Http2Message<'a> {
    /// The fields of its head, to be changed at will.
    pub head: Vec<Field>,
    message: &'a Message,
}

impl Http2Message<'_> {
    /// What is sent.
    pub fn parts(&self) -> Parts<'_> {
        let Message { body, trailers, .. } = self.message;
        Parts { head: &self.head, body: body.as_deref(), trailers }
    }
}
