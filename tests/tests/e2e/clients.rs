//! Real clients, as their users run them: curl and the OpenAI SDK; and streams, event by event.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, python};
use tokio::process::Command;

const KEY: &str = "key-of-alice-0123456789";

/// The text of an answer in as many pieces as a [`Plan`] has by default.
const TEXT: &str = "word0 word1 word2 word3 ";

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(60);

async fn with_key() -> Result<Stack> {
    Stack::start(Plan { client_keys: vec![("alice", KEY)], ..Plan::default() }).await
}

/// Runs a client to its end; gives its standard output.
async fn output(command: &mut Command) -> Result<String> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, running).await.context("the client does not end")?;
    let output = output.with_context(|| format!("{command:?} cannot be run"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// curl, without the proxies and the configuration of the user.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Process::command("curl");
    command.args(["-q", "--silent", "--show-error", "--noproxy", "*"]).args(arguments);
    command
}

#[tokio::test]
async fn curl_gets_an_answer_and_a_stream() -> Result<()> {
    let stack = with_key().await?;
    let url = stack.url("/v1/chat/completions");
    let key = format!("Authorization: Bearer {KEY}");
    let body = json!({"model": "grok-4", "messages": [{"role": "user", "content": "Hello"}]});
    let request = ["-H", &key, "--json", &body.to_string(), &url];
    let answer: Value = serde_json::from_str(&output(&mut curl(&request)).await?)?;
    ensure!(answer["choices"][0]["message"]["content"] == TEXT, "{answer}");

    let mut body = body;
    body["stream"] = true.into();
    let request = ["-N", "--include", "-H", &key, "--json", &body.to_string(), &url];
    let answer = output(&mut curl(&request)).await?;
    let (head, events) = answer.split_once("\r\n\r\n").context("no headers")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    ensure!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
    // A role, four pieces of text, the reason of the end, and the end.
    ensure!(events.matches("data: ").count() == 7, "{events}");
    ensure!(events.ends_with("data: [DONE]\n\n"), "{events}");

    // The other client header, a key that is wrong, and none.
    let models = stack.url("/v1/models");
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let own = format!("X-Proxy-Api-Key: {KEY}");
    for (header, expected) in
        [(own.as_str(), "200"), ("Authorization: Bearer x", "401"), ("", "401")]
    {
        let mut command = curl(&status);
        let found = output(command.args(["-H", header, &models])).await?;
        ensure!(found == expected, "{header}: {found}");
    }
    for request in stack.provider().requests() {
        ensure!(request.authorization.len() == 1 && request.jti.is_some(), "{request:?}");
        ensure!(request.header("x-proxy-api-key").next().is_none(), "{request:?}");
    }
    ensure!(stack.provider().summary().api_requests == 3);
    Ok(())
}

/// What the OpenAI SDK saw.
pub(crate) async fn sdk(stack: &Stack, key: &str, case: &str) -> Result<Value> {
    sdk_at(stack, "/v1", key, case).await
}

/// The same with another path in its base address.
pub(crate) async fn sdk_at(stack: &Stack, base: &str, key: &str, case: &str) -> Result<Value> {
    sdk_of(stack, &stack.url(base), key, case).await
}

/// The same with another base address.
pub(crate) async fn sdk_of(stack: &Stack, base: &str, key: &str, case: &str) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/openai_sdk.py");
    let mut command = Process::command(python()?);
    command.env("HOME", stack.dir()).env("OPENAI_API_KEY", key);
    command.arg(script).args([base, case]);
    let seen = output(&mut command).await.with_context(|| case.to_owned())?;
    Ok(serde_json::from_str(&seen)?)
}

#[tokio::test]
async fn the_openai_sdk_gets_answers_and_streams() -> Result<()> {
    let stack = with_key().await?;
    for (case, expected) in [
        (
            "models",
            json!({"listed": ["grok-4", "grok-4-fast", "grok-3-mini"], "retrieved": "grok-4"}),
        ),
        ("chat", json!({"text": TEXT, "finish_reason": "stop", "completion_tokens": 9})),
        (
            "chat_stream",
            // A role, the text, the reason of the end, and the usage.
            json!({"text": TEXT, "chunks": 7, "finish_reason": "stop", "completion_tokens": 9}),
        ),
        ("responses", json!({"text": TEXT, "status": "completed", "output_tokens": 9})),
        (
            "responses_stream",
            json!({"text": TEXT, "first": "response.created", "last": "response.completed",
                   "final": TEXT}),
        ),
        ("error", json!({})),
    ] {
        let seen = sdk(&stack, KEY, case).await?;
        ensure!(seen == expected, "{case}: {seen}");
    }
    Ok(())
}

