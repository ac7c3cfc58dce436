//! Requests that HTTP/2 calls malformed (RFC 9113, section 8.1.1).

use anyhow::Result;
use tests::{Field, Http2, Message, Outcome, Parts};

use crate::proof::{
    KEY, arrived, arrived_once, echo, forget, nothing_arrived, serves, with_key, with_the_key,
};

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// The head of a good request.
fn good() -> Vec<Field> {
    echo().http2().head
}

/// It with one more field at the end.
fn and(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<Field> {
    let mut head = good();
    head.push(field(name, value));
    head
}

/// It with one more field at the beginning.
fn before(name: &str, value: &str) -> Vec<Field> {
    let mut head = good();
    head.insert(0, field(name, value));
    head
}

/// It with another value of a pseudo-header.
fn but(name: &str, value: impl AsRef<[u8]>) -> Vec<Field> {
    let mut head = without(name);
    head.insert(0, field(name, value));
    head
}

/// It without a pseudo-header.
fn without(name: &str) -> Vec<Field> {
    let mut head = good();
    head.retain(|(known, _)| known != name.as_bytes());
    head
}

fn malformed() -> Vec<(&'static str, Vec<Field>)> {
    vec![
        ("connection", and("connection", "close")),
        ("a nomination", and("connection", "x-proxy-api-key")),
        ("transfer-encoding", and("transfer-encoding", "chunked")),
        ("te", and("te", "gzip")),
        ("te and trailers", and("te", "gzip, trailers")),
        ("keep-alive", and("keep-alive", "timeout=5")),
        ("proxy-connection", and("proxy-connection", "keep-alive")),
        ("upgrade", and("upgrade", "h2c")),
        ("an upper-case name", and("X-Custom", "a")),
        ("an upper-case letter", and("x-custoM", "a")),
        ("an upper-case key", and("Authorization", format!("Bearer {KEY}"))),
        ("a late pseudo-header", and(":path", "/health")),
        ("a late unknown one", and(":custom", "a")),
        ("an unknown pseudo-header", before(":custom", "a")),
        ("a status", before(":status", "200")),
        ("two paths", before(":path", "/health")),
        ("two methods", before(":method", "POST")),
        ("two authorities", before(":authority", "other.example")),
        ("two schemes", before(":scheme", "http")),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("an empty path", but(":path", "")),
        ("a path of an URL", but(":path", "http://localhost/health")),
        ("a space in the path", but(":path", "/v1/echo HTTP/1.1")),
        ("a line in the path", but(":path", "/v1/echo HTTP/1.1\r\nx-custom: a")),
        ("a NUL in the path", but(":path", "/v1/echo\0")),
        ("an empty method", but(":method", "")),
        ("a line in the method", but(":method", "GET /v1/echo HTTP/1.1\r\nx-custom: a")),
        ("a space in the method", but(":method", "GET /health")),
        ("a path in the scheme", but(":scheme", "http://localhost/health?")),
        ("an account in the authority", but(":authority", "planted@localhost")),
        ("a path in the authority", but(":authority", "localhost/health")),
        ("an empty authority", but(":authority", "")),
        ("a CR in a value", and("x-custom", "a\rb")),
        ("an LF in a value", and("x-custom", "a\nb")),
        ("a line in a value", and("x-custom", "a\r\ncookie: planted")),
        ("a request in a value", and("x-custom", "a\r\n\r\nGET /v1/echo HTTP/1.1\r\n\r\n")),
        ("a NUL in a value", and("x-custom", "a\0b")),
        ("a control in a value", and("x-custom", "a\x01b")),
        ("a DEL in a value", and("x-custom", "a\x7fb")),
        ("an empty name", and("", "a")),
        ("a space in a name", and("x custom", "a")),
        ("a colon in a name", and("x:custom", "a")),
        ("a line in a name", and("x-a: b\r\nx-c", "d")),
        ("a NUL in a name", and("x-a\0", "d")),
        ("a byte in a name", and(b"x-\xff", "d")),
        ("a length without a body", and("content-length", "5")),
        ("a length that is no number", and("content-length", "+0")),
        ("two lengths", {
            let mut head = and("content-length", "0");
            head.push(field("content-length", "5"));
            head
        }),
        ("an extended CONNECT", {
            let mut head = but(":method", "CONNECT");
            head.insert(1, field(":protocol", "websocket"));
            head
        }),
    ]
}

#[tokio::test]
async fn h12_a_malformed_request_ends_its_stream_and_no_other() -> Result<()> {
    let stack = with_key().await?;
    for (what, head) in malformed() {
        forget(&stack)?;
        let mut connection = Http2::connect(stack.address).await?;
        let parts = Parts { head: &head, body: None, trailers: &[] };
        let outcome = connection.request(parts).await?;
        assert!(matches!(outcome, Outcome::Reset(_)), "{what}: {outcome}");
        nothing_arrived(&stack)?;
        // Others on the same connection do not suffer for it.
        let outcome = connection.request(echo().http2().parts()).await?;
        assert_eq!(outcome.status(), 200, "after {what}: {outcome}");
        arrived_once(&stack)?;
    }
    serves(&stack).await
}

/// The head of a request is on its way before its body is there, so a part of it may arrive.
#[tokio::test]
async fn h12_a_body_that_is_not_what_was_said_ends_its_stream() -> Result<()> {
    let stack = with_key().await?;
    let post = with_the_key(Message::post("/v1/echo", "hello"));
    let head = |length: &str| {
        let mut head = post.http2().head;
        head.push(field("content-length", length));
        head
    };
    let none: &[Field] = &[];
    let plain = post.http2().head;
    for (what, head, trailers) in [
        ("less than was said", head("6"), none),
        ("more than was said", head("4"), none),
        ("two lengths", head("5, 5"), none),
        ("a pseudo-header in the trailers", plain.clone(), &[field(":path", "/health")]),
        ("a status in the trailers", plain.clone(), &[field(":status", "200")]),
        ("a byte in a trailer's name", plain.clone(), &[field(b"x-\xff", "a")]),
        ("a line in a trailer", plain.clone(), &[field("x-custom", "a\r\ncookie: b")]),
        ("an upper-case name in the trailers", plain.clone(), &[field("X-Custom", "a")]),
        ("a hop-by-hop header in the trailers", plain, &[field("transfer-encoding", "chunked")]),
    ] {
        forget(&stack)?;
        let mut connection = Http2::connect(stack.address).await?;
        let parts = Parts { head: &head, body: Some(b"hello"), trailers };
        let outcome = connection.request(parts).await?;
        assert!(matches!(outcome, Outcome::Reset(_)), "{what}: {outcome}");
        let requests = arrived(&stack)?;
        assert!(requests.iter().all(|request| request.body_sha256.is_empty()), "{what}");
        let outcome = connection.request(post.http2().parts()).await?;
        assert_eq!(outcome.status(), 200, "after {what}: {outcome}");
    }
    serves(&stack).await
}
