//! The metrics page: valid, merged, and served without Envoy too.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Plan, Process, Stack, eventually};

use super::{ALICE, SOON, page, read_by_prometheus, series, serves};
use crate::up;

#[tokio::test]
async fn the_page_is_valid_with_envoy_and_without() -> Result<()> {
    let plan = Plan { client_keys: vec![("alice", ALICE)], workers: 1, ..Plan::default() };
    let mut stack = Stack::start(plan).await?;
    serves(&stack).await?;
    let answer = json!({"model": "a \"model\"\\", "usage": {"prompt_tokens": 1}}).to_string();
    let post = stack.client.post(stack.url("/v1/body")).bearer_auth(ALICE).body(answer);
    post.send().await?.bytes().await?;
    for (method, path, status) in [("DELETE", "/v1/models", 405), ("GET", "/v1/status/404", 404)] {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let request = stack.client.request(method, stack.url(path)).bearer_auth(ALICE);
        assert_eq!(request.send().await?.status(), status);
    }
    assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 401);
    let unknown = reqwest::Method::from_bytes(b"PROPFIND")?;
    let request = stack.client.request(unknown, stack.url("/v1/echo")).bearer_auth(ALICE);
    let unknown = request.send().await?.status().as_u16().to_string();

    let metrics = series(&stack).await?;
    let requests = |method, status| {
        metrics.value("proxy_requests_total", &[("method", method), ("status", status)])
    };
    for (method, status) in [
        ("POST", "200"),
        ("DELETE", "405"),
        ("GET", "404"),
        ("GET", "401"),
        // Methods are few, whatever clients invent.
        ("other", unknown.as_str()),
    ] {
        assert_eq!(requests(method, status), Some(1.0), "{method} {status}");
    }
    ensure!(requests("GET", "200") >= Some(1.0));
    let all: f64 = metrics.of("proxy_requests_total").map(|sample| sample.value).sum();
    let counted = eventually(SOON, async || {
        let metrics = series(&stack).await.ok()?;
        let count = metrics.value("proxy_request_count_total", &[])?;
        // Envoy adds histograms up every few seconds.
        (count >= all)
            .then_some((count, metrics.value("proxy_request_duration_seconds_total", &[])))
    });
    let (count, seconds) = counted.await.context("the requests are not counted")?;
    ensure!(count < all + 3.0, "{count} of {all}");
    ensure!(seconds.is_some_and(|it| (0.0..300.0).contains(&it)), "{seconds:?}");

    let text = page(&stack).await?;
    let read = read_by_prometheus(&text)?;
    // The library gives every counter the ending that OpenMetrics wants.
    let stem = |name: &str| name.trim_end_matches("_total").to_owned();
    let has = |name: &str| read.iter().any(|(known, _, _)| stem(known) == stem(name));
    for name in [
        "proxy_requests_total",
        "torchbearer_tokens_total",
        "torchbearer_refusals_total",
        "torchbearer_credential_state",
        "torchbearer_refresher_resident_memory_bytes",
        "torchbearer_worker_generation",
        "envoy_cluster_upstream_rq_xx",
        "envoy_cluster_upstream_rq_time_bucket",
        "envoy_http_downstream_rq_xx",
        "envoy_http_downstream_rq_time_bucket",
        "envoy_wasm_envoy_wasm_runtime_v8_active",
        "envoy_server_memory_allocated",
    ] {
        ensure!(has(name), "{name}: {text}");
    }
    ensure!(text.len() < 64 << 10, "{} bytes", text.len());
    ensure!(!has("envoy_listener_manager_listener_added"), "more than is of use: {text}");
    // Through the gate it is the same page.
    let request = stack.client.get(stack.url("/metrics")).bearer_auth(ALICE);
    let through = request.send().await?.text().await?;
    read_by_prometheus(&through)?;
    ensure!(through.contains("\ntorchbearer_envoy_up 1\n"), "{through}");

    stack.take_envoy()?.stop().await?;
    let text = page(&stack).await?;
    read_by_prometheus(&text)?;
    ensure!(text.contains("\ntorchbearer_envoy_up 0\n"), "{text}");
    ensure!(text.contains("\nproxy_oauth_refresh_success_total 0\n"), "{text}");
    ensure!(!text.contains("envoy_http_"), "{text}");
    Ok(())
}

/// The lines by which the predecessor's users look whether it works.
#[tokio::test]
async fn the_predecessors_smoke_lines_work_as_they_are() -> Result<()> {
    let stack = up::machine(true, up::SMALL).await?;
    // Port 9996, or the next that is free: other programs of this machine may have it.
    let mut command = stack.refresher_command(&["up"])?;
    command.env("ENVOY_BIN", tests::envoy_binary()?);
    command.env("TORCHBEARER_FILTER", tests::filter_module()?);
    let up = up::Up::start(&stack, &mut command).await?;
    let port = up.address.port();
    ensure!((9996..9996 + 20).contains(&port), "{port}");
    let base = format!("http://127.0.0.1:{port}");
    let mut curl = Process::command("curl");
    curl.args(["-q", "-sS", "--fail", "--noproxy", "*"]).arg(format!("{base}/health"));
    let health = curl.output().await?;
    let health: serde_json::Value = serde_json::from_slice(&health.stdout)?;
    ensure!(health["status"] == "ok", "{health}");
    let mut curl = Process::command("curl");
    curl.args(["-q", "-sS", "--fail", "--noproxy", "*"]);
    curl.arg(format!("{base}/v1/chat/completions")).args(["-H", "Content-Type: application/json"]);
    curl.args(["-d", r#"{"model": "grok-4", "messages": [{"role": "user", "content": "ping"}]}"#]);
    let answer = curl.output().await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    ensure!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    // With `up`, both Envoy's listener and its admin interface are known.
    let deep = up.get(&stack, "/health?deep=1").send().await?;
    ensure!(deep.status() == 200, "{}", deep.text().await?);
    let metrics = up.get(&stack, "/metrics").send().await?.text().await?;
    read_by_prometheus(&metrics)?;
    ensure!(metrics.contains("\ntorchbearer_envoy_up 1\n"), "{metrics}");
    ensure!(
        metrics.contains("proxy_requests_total{method=\"POST\",status=\"200\"} 1"),
        "{metrics}"
    );
    up.process.stop().await?;
    Ok(())
}
