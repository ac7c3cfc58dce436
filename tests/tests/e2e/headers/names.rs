//! Names and values that stay here, and those that may be any bytes.

use anyhow::Result;
use tests::{Message, Protocol};

use crate::proof::{
    KEY, PLANTED, arrived_once, echo, forget, is_malformed, nothing_arrived, send, serves, with_key,
};

/// A GET of `/v1/echo` with these header lines, which end in CRLF each.
fn with_lines(lines: impl AsRef<[u8]>) -> Vec<u8> {
    let head = b"GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    [head, lines.as_ref(), b"\r\n"].concat()
}

#[tokio::test]
async fn h01_two_authorizations_are_refused_in_both_orders() -> Result<()> {
    let stack = with_key().await?;
    for protocol in Protocol::ALL {
        for name in ["authorization", "x-proxy-api-key"] {
            for [first, second] in [[KEY, "wrong"], ["wrong", KEY], [KEY, KEY]] {
                let values = [first, second].map(|key| match name {
                    "authorization" => format!("Bearer {key}"),
                    _ => key.to_owned(),
                });
                let message = values
                    .iter()
                    .fold(Message::get("/v1/echo"), |message, value| message.with(name, value));
                let outcome = send(&stack, protocol, &message).await?;
                assert_eq!(outcome.status(), 401, "{protocol:?} {name} {first} {second}");
                nothing_arrived(&stack)?;
            }
        }
    }
    serves(&stack).await
}

#[tokio::test]
async fn h02_a_name_is_the_same_in_any_case_and_underscores_are_refused() -> Result<()> {
    let stack = with_key().await?;
    let lines = format!(
        "X-PROXY-API-KEY: {KEY}\r\nCOOKIE: a={PLANTED}\r\nx-FORWARDED-for: {PLANTED}\r\n\
         X-Api-KEY: {PLANTED}\r\nAUTHORIZATION: {PLANTED}\r\n"
    );
    assert_eq!(stack.raw(&with_lines(lines)).await?.status, 200);
    arrived_once(&stack)?;
    for protocol in Protocol::ALL {
        for name in ["x_proxy_api_key", "x_forwarded_for", "x_custom"] {
            let outcome = send(&stack, protocol, &echo().with(name, KEY)).await?;
            assert!(is_malformed(&outcome), "{protocol:?} {name}: {outcome}");
            nothing_arrived(&stack)?;
        }
    }
    let lines = format!("authorization: Bearer {KEY}\r\nX_Forwarded_For: {KEY}\r\n");
    assert_eq!(stack.raw(&with_lines(lines)).await?.status, 400);
    nothing_arrived(&stack)?;
    serves(&stack).await
}

#[tokio::test]
async fn h03_nothing_that_tells_of_the_client_leaves() -> Result<()> {
    let stack = with_key().await?;
    let stripped = [
        "forwarded",
        "via",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-original-url",
        "x-rewrite-url",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-client-cert",
        "x-client-ip",
        "x-goog-api-key",
        "client-cert",
        "cdn-loop",
        "ssl-client-cert",
        "x-http-method-override",
        "x-original-method",
    ];
    for protocol in Protocol::ALL {
        let mut message = echo().with("x-custom", "kept").with("authorization", "Bearer planted");
        for _ in 0..10 {
            message = message.with("x-forwarded-for", "203.0.113.7");
        }
        for name in stripped {
            message = message.with(name, PLANTED);
        }
        let outcome = send(&stack, protocol, &message).await?;
        assert_eq!(outcome.status(), 200, "{protocol:?}: {outcome}");
        let request = arrived_once(&stack)?;
        for name in stripped.into_iter().chain(["x-forwarded-for", "x-proxy-api-key"]) {
            assert_eq!(request.header(name).count(), 0, "{protocol:?} {name}");
        }
        assert_eq!(request.header("x-custom").collect::<Vec<_>>(), ["kept"]);
    }
    Ok(())
}

#[tokio::test]
async fn h04_bytes_that_are_not_utf8_break_nothing() -> Result<()> {
    let stack = with_key().await?;
    let names = [
        "x-custom",
        "cookie",
        "x-forwarded-for",
        "user-agent",
        "accept",
        "origin",
        "content-type",
        "sec-websocket-protocol",
        "x-envoy-retry-on",
        "authorization",
    ];
    for protocol in Protocol::ALL {
        for name in names {
            let outcome = send(&stack, protocol, &echo().with(name, b"a\xff\xfe")).await?;
            assert_eq!(outcome.status(), 200, "{protocol:?} {name}: {outcome}");
            arrived_once(&stack)?;
        }
        for name in ["authorization", "x-proxy-api-key"] {
            let message = Message::get("/v1/echo").with(name, b"Bearer \xff\xfe");
            let outcome = send(&stack, protocol, &message).await?;
            assert_eq!(outcome.status(), 401, "{protocol:?} {name}: {outcome}");
            nothing_arrived(&stack)?;
        }
        for (method, target) in [(b"GET".as_slice(), b"/v1/\xff".as_slice()), (b"G\xff", b"/v1/x")]
        {
            let message = Message::new(method, target).with("x-proxy-api-key", KEY);
            let outcome = send(&stack, protocol, &message).await?;
            assert!(is_malformed(&outcome), "{protocol:?} {target:?}: {outcome}");
            nothing_arrived(&stack)?;
        }
    }
    serves(&stack).await
}

