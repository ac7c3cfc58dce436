//! What would steer Envoy or name another host has no effect.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use simulator::{Fault, Target};
use tests::{Http2, Message, Outcome, Plan, Protocol, Stack, eventually};

use crate::proof::{
    KEY, arrived, arrived_once, echo, forget, is_malformed, nothing_arrived, send, serves,
    with_key, with_the_key,
};

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// A stack whose connection manager is changed.
async fn with_manager(change: impl FnOnce(&mut Value)) -> Result<Stack> {
    let plan = Plan { client_keys: vec![("alice", KEY)], ..Plan::default() };
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    change(bootstrap.pointer_mut(MANAGER).context("the manager")?);
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    Ok(stack)
}

/// A stack whose Envoy takes its clients for parts of its own mesh, and would obey them.
async fn trusting() -> Result<Stack> {
    let loopback = json!({"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]});
    with_manager(|manager| manager["internal_address_config"] = loopback).await
}

#[tokio::test]
async fn h08_a_client_sets_no_timeout() -> Result<()> {
    let stack = trusting().await?;
    for protocol in Protocol::ALL {
        let mut message = echo();
        for name in [
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-upstream-stream-duration-ms",
            "x-envoy-expected-rq-timeout-ms",
        ] {
            message = message.with(name, "20");
        }
        message = message.with("grpc-timeout", "20m").with("x-envoy-internal", "true");
        stack.provider().set_fault(Fault { delay_ms: 500, ..Fault::new(Target::Api) });
        let outcome = send(&stack, protocol, &message).await?;
        assert_eq!(outcome.status(), 200, "{protocol:?}: {outcome}");
        arrived_once(&stack)?;
        stack.provider().clear_faults(None);
    }
    Ok(())
}

#[tokio::test]
async fn h08_a_client_asks_for_no_second_attempt() -> Result<()> {
    let stack = trusting().await?;
    for protocol in Protocol::ALL {
        let mut message = with_the_key(Message::post("/v1/status/503", "{}"));
        for (name, value) in [
            ("x-envoy-retry-on", "5xx,gateway-error,retriable-status-codes,retriable-headers"),
            ("x-envoy-retry-grpc-on", "cancelled"),
            ("x-envoy-max-retries", "5"),
            ("x-envoy-retriable-status-codes", "503"),
            ("x-envoy-retriable-header-names", "content-type"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-attempt-count", "1"),
            ("x-torchbearer-replay", "1"),
            ("x-torchbearer-credential", "bob"),
            ("x-torchbearer-anything", "1"),
        ] {
            message = message.with(name, value);
        }
        let outcome = send(&stack, protocol, &message).await?;
        assert_eq!(outcome.status(), 503, "{protocol:?}: {outcome}");
        arrived_once(&stack)?;
    }
    Ok(())
}

/// The private header is the filter's alone: an API that sends it gets no POST twice.
#[tokio::test]
async fn h08_the_api_asks_for_no_replay() -> Result<()> {
    let stack = with_key().await?;
    let headers = [("x-torchbearer-replay".to_owned(), "1".to_owned())].into();
    stack.provider().set_fault(Fault { headers, ..Fault::new(Target::Api) });
    for protocol in Protocol::ALL {
        for message in [Message::post("/v1/echo", "{}"), Message::post("/v1/status/500", "{}")] {
            let outcome = send(&stack, protocol, &with_the_key(message)).await?;
            let answer = outcome.answer().expect("an answer");
            assert_eq!(answer.header("x-torchbearer-replay"), None, "{protocol:?}");
            arrived_once(&stack)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn h09_the_api_is_asked_by_its_own_name() -> Result<()> {
    let stack = with_key().await?;
    let authority = stack.provider_url().trim_start_matches("http://").to_owned();
    let asked = async |what: &str| {
        let request = arrived_once(&stack)?;
        assert_eq!(request.header("host").collect::<Vec<_>>(), [authority.as_str()], "{what}");
        anyhow::Ok(())
    };
    for protocol in Protocol::ALL {
        for host in ["other.example", "other.example:443", "[::1]", "localhost"] {
            let outcome = send(&stack, protocol, &echo().to(host)).await?;
            assert_eq!(outcome.status(), 200, "{protocol:?} {host}: {outcome}");
            asked(host).await?;
        }
        for host in ["a b", "a, b", "localhost/health", "a\tb"] {
            let outcome = send(&stack, protocol, &echo().to(host)).await?;
            assert!(is_malformed(&outcome), "{protocol:?} {host}: {outcome}");
            nothing_arrived(&stack)?;
        }
    }
    for target in
        ["http://elsewhere.example/v1/echo", "http://user:planted@elsewhere.example/v1/echo"]
    {
        let outcome = send(&stack, Protocol::Http1, &with_the_key(Message::get(target))).await?;
        assert_eq!(outcome.status(), 200, "{target}: {outcome}");
        asked(target).await?;
        assert_eq!(arrived_once(&stack)?.path, "/v1/echo");
    }
    for target in ["ftp://elsewhere.example/v1/echo", "//elsewhere.example/v1/echo", "elsewhere"] {
        let outcome = send(&stack, Protocol::Http1, &with_the_key(Message::get(target))).await?;
        assert!(is_malformed(&outcome), "{target}: {outcome}");
        nothing_arrived(&stack)?;
    }
    // Envoy does not take a connection without TLS for https.
    let url = "https://elsewhere.example/v1/echo";
    let outcome = send(&stack, Protocol::Http1, &with_the_key(Message::get(url))).await?;
    assert_eq!(outcome.status(), 403, "{outcome}");
    nothing_arrived(&stack)?;
    serves(&stack).await
}

#[tokio::test]
async fn h09_of_two_hosts_none_is_used() -> Result<()> {
    let stack = with_key().await?;
    let authority = stack.provider_url().trim_start_matches("http://").to_owned();
    for [first, second] in
        [["localhost", "other.example"], ["other.example", "localhost"], ["localhost", "localhost"]]
    {
        let request = format!(
            "GET /v1/echo HTTP/1.1\r\nhost: {first}\r\nhost: {second}\r\nconnection: close\r\n\
             x-proxy-api-key: {KEY}\r\n\r\n"
        );
        forget(&stack)?;
        assert_eq!(stack.raw(request.as_bytes()).await?.status, 200, "{first} {second}");
        let request = arrived_once(&stack)?;
        assert_eq!(request.header("host").collect::<Vec<_>>(), [authority.as_str()]);
        // The same beside `:authority`.
        let message = echo().to(first).with("host", second);
        let outcome = send(&stack, Protocol::Http2, &message).await?;
        assert_eq!(outcome.status(), 200, "{first} {second}: {outcome}");
        let request = arrived_once(&stack)?;
        assert_eq!(request.header("host").collect::<Vec<_>>(), [authority.as_str()]);
    }
    for request in ["", "host: localhost\r\n"] {
        // HTTP/1.1 without a host, and a request that is not HTTP/1.1.
        let version = if request.is_empty() { "1.1" } else { "1.0" };
        let request = format!(
            "GET /v1/echo HTTP/{version}\r\n{request}connection: close\r\n\
             x-proxy-api-key: {KEY}\r\n\r\n"
        );
        forget(&stack)?;
        let status = stack.raw(request.as_bytes()).await?.status;
        assert!([400, 426].contains(&status), "{request}: {status}");
        nothing_arrived(&stack)?;
    }
    Ok(())
}

/// What HTTP/2 calls the scheme goes to the API as that of the connection to it, whatever the
/// client says. The API here speaks HTTP/1.1, which has no scheme, so Envoy's own log tells.
#[tokio::test]
async fn h09_the_scheme_is_not_the_clients() -> Result<()> {
    let format = "/access_log/0/typed_config/log_format/json_format";
    let stack = with_manager(|manager| {
        if let Some(format) = manager.pointer_mut(format) {
            format["scheme"] = "%REQUEST_HEADER(:scheme)%".into();
        }
    })
    .await?;
    for scheme in ["https", "ftp", "http"] {
        let message = echo();
        let mut request = message.http2();
        for (name, value) in &mut request.head {
            if name == b":scheme" {
                *value = scheme.into();
            }
        }
        forget(&stack)?;
        let outcome = Http2::connect(stack.address).await?.request(request.parts()).await?;
        assert_eq!(outcome.status(), 200, "{scheme}: {outcome}");
        arrived_once(&stack)?;
    }
    let schemes = eventually(Duration::from_secs(20), async || {
        let log = stack.envoy().ok()?.log();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let schemes: Vec<_> = entries.filter_map(|entry| entry.get("scheme").cloned()).collect();
        (schemes.len() == 3).then_some(schemes)
    });
    assert_eq!(schemes.await.context("three log entries")?, ["http"; 3]);
    Ok(())
}

#[tokio::test]
async fn h13_tunnels_and_traces_are_refused() -> Result<()> {
    let stack = with_key().await?;
    for protocol in Protocol::ALL {
        for (method, target) in [
            ("TRACE", "/v1/echo"),
            ("trace", "/v1/echo"),
            ("TRACK", "/v1/echo"),
            ("CONNECT", "example.com:443"),
            ("CONNECT", "/v1/echo"),
            ("connect", "/v1/echo"),
        ] {
            let outcome =
                send(&stack, protocol, &with_the_key(Message::new(method, target))).await?;
            let refused = is_malformed(&outcome) || [403, 404, 405].contains(&outcome.status());
            assert!(refused, "{protocol:?} {method} {target}: {outcome}");
            nothing_arrived(&stack)?;
        }
    }
    // As RFC 9113, section 8.5, has it, and as RFC 8441 extends it.
    for protocol in [None, Some("websocket"), Some("connect-udp")] {
        let message = with_the_key(Message::new("CONNECT", "/v1/echo").to("example.com:443"));
        let mut request = message.http2();
        match protocol {
            None => request.head.retain(|(name, _)| {
                ![":path", ":scheme"].map(str::as_bytes).contains(&name.as_slice())
            }),
            Some(protocol) => request.head.insert(1, (b":protocol".to_vec(), protocol.into())),
        }
        forget(&stack)?;
        let outcome = Http2::connect(stack.address).await?.request(request.parts()).await?;
        let refused =
            matches!(outcome, Outcome::Reset(_)) || [403, 405].contains(&outcome.status());
        assert!(refused, "{protocol:?}: {outcome}");
        assert!(arrived(&stack)?.is_empty(), "{protocol:?}");
    }
    serves(&stack).await
}
