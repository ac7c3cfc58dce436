//! What a key that was made by command may do, as the filter sees it.

use anyhow::{Context as _, Result, ensure};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{Plan, Stack, eventually};

use super::{COMMAND, answered, keys};

/// Makes a key, and waits until it is in force on every worker without using it.
async fn made(stack: &Stack, name: &str, flags: &[&str]) -> Result<String> {
    let key = keys(stack, &[&["add", name], flags].concat()).await?;
    let later = keys(stack, &["add", &format!("after-{name}")]).await?;
    answered(stack, &later, 200, COMMAND).await.context("a later key is not taken")?;
    Ok(key)
}

/// The status, the code of an error, and the limit that is told.
async fn sent(request: RequestBuilder) -> Result<(u16, String, Option<String>)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let limit = answer.headers().get("x-ratelimit-limit-requests");
    let limit = limit.and_then(|limit| Some(limit.to_str().ok()?.to_owned()));
    let body: Value = answer.json().await.unwrap_or_default();
    Ok((status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), limit))
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hello"}],
           "stream": true, "x_chunks": 200, "x_delay_ms": 100})
}

#[tokio::test]
async fn every_restriction_of_the_command_holds_in_envoy() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let flags = ["--path", "/v1/", "--model", "grok-4*", "--rpm", "3"];
    let key = made(&stack, "limited", &flags).await?;
    let get = |path| stack.client.get(stack.url(path)).bearer_auth(&key);
    ensure!(sent(get("/elsewhere")).await?.1 == "path_not_allowed");
    let post = stack.client.post(stack.url("/v1/chat/completions")).bearer_auth(&key);
    ensure!(sent(post.json(&chat("grok-3-mini"))).await?.1 == "model_not_allowed");
    for _ in 0..2 {
        let (status, _, limit) = sent(get("/v1/models")).await?;
        ensure!((status, limit.as_deref()) == (200, Some("3")));
    }
    let (status, code, _) = sent(get("/v1/models")).await?;
    ensure!((status, code.as_str()) == (429, "rate_limit_exceeded"));

    let key = made(&stack, "single", &["--concurrency", "1"]).await?;
    let get = || stack.client.get(stack.url("/v1/models")).bearer_auth(&key);
    let post = stack.client.post(stack.url("/v1/chat/completions")).bearer_auth(&key);
    let stream = post.json(&chat("grok-3-mini")).send().await?;
    ensure!(stream.status() == 200);
    let (status, code, _) = sent(get()).await?;
    ensure!((status, code.as_str()) == (429, "concurrency_limit_exceeded"));
    drop(stream);
    let free = eventually(COMMAND, async || (sent(get()).await.ok()?.0 == 200).then_some(()));
    free.await.context("its place is not freed")?;

    let key = made(&stack, "other", &["--credential", "bob"]).await?;
    let get = stack.client.get(stack.url("/v1/models")).bearer_auth(&key);
    ensure!(sent(get).await?.1 == "unknown_credential");
    Ok(())
}
