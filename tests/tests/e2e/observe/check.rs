//! The check of the whole way: what it finds, what it costs, and what its key opens.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use serde_json::Value;
use simulator::{Fault, Target};
use tests::{Plan, Publisher, Stack, Stopwatch, eventually};

use super::{ALICE, SOON, asked, series, serves, told};

fn keyed() -> Plan {
    Plan { client_keys: vec![("alice", ALICE)], workers: 1, ..Plan::default() }
}

/// A check that is not shared with one before; its status code and result.
async fn checked(stack: &Stack) -> Result<(u16, Value)> {
    let before = asked(stack, "/health?deep=1").await?.1["deep_check"]["checked_at"].clone();
    let another = eventually(SOON, async || {
        let (status, health) = asked(stack, "/health?deep=1").await.ok()?;
        let check = health["deep_check"].clone();
        // Told in seconds, and shared for longer than one.
        (check["checked_at"] != before).then_some((status, check))
    });
    another.await.context("no other check")
}

fn ensure_failed(found: &(u16, Value), error: &str, upstream: Option<u16>) -> Result<()> {
    let (status, check) = found;
    ensure!(*status == 503 && check["status"] == "failed", "{status} {check}");
    ensure!(check["error"] == error, "{check} instead of {error}");
    ensure!(check["upstream_status"] == Value::from(upstream), "{check}");
    ensure!(check["latency_ms"].is_u64(), "{check}");
    Ok(())
}

#[tokio::test]
async fn a_check_goes_the_whole_way_and_many_at_once_are_one() -> Result<()> {
    let stack = told(keyed()).await?;
    serves(&stack).await?;
    stack.provider().clear();
    // A request that the API takes its time for, so that the others come meanwhile.
    let slow = Fault { delay_ms: 500, ..Fault::new(Target::Models) };
    stack.provider().set_fault(slow);
    let deep = async || {
        let request = stack.client.get(stack.url("/health?deep=1")).bearer_auth(ALICE);
        let answer = request.send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.json::<Value>().await?))
    };
    let answers = tokio::try_join!(deep(), deep(), deep(), deep())?;
    let listener = stack.address.to_string();
    for (status, health) in [answers.0, answers.1, answers.2, answers.3] {
        let check = &health["deep_check"];
        ensure!(status == 200 && check["status"] == "ok", "{health}");
        ensure!(check["upstream_status"] == 200, "{health}");
        ensure!(check["listener"] == listener.as_str(), "{health}");
        ensure!(check["latency_ms"].as_u64() >= Some(500), "{health}");
        ensure!(health["status"] == "ok" && health["credentials"]["default"]["state"] == "ready");
    }
    let requests = stack.provider().requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    ensure!(requests[0].path == "/v1/models" && requests[0].jti.is_some(), "{requests:?}");
    // Without deep=1 nothing is asked.
    let (_, health) = asked(&stack, "/health").await?;
    ensure!(health.get("deep_check").is_none(), "{health}");
    assert_eq!(stack.provider().requests().len(), 1);

    let logged = eventually(SOON, async || {
        let log = stack.envoy().ok()?.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["client"] == "(probe)")
    });
    let line = logged.await.context("the access log does not name the check")?;
    ensure!(line["path"] == "/v1/models" && line["status"] == 200, "{line}");
    let metrics = series(&stack).await?;
    let labels = [("client", "(probe)"), ("status", "2xx")];
    assert_eq!(metrics.value("torchbearer_requests_total", &labels), Some(1.0));
    assert_eq!(metrics.value("torchbearer_deep_check_success", &[]), Some(1.0));
    ensure!(metrics.value("torchbearer_deep_check_latency_seconds", &[]) >= Some(0.5));
    let listed = stack.refresher_command(&["keys", "list"])?.output().await?;
    ensure!(!String::from_utf8(listed.stdout)?.contains("probe"));
    Ok(())
}

#[tokio::test]
async fn a_check_says_what_is_wrong() -> Result<()> {
    let mut stack = told(keyed()).await?;
    serves(&stack).await?;
    ensure!(checked(&stack).await?.0 == 200);
    stack.provider().set_fault(Fault { status: Some(500), ..Fault::new(Target::Models) });
    ensure_failed(&checked(&stack).await?, "http_500", Some(500))?;
    assert_eq!(series(&stack).await?.value("torchbearer_deep_check_success", &[]), Some(0.0));
    stack.provider().clear_faults(None);
    // The API refuses the token, and the provider gives no other.
    stack.provider().set_fault(Fault { status: Some(503), ..Fault::new(Target::Token) });
    stack.provider().kill_access_token();
    ensure_failed(&checked(&stack).await?, "token_rejected", None)?;
    stack.take_envoy()?.stop().await?;
    ensure_failed(&checked(&stack).await?, "envoy_unreachable", None)?;
    Ok(())
}

#[tokio::test]
async fn a_check_without_a_login_says_so() -> Result<()> {
    let stack = told(Plan { login: false, ..keyed() }).await?;
    let told = eventually(SOON, async || {
        let found = checked(&stack).await.ok()?;
        // Until Envoy's first bundle, the gate says something else.
        (found.1["error"] != "refresher_unavailable").then_some(found)
    });
    ensure_failed(&told.await.context("no bundle")?, "login_required", None)
}

#[tokio::test]
async fn a_check_of_a_silent_api_ends_after_ten_seconds() -> Result<()> {
    let stack = told(keyed()).await?;
    serves(&stack).await?;
    stack.provider().set_fault(Fault { silence: true, ..Fault::new(Target::Models) });
    let watch = Stopwatch::start();
    let request = stack.client.get(stack.url("/health?deep=1")).bearer_auth(ALICE);
    let answer = request.timeout(Duration::from_secs(30)).send().await?;
    let status = answer.status().as_u16();
    let health: Value = answer.json().await?;
    ensure_failed(&(status, health["deep_check"].clone()), "timeout", None)?;
    let took = watch.elapsed();
    ensure!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&took), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn the_checks_key_opens_one_request_only() -> Result<()> {
    const PROBE: &str = "probe-key-0123456789abcdef";
    let mut stack = Stack::prepare(keyed()).await?;
    let publisher = Publisher::start(&stack.socket())?;
    let probe = ClientKey::of_probe(PROBE.as_bytes(), "/v1/models");
    publisher.publish_with_probe(stack.provider(), &[], &probe);
    stack.start_envoy().await?;
    serves(&stack).await?;
    let probing = async |method: &str, target: &str| {
        let head =
            format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n");
        let rest = format!("authorization: Bearer {PROBE}\r\nconnection: close\r\n\r\n");
        anyhow::Ok(stack.raw((head + &rest).as_bytes()).await?.status)
    };
    assert_eq!(probing("GET", "/v1/models").await?, 200);
    let seen = stack.provider().requests().len();
    for (method, target) in [
        ("HEAD", "/v1/models"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models"),
        ("GET", "/v1/models?limit=1"),
        ("GET", "/v1/models/grok-4"),
        ("GET", "/v1/echo"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/v1/chat/completions"),
    ] {
        assert_eq!(probing(method, target).await?, 401, "{method} {target}");
    }
    assert_eq!(stack.provider().requests().len(), seen, "something reached the API");
    Ok(())
}
