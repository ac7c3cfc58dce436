//! Without client keys: who is taken for a program on this machine, over both protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use tests::{Message, Plan, Protocol, Stack};

use crate::proof::{arrived_once, forget, is_malformed, nothing_arrived, send};

async fn without_keys(host: impl Into<IpAddr>) -> Result<Stack> {
    Stack::start(Plan { host: host.into(), ..Plan::default() }).await
}

async fn status(stack: &Stack, protocol: Protocol, message: &Message) -> Result<u16> {
    let outcome = send(stack, protocol, message).await?;
    // Envoy's parsers refuse some of what the gate would.
    if is_malformed(&outcome) { Ok(400) } else { Ok(outcome.status()) }
}

#[tokio::test]
async fn k10_without_keys_only_names_of_loopback_are_served() -> Result<()> {
    let stack = without_keys(Ipv4Addr::LOCALHOST).await?;
    for protocol in Protocol::ALL {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost:9996",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]",
            "[::1]:9996",
            "[::ffff:127.0.0.1]",
        ] {
            let message = Message::get("/v1/echo").to(host);
            assert_eq!(status(&stack, protocol, &message).await?, 200, "{protocol:?} {host}");
            arrived_once(&stack)?;
        }
        // Names that some resolvers take for loopback, and what hides a name beside one.
        for host in [
            "evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example:80",
            "evil.localhost",
            "localhost.",
            "localhost.localdomain",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.01",
            "0.0.0.0",
            "0",
            "[::]",
            "[127.0.0.1]",
            "[::1",
            "::1",
            "[::ffff:10.0.0.1]",
            "[::1%25lo]",
            "192.0.2.1",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost:80@evil.example",
            "localhost:8o",
            "localhost:80:80",
            "localhost:-1",
            "localhost,evil.example",
            "localhost evil.example",
            "localhost/evil.example",
            "localhost#evil.example",
            "localhost?evil.example",
            "localhost\\evil.example",
            "l\u{f6}calhost",
            "",
        ] {
            for path in ["/v1/echo", "/health"] {
                let message = Message::get(path).to(host);
                let status = status(&stack, protocol, &message).await?;
                assert!([400, 421].contains(&status), "{protocol:?} {host}: {status}");
                nothing_arrived(&stack)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn k10_of_two_hosts_none_makes_up_for_the_other() -> Result<()> {
    let stack = without_keys(Ipv4Addr::LOCALHOST).await?;
    for [first, second] in
        [["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"]]
    {
        let request = format!(
            "GET /v1/echo HTTP/1.1\r\nhost: {first}\r\nhost: {second}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(stack.raw(request.as_bytes()).await?.status, 421, "{first} {second}");
        nothing_arrived(&stack)?;
    }
    // The URL in the request line goes before `Host` (RFC 9112, section 3.2.2), `:authority` too.
    for (target, host, allowed) in [
        ("http://evil.example/v1/echo", "localhost", 421),
        ("http://localhost:80@evil.example/v1/echo", "localhost", 421),
        ("http://localhost/v1/echo", "evil.example", 200),
    ] {
        forget(&stack)?;
        let message = Message::get(target).to(host);
        assert_eq!(status(&stack, Protocol::Http1, &message).await?, allowed, "{target}");
    }
    for (authority, host, allowed) in
        [("evil.example", "localhost", 421), ("localhost", "evil.example", 200)]
    {
        forget(&stack)?;
        let message = Message::get("/v1/echo").to(authority).with("host", host);
        assert_eq!(status(&stack, Protocol::Http2, &message).await?, allowed, "{authority}");
    }
    forget(&stack)
}

#[tokio::test]
async fn k10_without_keys_pages_of_other_sites_are_refused() -> Result<()> {
    let stack = without_keys(Ipv4Addr::LOCALHOST).await?;
    let get = |headers: &[(&str, &str)]| {
        headers
            .iter()
            .fold(Message::get("/v1/echo"), |message, (name, value)| message.with(name, value))
    };
    for protocol in Protocol::ALL {
        for headers in [
            [].as_slice(),
            &[("origin", "http://localhost:3000")],
            &[("origin", "http://127.0.0.1:9996"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://[::1]"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            // Whoever sends two credentials without having to send one sends none.
            &[("authorization", "Bearer planted"), ("authorization", "Bearer planted")],
        ] {
            let status = status(&stack, protocol, &get(headers)).await?;
            assert_eq!(status, 200, "{protocol:?} {headers:?}");
            arrived_once(&stack)?;
        }
        for headers in [
            [("origin", "https://evil.example")].as_slice(),
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "file://")],
            &[("origin", "localhost")],
            &[("origin", "//localhost")],
            &[("origin", "ftp://localhost")],
            &[("origin", "chrome-extension://abcdefgh")],
            &[("origin", "http://localhost.evil.example")],
            &[("origin", "http://evil.localhost")],
            &[("origin", "http://localhost@evil.example")],
            &[("origin", "http://localhost:80@evil.example")],
            &[("origin", "http://localhost/.evil.example")],
            &[("origin", "http://localhost http://evil.example")],
            &[("origin", "http://localhost, http://evil.example")],
            &[("origin", "http://localhost"), ("origin", "https://evil.example")],
            &[("origin", "https://evil.example"), ("origin", "http://localhost")],
            &[("origin", "http://127.1")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "Cross-Site")],
            &[("sec-fetch-site", "")],
            &[("sec-fetch-site", "anything")],
            &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://localhost"), ("sec-fetch-site", "cross-site")],
        ] {
            let status = status(&stack, protocol, &get(headers)).await?;
            assert_eq!(status, 403, "{protocol:?} {headers:?}");
            nothing_arrived(&stack)?;
        }
        // A page's preflight gets nothing that would let it go on.
        let message = Message::new("OPTIONS", "/v1/echo")
            .with("origin", "https://evil.example")
            .with("access-control-request-method", "POST");
        assert_eq!(status(&stack, protocol, &message).await?, 403, "{protocol:?}");
        nothing_arrived(&stack)?;
    }
    Ok(())
}

#[tokio::test]
async fn k10_loopback_is_loopback_in_ipv6_too() -> Result<()> {
    let stack = without_keys(Ipv6Addr::LOCALHOST).await?;
    for protocol in Protocol::ALL {
        for host in ["localhost", "[::1]", "[::1]:80", "[0:0:0:0:0:0:0:1]"] {
            let message = Message::get("/v1/echo").to(host);
            assert_eq!(status(&stack, protocol, &message).await?, 200, "{protocol:?} {host}");
            arrived_once(&stack)?;
        }
        for host in ["evil.example", "[::2]", "[fd00::1]", "[::ffff:192.0.2.1]"] {
            let message = Message::get("/v1/echo").to(host);
            assert_eq!(status(&stack, protocol, &message).await?, 421, "{protocol:?} {host}");
            nothing_arrived(&stack)?;
        }
    }
    Ok(())
}
