//! What has to hold of every shipped configuration.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::headers::Policy;
use reqwest::{RequestBuilder, Response};
use serde_json::json;
use simulator::DeadToken;
use tests::{Stack, eventually};

const CHAT: &str = "/v1/chat/completions";

/// How long a busy machine may take.
const SOON: Duration = Duration::from_secs(30);

/// What a client says who shows this key: any key where none is asked for.
pub fn chat(stack: &Stack, key: &str) -> RequestBuilder {
    let hello = json!({"model": "grok-4", "messages": [{"role": "user", "content": "hello"}]});
    let request = stack.client.post(stack.url(CHAT)).json(&hello).bearer_auth(key);
    let request = request.header("cookie", "a=planted").header("x-forwarded-for", "1.2.3.4");
    request.header("x-api-key", "planted").header("x-envoy-retry-on", "5xx")
}

async fn with_body(answer: Response) -> Result<String> {
    let status = answer.status();
    Ok(format!("{status}: {}", answer.text().await?))
}

/// A request is served, with the account's token and nothing of the client's.
pub async fn carries(stack: &Stack, key: &str) -> Result<()> {
    // A new Envoy may still wait for its first bundle.
    let first = async || chat(stack, key).send().await.ok();
    let ready =
        eventually(SOON, async || first().await.filter(|answer| answer.status() != 503).map(drop));
    ready.await.context("it does not serve")?;
    stack.provider().clear();
    let answer = chat(stack, key).send().await?;
    ensure!(answer.status() == 200, "{}", with_body(answer).await?);
    let requests = stack.provider().requests();
    let [request] = requests.as_slice() else { anyhow::bail!("{requests:?}") };
    ensure!(request.authorization.len() == 1 && request.jti.is_some(), "{request:?}");
    let policy = Policy::default();
    for (name, value) in &request.headers {
        // The bearer, and how Envoy itself frames the body.
        let own = ["authorization", "transfer-encoding"].contains(&name.as_str());
        ensure!(own || policy.of_request(name).is_none(), "{name} was not stripped");
        ensure!(!value.contains("planted") && !value.contains(key), "{name}: {value}");
    }
    let (host, port) = crate::shipped::simulator(stack)?;
    let authority: Vec<_> = request.header("host").collect();
    ensure!(authority == [format!("{host}:{port}")], "{authority:?}");
    Ok(())
}

/// A request whose token the API refuses is answered after one refresh and one replay.
pub async fn replays(stack: &Stack, key: &str) -> Result<()> {
    for dead in [DeadToken::Unauthorized, DeadToken::Forbidden] {
        stack.provider().set_dead_token(dead);
        stack.provider().clear();
        stack.provider().kill_access_token();
        let answer = chat(stack, key).send().await?;
        ensure!(answer.status() == 200, "{dead:?}: {}", with_body(answer).await?);
        ensure!(stack.provider().requests().len() == 2, "{dead:?}: one replay");
        ensure!(stack.provider().summary().refreshes == 1, "{dead:?}: one refresh");
    }
    Ok(())
}

/// A request whose token the API refuses is passed back, and the next is served with another.
pub async fn recovers(stack: &Stack, key: &str) -> Result<()> {
    for (dead, status) in [(DeadToken::Unauthorized, 401), (DeadToken::Forbidden, 403)] {
        stack.provider().set_dead_token(dead);
        stack.provider().clear();
        stack.provider().kill_access_token();
        let answer = chat(stack, key).timeout(SOON).send().await?;
        ensure!(answer.status() == status, "{dead:?}: {}", with_body(answer).await?);
        ensure!(!answer.text().await?.is_empty(), "{dead:?}: with its body");
        let answer = chat(stack, key).timeout(SOON).send().await?;
        ensure!(answer.status() == 200, "{dead:?}: {}", with_body(answer).await?);
        ensure!(stack.provider().summary().refreshes == 1, "{dead:?}: one refresh");
    }
    Ok(())
}

/// The status of a GET without a key.
pub async fn status(stack: &Stack, path: &str) -> Result<u16> {
    Ok(stack.client.get(stack.url(path)).send().await?.status().as_u16())
}
