//! Client keys, and what holds where there are none.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{Plan, Process, Stack, envoy_binary, unix_request};

const ALICE: &str = "torchbearer-key-of-alice-1";
const BOB: &str = "torchbearer-key-of-bob-22";

async fn with_keys() -> Result<Stack> {
    let client_keys = vec![("alice", ALICE), ("bob", BOB)];
    Stack::start(Plan { client_keys, ..Plan::default() }).await
}

/// The status and the body of a GET of `/v1/models` with these headers.
async fn get(stack: &Stack, headers: &[(&str, &str)]) -> Result<(u16, String)> {
    let mut request = stack.client.get(stack.url("/v1/models"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn k01_every_refusal_is_the_same() -> Result<()> {
    let stack = with_keys().await?;
    let mut bodies = Vec::new();
    for headers in [
        [].as_slice(),
        &[("authorization", "")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", "Bearer unknown")],
        &[("authorization", ALICE)],
        &[("x-proxy-api-key", "")],
        &[("x-proxy-api-key", "unknown")],
        &[("x-api-key", ALICE)],
    ] {
        let mut request = stack.client.get(stack.url("/v1/models"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        assert_eq!(answer.status(), 401, "{headers:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{headers:?}");
        assert_eq!(answer.headers()["content-type"], "application/json", "{headers:?}");
        bodies.push(answer.text().await?);
    }
    let first = bodies.first().context("a refusal")?;
    let error: Value = serde_json::from_str(first)?;
    assert_eq!(error["error"]["code"], "invalid_client_key");
    assert!(bodies.iter().all(|body| body == first));
    assert!(stack.provider().requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn k02_a_near_miss_is_a_miss() -> Result<()> {
    let stack = with_keys().await?;
    let shorter = ALICE.strip_suffix('1').context("the last byte")?;
    for key in [shorter.to_owned(), format!("{ALICE}1"), ALICE.replace("-1", "-2")] {
        let (status, _) = get(&stack, &[("authorization", &format!("Bearer {key}"))]).await?;
        assert_eq!(status, 401, "{key}");
    }
    assert!(stack.provider().requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn k03_the_scheme_in_any_case_and_the_key_in_either_header() -> Result<()> {
    let stack = with_keys().await?;
    for headers in [
        [("authorization", format!("bearer {ALICE}"))].as_slice(),
        &[("authorization", format!("BEARER {ALICE}"))],
        &[("x-proxy-api-key", ALICE.to_owned())],
        &[("authorization", format!("Bearer {ALICE}")), ("x-proxy-api-key", ALICE.to_owned())],
        &[("authorization", "Bearer unused".to_owned()), ("x-proxy-api-key", BOB.to_owned())],
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let (status, body) = get(&stack, &headers).await?;
        assert_eq!(status, 200, "{headers:?}: {body}");
        let request = stack.provider().requests().pop().context("a request")?;
        assert_eq!(request.authorization.len(), 1);
        assert!(request.jti.is_some());
        assert_eq!(request.header("x-proxy-api-key").count(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn k04_the_access_token_is_no_client_key() -> Result<()> {
    let stack = with_keys().await?;
    let bundle = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?.json();
    let token = bundle["credentials"]["default"]["access_token"].as_str().context("a token")?;
    let (status, _) = get(&stack, &[("authorization", &format!("Bearer {token}"))]).await?;
    assert_eq!(status, 401);
    Ok(())
}

#[tokio::test]
async fn k05_the_access_log_names_the_client_and_never_the_key() -> Result<()> {
    let stack = with_keys().await?;
    for key in [ALICE, BOB] {
        let (status, _) = get(&stack, &[("x-proxy-api-key", key)]).await?;
        assert_eq!(status, 200);
    }
    let logged = async || {
        let log = stack.envoy().ok()?.log();
        let clients: Vec<_> = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|entry| Some(entry.get("client")?.as_str()?.to_owned()))
            .collect();
        (clients.len() == 2).then_some((clients, log))
    };
    let limit = std::time::Duration::from_secs(20);
    let (clients, log) = tests::eventually(limit, logged).await.context("two log entries")?;
    assert_eq!(clients, ["alice", "bob"]);
    assert!(!log.contains(ALICE) && !log.contains(BOB));
    Ok(())
}

#[tokio::test]
async fn k09_off_loopback_without_keys_nobody_is_served() -> Result<()> {
    // The filter, loaded by hand.
    let plan = Plan { host: "0.0.0.0".parse()?, ..Plan::default() };
    let mut stack = Stack::start(plan).await?;
    // It is the connection's own address that counts: through loopback, this one is loopback.
    let port = stack.address.port();
    stack.address = format!("{}:{port}", own_address()?).parse()?;
    let (status, body) = get(&stack, &[("host", "localhost")]).await?;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("client_keys_required"), "{body}");
    assert!(stack.provider().requests().is_empty());

    // The refresher's own Envoy.
    let mut command = stack.refresher_command(&["up"])?;
    command.env("PROXY_HOST", "0.0.0.0").env("ENVOY_BIN", envoy_binary()?);
    let mut up = Process::start("up", stack.dir(), &mut command)?;
    let status = up.wait(std::time::Duration::from_secs(20)).await?;
    assert!(!status.success());
    assert!(up.log().contains("client_keys"), "{}", up.log());
    Ok(())
}

/// An address of this machine that is not loopback: the one that it would use to go elsewhere.
/// Nothing is sent.
fn own_address() -> Result<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9").context("this machine needs an address besides loopback")?;
    Ok(socket.local_addr()?.ip())
}

#[tokio::test]
async fn k10_without_keys_foreign_hosts_and_pages_are_refused() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    assert_eq!(get(&stack, &[]).await?.0, 200);
    assert_eq!(get(&stack, &[("origin", "http://localhost:3000")]).await?.0, 200);
    stack.provider().clear();
    for host in ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example:80"] {
        assert_eq!(get(&stack, &[("host", host)]).await?.0, 421, "{host}");
    }
    for headers in
        [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
    {
        assert_eq!(get(&stack, &[headers]).await?.0, 403, "{headers:?}");
    }
    assert!(stack.provider().requests().is_empty());
    Ok(())
}
