//! Where one request ends and the next begins, in HTTP/1.1: there must be one reading only.

use std::time::Duration;

use anyhow::{Context as _, Result};
use simulator::RequestEntry;
use tests::{Stack, raw_bytes};

use crate::proof::{KEY, arrived, forget, nothing_arrived, serves, with_key};

/// What follows the request on its connection, and must not be a request of its own where the one
/// before it is malformed.
const SMUGGLED: &str = "/v1/echo/smuggled";

/// A POST with these lines and this body, and a second request behind it, which has the key too if
/// `keyed`.
fn pipelined(lines: &str, body: &str, keyed: bool) -> Vec<u8> {
    let key = format!("x-proxy-api-key: {KEY}\r\n");
    let key_again = if keyed { key.as_str() } else { "" };
    format!(
        "POST /v1/echo HTTP/1.1\r\nhost: localhost\r\n{key}{lines}\r\n{body}\
         GET {SMUGGLED} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key_again}\r\n"
    )
    .into_bytes()
}

/// The status codes of all answers until Envoy closes the connection.
async fn answers(stack: &Stack, bytes: &[u8]) -> Result<Vec<u16>> {
    forget(stack)?;
    let closed = tokio::time::timeout(Duration::from_secs(10), raw_bytes(stack.address, bytes));
    let answers = closed.await.context("the connection stays open")??;
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let status = |answer: &str| answer.get(..3)?.parse().ok();
    Ok(answers.split("HTTP/1.1 ").filter_map(status).collect())
}

/// The answer is an error and the last one, and nothing whole reached the API: where the malformed
/// part is in the body, the head may be there before it.
async fn refused(stack: &Stack, what: &str, lines: &str, body: &str) -> Result<()> {
    let answers = answers(stack, &pipelined(lines, body, true)).await?;
    // RFC 9112, section 6.1: 501 for a coding that is not known.
    let coding = lines.to_ascii_lowercase().contains("transfer-encoding:");
    assert!(answers == [400] || coding && answers == [501], "{what}: {answers:?}");
    let whole =
        |request: &RequestEntry| !request.body_sha256.is_empty() || request.path == SMUGGLED;
    let requests = arrived(stack)?;
    assert!(!requests.iter().any(whole), "{what}: {requests:?}");
    Ok(())
}

#[tokio::test]
async fn h11_a_length_that_can_be_read_in_two_ways_is_refused() -> Result<()> {
    let stack = with_key().await?;
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 0\r\ncontent-length: 5\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5,6\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 5 0\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5.0\r\n",
        "content-length: 5e0\r\n",
        "content-length: \"5\"\r\n",
        "content-length:\r\n",
        "content-length: \x0b5\r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length: 18446744073709551621\r\n",
        "content-length: 99999999999999999999999999\r\n",
        "content-length : 5\r\n",
        "content-length\t: 5\r\n",
        "content_length: 5\r\n",
        "content-length: 5\r\n\tcontent-length: 6\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer_encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunkedx\r\n",
        "transfer-encoding: chunked;q=0\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding:\r\n",
    ] {
        refused(&stack, lines, lines, "0\r\n\r\n").await?;
        // Not even the head: these lines are in it.
        nothing_arrived(&stack)?;
    }
    serves(&stack).await
}

#[tokio::test]
async fn h11_a_chunk_that_can_be_read_in_two_ways_is_refused() -> Result<()> {
    let stack = with_key().await?;
    for body in [
        "g\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "3\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
    ] {
        refused(&stack, body, "transfer-encoding: chunked\r\n", body).await?;
    }
    serves(&stack).await
}

/// What RFC 9112 lets pass, or lets a recipient repair (sections 2.2, 5.2 and 7.1.1): it has one
/// reading, and the API gets it in Envoy's own framing. What is pipelined behind it is a request
/// of its own, which meets the gate: without a key it goes no further.
#[tokio::test]
async fn h11_what_is_not_ambiguous_is_framed_anew() -> Result<()> {
    let stack = with_key().await?;
    let chunked = "transfer-encoding: chunked\r\n";
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000));
    for (lines, body) in [
        ("content-length: 5\r\n", "hello"),
        ("content-length:   5 \t \r\n", "hello"),
        ("content-length: 05\r\n", "hello"),
        ("content-length: 5\n", "hello"),
        ("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("transfer-encoding:\r\n chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n"),
        (chunked, "5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        (chunked, "5 \r\nhello\r\n0\r\n\r\n"),
        (chunked, &extension),
    ] {
        let answers = answers(&stack, &pipelined(lines, body, false)).await?;
        assert_eq!(answers, [200, 401], "{lines:?} {body:.40}");
        let requests = arrived(&stack)?;
        let [request] = requests.as_slice() else { panic!("{lines:?}: {requests:?}") };
        assert_eq!((request.path.as_str(), request.body_bytes), ("/v1/echo", 5), "{lines:?}");
        let lengths: Vec<_> = request.header("content-length").collect();
        let codings: Vec<_> = request.header("transfer-encoding").collect();
        assert_eq!(lengths.len() + codings.len(), 1, "{lines:?}: {lengths:?} {codings:?}");
    }
    serves(&stack).await
}

#[tokio::test]
async fn h11_line_ends_are_read_in_one_way() -> Result<()> {
    let stack = with_key().await?;
    let smuggled =
        format!("GET {SMUGGLED} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    // RFC 9112, section 2.2: a recipient may take LF alone for the end of a line. Envoy does, so
    // what such a line holds is a header of its own, and is stripped as one.
    for head in [
        format!("GET /v1/echo HTTP/1.1\nhost: localhost\nx-proxy-api-key: {KEY}\n\n"),
        format!("GET /v1/echo HTTP/1.1\r\nhost: localhost\nx-proxy-api-key: {KEY}\r\n\r\n"),
        format!(
            "GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nx-a: b\ncookie: planted\r\n\
             x-proxy-api-key: {KEY}\r\n\r\n"
        ),
        format!("GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nx-proxy-api-key: {KEY}\r\n\n"),
    ] {
        let answers = answers(&stack, format!("{head}{smuggled}").as_bytes()).await?;
        assert_eq!(answers, [200, 401], "{head:?}");
        assert_eq!(arrived(&stack)?.len(), 1, "{head:?}");
    }
    // A bare CR ends none.
    for head in [
        format!("GET /v1/echo HTTP/1.1\rhost: localhost\rx-proxy-api-key: {KEY}\r\r"),
        format!("GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nx-proxy-api-key: {KEY}\r\n\r\r\n"),
    ] {
        let answers = answers(&stack, format!("{head}{smuggled}").as_bytes()).await?;
        assert_eq!(answers, [400], "{head:?}");
        nothing_arrived(&stack)?;
    }
    serves(&stack).await
}