#[tokio::test]
async fn the_openai_sdk_understands_our_errors() -> Result<()> {
    let stack = with_key().await?;
    let seen = sdk(&stack, "wrong", "error").await?;
    ensure!(seen["class"] == "AuthenticationError" && seen["status"] == 401, "{seen}");
    ensure!(seen["code"] == "invalid_client_key", "{seen}");
    ensure!(seen["type"] == "authentication_error", "{seen}");
    ensure!(stack.provider().requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn the_openai_sdk_needs_no_key_on_loopback_and_is_told_to_log_in() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..Plan::default() }).await?;
    let seen = sdk(&stack, "anything", "error").await?;
    ensure!(seen["class"] == "InternalServerError" && seen["status"] == 503, "{seen}");
    ensure!(seen["code"] == "login_required", "{seen}");
    let message = seen["message"].as_str().unwrap_or_default();
    ensure!(message.contains("refresher login"), "{seen}");
    ensure!(stack.provider().requests().is_empty());

    stack.login().await?;
    let works = tests::eventually(Duration::from_secs(2), async || {
        let answer = stack.client.get(stack.url("/v1/models")).send().await.ok()?;
        answer.status().is_success().then_some(())
    });
    works.await.context("the login does not serve")?;
    let seen = sdk(&stack, "anything", "chat").await?;
    ensure!(seen["text"] == TEXT, "{seen}");
    Ok(())
}

/// The two kinds of streams: a path, and a request that asks for a stream of so many pieces.
fn streams(chunks: u64, delay_ms: u64) -> [(&'static str, Value); 2] {
    let chat = json!({
        "model": "grok-4",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": true,
        "stream_options": {"include_usage": true},
        "x_chunks": chunks,
        "x_delay_ms": delay_ms,
    });
    let responses = json!({
        "model": "grok-4",
        "input": "Hello",
        "stream": true,
        "x_chunks": chunks,
        "x_delay_ms": delay_ms,
    });
    [("/v1/chat/completions", chat), ("/v1/responses", responses)]
}

async fn opened(request: RequestBuilder) -> Result<Response> {
    let response = tokio::time::timeout(LIMIT, request.send()).await.context("no answer")??;
    ensure!(response.status() == 200, "{}", response.status());
    Ok(response)
}

#[tokio::test]
async fn the_first_event_arrives_before_the_next_is_sent() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    // The provider sends the next event long after this test has failed.
    for (path, body) in streams(2, 10 * 60 * 1000) {
        let mut response = opened(stack.client.post(stack.url(path)).json(&body)).await?;
        let first = tokio::time::timeout(Duration::from_secs(10), response.chunk()).await;
        let first = first.with_context(|| format!("{path}: the first event is held back"))??;
        let first = String::from_utf8(first.context("an empty stream")?.to_vec())?;
        ensure!(first.contains("data: {") && first.ends_with("\n\n"), "{path}: {first}");
        ensure!(first.matches("data: ").count() == 1, "{path}: {first}");
    }
    Ok(())
}

#[tokio::test]
async fn events_arrive_one_by_one() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    for (path, body) in streams(6, 100) {
        let mut response = opened(stack.client.post(stack.url(path)).json(&body)).await?;
        let (mut reads, mut events) = (0, String::new());
        while let Some(read) = tokio::time::timeout(LIMIT, response.chunk()).await?? {
            reads += 1;
            events.push_str(str::from_utf8(&read)?);
        }
        let sent = events.matches("\n\n").count();
        // A busy machine may bring two together, a buffer would bring all of them.
        ensure!(sent >= 9 && reads > sent / 2, "{path}: {sent} events in {reads} reads");
    }
    Ok(())
}

/// A stream without what differs from one to the next: the numbers behind these names.
fn comparable(stream: &str) -> String {
    let names = ["chatcmpl-", "resp_", "msg_", "\"created\":", "\"created_at\":"];
    names.into_iter().fold(stream.to_owned(), |stream, name| {
        let mut parts = stream.split(name);
        let start = parts.next().unwrap_or_default().to_owned();
        parts.fold(start, |whole, part| {
            format!("{whole}{name}{}", part.trim_start_matches(|it: char| it.is_ascii_digit()))
        })
    })
}

#[tokio::test]
async fn a_stream_through_envoy_is_the_providers_byte_for_byte() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let grant = stack.provider().issue_grant();
    let token = grant["access_token"].as_str().context("no token")?;
    for chunks in [1, 5_000] {
        for (path, body) in streams(chunks, 0) {
            let direct = format!("{}{path}", stack.provider_url());
            let direct = opened(stack.client.post(direct).bearer_auth(token).json(&body)).await?;
            let through = opened(stack.client.post(stack.url(path)).json(&body)).await?;
            let kind = direct.headers().get("content-type").cloned();
            ensure!(through.headers().get("content-type") == kind.as_ref(), "{path}");
            let direct = comparable(&direct.text().await?);
            let through = comparable(&through.text().await?);
            ensure!(direct == through, "{path}, {chunks}: {} bytes", through.len());
            let end = ["data: [DONE]\n\n", "event: response.completed\n"];
            let complete = end.iter().any(|end| through.contains(end));
            let last_word = format!("word{} ", chunks - 1);
            ensure!(complete && through.contains(&last_word), "{path}: not complete");
        }
    }
    Ok(())
}