#[tokio::test]
async fn h05_malformed_lines_are_refused_or_repaired() -> Result<()> {
    let stack = with_key().await?;
    for line in [
        "x-custom: a\0b\r\n",
        "x-custom\r\n",
        "x custom: a\r\n",
        "x-custom : a\r\n",
        ": a\r\n",
        ":path: /health\r\n",
        "x-custom: a\x01b\r\n",
        "x-custom: a\x7fb\r\n",
        "x-custom\u{e9}: a\r\n",
    ] {
        forget(&stack)?;
        let lines = format!("x-proxy-api-key: {KEY}\r\n{line}");
        let answer = stack.raw(&with_lines(lines)).await?;
        assert_eq!(answer.status, 400, "{line:?}: {}", answer.body);
        nothing_arrived(&stack)?;
    }
    // A line that begins with a space has nothing to continue here.
    let request = "GET /v1/echo HTTP/1.1\r\n host: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(stack.raw(request.as_bytes()).await?.status, 400);
    nothing_arrived(&stack)?;
    // Envoy's parser drops a bare CR and unfolds a line (RFC 9112, section 5.2, allows that)
    // instead of refusing. Nothing behind it sees either.
    for (line, value) in [
        ("x-custom: a\rb: c", "ab: c"),
        ("x-custom: a\r", "a"),
        ("x-custom: a\r\n folded", "a folded"),
        ("x-custom: a\r\n\tcookie: b", "a\tcookie: b"),
    ] {
        forget(&stack)?;
        let lines = format!("x-proxy-api-key: {KEY}\r\n{line}\r\n");
        assert_eq!(stack.raw(&with_lines(lines)).await?.status, 200);
        let request = arrived_once(&stack)?;
        assert_eq!(request.header("x-custom").collect::<Vec<_>>(), [value]);
    }
    serves(&stack).await
}

#[tokio::test]
async fn h06_a_nominated_authorization_does_not_take_the_bearer_along() -> Result<()> {
    let stack = with_key().await?;
    for nominated in [
        "authorization, x-mine",
        "Authorization,X-Mine",
        "x-proxy-api-key, x-mine, x-forwarded-proto",
        "x-mine, host, content-length, :path, transfer-encoding",
        "x-mine,,  , \"authorization\"",
    ] {
        forget(&stack)?;
        let lines = format!(
            "connection: {nominated}\r\nx-mine: {PLANTED}\r\n\
             authorization: Bearer {PLANTED}\r\nx-proxy-api-key: {KEY}\r\n"
        );
        let answer = stack.raw(&with_lines(lines)).await?;
        // Envoy refuses what nominates what routes by, which is as good.
        match answer.status {
            400 => nothing_arrived(&stack)?,
            status => {
                assert_eq!(status, 200, "{nominated}: {}", answer.body);
                assert_eq!(arrived_once(&stack)?.header("x-mine").count(), 0, "{nominated}");
            }
        }
    }
    serves(&stack).await
}

#[tokio::test]
async fn h07_hop_by_hop_headers_stay_here() -> Result<()> {
    let stack = with_key().await?;
    let hop = [
        ("te", "trailers"),
        ("te", "gzip;q=0.5, trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("trailer", "x-t"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ];
    for protocol in Protocol::ALL {
        for (name, value) in hop {
            let outcome = send(&stack, protocol, &echo().with(name, value)).await?;
            if protocol == Protocol::Http2 && is_malformed(&outcome) {
                // RFC 9113, section 8.2.2.
                nothing_arrived(&stack)?;
            } else {
                assert_eq!(outcome.status(), 200, "{protocol:?} {name}: {outcome}");
                assert_eq!(arrived_once(&stack)?.header(name).count(), 0, "{protocol:?} {name}");
            }
        }
    }
    // A real upgrade is not proxied.
    forget(&stack)?;
    for upgrade in ["websocket", "WebSocket", "foo"] {
        let request = format!(
            "GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\n\
             upgrade: {upgrade}\r\nauthorization: Bearer {KEY}\r\n\r\n"
        );
        assert_eq!(stack.raw(request.as_bytes()).await?.status, 403, "{upgrade}");
    }
    nothing_arrived(&stack)?;
    serves(&stack).await
}
