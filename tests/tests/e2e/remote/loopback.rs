//! Plain HTTP on loopback, for an Envoy that cannot reach the socket.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Plan, Stack, free_port, raw_request};

use super::SOON;

#[tokio::test]
async fn an_envoy_is_served_on_loopback_and_a_web_page_is_not() -> Result<()> {
    let port = free_port()?;
    let settings = format!("[publish]\nloopback_port = {port}\n");
    let mut stack = Stack::prepare(Plan { settings, ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let place =
        "/static_resources/clusters/1/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
    *bootstrap.pointer_mut(place).context("the refresher's address")? =
        json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    let served = tests::eventually(SOON, async || {
        (stack.client.get(stack.url("/v1/models")).send().await.ok()?.status() == 200).then_some(())
    });
    served.await.context("not served")?;
    let health = stack.client.get(stack.url("/health")).send().await?;
    assert_eq!(health.status(), 200);

    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for (headers, expected) in [
        ("host: refresher", 200),
        ("host: evil.example.org", 421),
        ("host: 127.0.0.1", 421),
        ("host: localhost", 421),
        ("host: refresher\r\norigin: https://evil.example.org", 421),
    ] {
        let request = format!("GET /v1/bundle HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n");
        let answer = raw_request(address, request.as_bytes()).await?;
        assert_eq!(answer.status, expected, "{headers}");
        ensure!(answer.body.contains("access_token") == (expected == 200), "{headers}");
    }
    let request = "POST /v1/reload HTTP/1.1\r\nhost: refresher\r\nconnection: close\r\n\r\n";
    assert_eq!(raw_request(address, request.as_bytes()).await?.status, 404);
    Ok(())
}
