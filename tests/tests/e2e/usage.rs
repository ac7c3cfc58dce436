//! Tokens that answers say they used, and the other metrics, as Prometheus reads them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use refresher::config::Proxy;
use serde_json::{Value, json};
use simulator::{DeadToken, Fault, Target};
use tests::{Metrics, Plan, Stack, eventually};

mod forms;

const ALICE: &str = "torchbearer-key-of-alice-1";
const BOB: &str = "torchbearer-key-of-bob-22";

const LIMIT: Duration = Duration::from_secs(20);

const TOKENS: &str = "torchbearer_tokens_total";

async fn stack() -> Result<Stack> {
    with(Proxy::default()).await
}

/// One worker, so that no series is there twice before it is bounded.
async fn with(proxy: Proxy) -> Result<Stack> {
    let client_keys = vec![("alice", ALICE), ("bob@example.com", BOB)];
    Stack::start(Plan { client_keys, proxy, workers: 1, ..Plan::default() }).await
}

/// The prompt, completion, reasoning and cached tokens that were counted for a client and a model.
fn counted(metrics: &Metrics, client: &str, model: &str) -> [u64; 4] {
    ["prompt", "completion", "reasoning", "cached"].map(|kind| {
        let labels = [("client", client), ("model", model), ("kind", kind)];
        metrics.value(TOKENS, &labels).unwrap_or(0.0) as u64
    })
}

/// Waits until these tokens have been counted for alice's requests of this model, no fewer, no more.
async fn awaited(stack: &Stack, model: &str, tokens: [u64; 4]) -> Result<()> {
    let mut seen = [0; 4];
    let found = eventually(LIMIT, async || {
        seen = counted(&stack.metrics().await.ok()?, "alice", model);
        (seen == tokens).then_some(())
    });
    found.await.with_context(|| format!("{model}: {seen:?} instead of {tokens:?}"))
}

/// An answer of the API that is this body, sent to alice; its status and what arrived of it.
async fn answered(stack: &Stack, query: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
    let request = stack.client.post(stack.url(&format!("/v1/body?{query}")));
    let answer = request.bearer_auth(ALICE).body(body.to_vec()).send().await?;
    Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
}

fn whole(model: &str, prompt: u64) -> String {
    json!({"model": model, "usage": {"prompt_tokens": prompt, "completion_tokens": 1}}).to_string()
}

#[tokio::test]
async fn real_answers_are_counted_for_their_client_and_model() -> Result<()> {
    let stack = stack().await?;
    let mut sums = [0; 4];
    for (path, streams) in [
        ("chat/completions", false),
        ("chat/completions", true),
        ("responses", false),
        ("responses", true),
    ] {
        let body = json!({
            "model": "grok-4", "messages": [{"role": "user", "content": "Hello"}], "input": "Hello",
            "stream": streams, "stream_options": {"include_usage": true}
        });
        let request = stack.client.post(stack.url(&format!("/v1/{path}"))).bearer_auth(ALICE);
        let answer = request.json(&body).send().await?.text().await?;
        let last = answer.lines().rfind(|line| line.contains("total_tokens")).context("usage")?;
        let last: Value = serde_json::from_str(last.trim_start_matches("data: "))?;
        let usage = last.get("usage").or_else(|| last.pointer("/response/usage"));
        let usage = usage.context("usage")?;
        let number = |paths: [&str; 2]| {
            paths.iter().find_map(|path| usage.pointer(path)?.as_u64()).context("a number")
        };
        for (sum, paths) in sums.iter_mut().zip([
            ["/prompt_tokens", "/input_tokens"],
            ["/completion_tokens", "/output_tokens"],
            [
                "/completion_tokens_details/reasoning_tokens",
                "/output_tokens_details/reasoning_tokens",
            ],
            ["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"],
        ]) {
            *sum += number(paths)?;
        }
        awaited(&stack, "grok-4", sums).await.with_context(|| format!("{path} {streams}"))?;
    }
    let bob = stack.client.post(stack.url("/v1/body")).bearer_auth(BOB).body(whole("m", 5));
    bob.send().await?.bytes().await?;
    let metrics = stack.metrics().await?;
    assert_eq!(counted(&metrics, "bob@example.com", "m"), [5, 1, 0, 0]);
    assert_eq!(counted(&metrics, "alice", "grok-4"), sums);
    for sample in metrics.of(TOKENS) {
        let labels: Vec<_> = sample.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, ["client", "kind", "model"]);
    }
    Ok(())
}

#[tokio::test]
async fn without_keys_tokens_are_nobodys_and_switched_off_they_are_not_counted() -> Result<()> {
    for usage in [true, false] {
        let proxy = Proxy { usage, ..Proxy::default() };
        let stack = Stack::start(Plan { proxy, workers: 1, ..Plan::default() }).await?;
        let request = stack.client.post(stack.url("/v1/body")).body(whole("m", 5));
        request.send().await?.bytes().await?;
        let metrics = stack.metrics().await?;
        assert_eq!(counted(&metrics, "(none)", "m"), if usage { [5, 1, 0, 0] } else { [0; 4] });
        assert_eq!(metrics.of(TOKENS).count() > 0, usage);
        let labels = [("client", "(none)"), ("status", "2xx")];
        assert_eq!(metrics.value("torchbearer_requests_total", &labels), Some(1.0));
    }
    Ok(())
}

#[tokio::test]
async fn the_number_of_series_is_bounded_and_names_cannot_forge_any() -> Result<()> {
    let stack = stack().await?;
    for hostile in [
        "a\";client=\"bob@example.com",
        "x;kind=prompt",
        "new\nline",
        "\u{e9}\u{0}\u{7f}",
        "{}\\",
        "",
    ] {
        answered(&stack, "", whole(hostile, 1).as_bytes()).await?;
    }
    answered(&stack, "", whole(&"y".repeat(5000), 1).as_bytes()).await?;
    answered(&stack, "", br#"{"usage":{"prompt_tokens":1}}"#).await?;
    for number in 0..100 {
        answered(&stack, "", whole(&format!("invented-{number}"), 1).as_bytes()).await?;
    }
    let metrics = stack.metrics().await?;
    let models: BTreeSet<_> =
        metrics.of(TOKENS).map(|sample| sample.labels["model"].clone()).collect();
    assert_eq!(models.len(), 33, "{models:?}");
    for model in &models {
        ensure!(model.len() <= 64, "{model}");
        ensure!(model.bytes().all(|byte| byte.is_ascii_graphic()), "{model}");
    }
    for model in ["a__client__bob_example.com", "x_kind_prompt", "new_line", "unknown"] {
        ensure!(models.contains(model), "{model}: {models:?}");
    }
    let clients: BTreeSet<_> = metrics.of(TOKENS).map(|sample| &*sample.labels["client"]).collect();
    assert_eq!(clients, BTreeSet::from(["alice"]));
    // Nothing is lost: all that was counted is there.
    let sum: f64 = metrics
        .of(TOKENS)
        .filter(|sample| sample.labels["kind"] == "prompt")
        .map(|sample| sample.value)
        .sum();
    assert_eq!(sum, 108.0);
    ensure!(counted(&metrics, "alice", "other")[0] > 60);
    Ok(())
}

#[tokio::test]
async fn requests_refusals_rejections_and_the_token_are_shown() -> Result<()> {
    let mut limited = ClientKey::of_key("alice".parse()?, ALICE.as_bytes());
    limited.models = vec!["grok-4".to_owned()];
    let proxy = Proxy { retry_attempts: 0, ..Proxy::default() };
    let plan = Plan { limited_keys: vec![limited], workers: 1, proxy, ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let get = async |status: u16| {
        let request = stack.client.get(stack.url(&format!("/v1/status/{status}")));
        anyhow::Ok(request.bearer_auth(ALICE).send().await?.status().as_u16())
    };
    for status in [200, 204, 404, 429, 500, 503, 302] {
        assert_eq!(get(status).await?, status);
    }
    let post = stack.client.post(stack.url("/v1/responses")).bearer_auth(ALICE);
    assert_eq!(post.json(&json!({"model": "x"})).send().await?.status(), 403);
    for _ in 0..2 {
        assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 401);
    }
    stack.provider().set_dead_token(DeadToken::Forbidden);
    stack.provider().kill_access_token();
    assert_eq!(get(200).await?, 200);
    // And one that is refused for good.
    stack.provider().set_fault(Fault { status: Some(401), ..Fault::new(Target::Api) });
    assert_eq!(get(200).await?, 401);
    stack.provider().clear_faults(None);

    let metrics = stack.metrics().await?;
    for (status, number) in [("2xx", 3.0), ("3xx", 1.0), ("4xx", 3.0), ("5xx", 2.0)] {
        let labels = [("client", "alice"), ("status", status)];
        let counted = metrics.value("torchbearer_requests_total", &labels);
        assert_eq!(counted, Some(number), "{status}");
    }
    for (name, labels, number) in [
        ("torchbearer_refusals_total", ("code", "invalid_client_key"), 2.0),
        ("torchbearer_refusals_total", ("code", "model_not_allowed"), 1.0),
        ("torchbearer_rejections_total", ("credential", "default"), 3.0),
        ("torchbearer_replays_total", ("credential", "default"), 2.0),
    ] {
        assert_eq!(metrics.value(name, &[labels]), Some(number), "{name} {labels:?}");
    }
    let shown = eventually(LIMIT, async || {
        let metrics = stack.metrics().await.ok()?;
        let of = |name: &str| metrics.value(name, &[("credential", "default")]);
        let generation = of("torchbearer_token_generation")?;
        let expires_at = of("torchbearer_token_expires_at_seconds")?;
        let age = of("torchbearer_token_age_seconds")?;
        let now = tests::unix_now() as f64;
        let bundle = metrics.value("torchbearer_generation", &[])?;
        ((now - generation / 1000.0).abs() < 60.0
            && (bundle >= generation)
            && (0.0..60.0).contains(&age)
            && (expires_at - now - 21_600.0).abs() < 60.0)
            .then_some(())
    });
    shown.await.context("the token's metrics")
}

#[tokio::test]
async fn the_access_log_names_client_credential_and_generation() -> Result<()> {
    let stack = stack().await?;
    answered(&stack, "", b"{}").await?;
    let bundle = tests::unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?;
    let entry = eventually(LIMIT, async || {
        let log = stack.envoy().ok()?.log();
        log.lines().find_map(|line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            (entry["path"] == "/v1/body").then_some(entry)
        })
    });
    let entry = entry.await.context("a line of the access log")?;
    assert_eq!(entry["client"], "alice");
    assert_eq!(entry["credential"], "default");
    let generation = &bundle.json()["credentials"]["default"]["generation"];
    assert_eq!(entry["generation"], json!(generation.to_string()));
    assert_eq!(entry["status"], 200);
    Ok(())
}
