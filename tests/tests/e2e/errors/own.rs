//! The filter's own errors, from both places.

use super::*;
use filter::client::ClientKey;

const KEY: &str = "key-of-alice-0123456789";
const NARROW: &str = "key-of-narrow-0123456789";
const NOBODY: &str = "key-of-nobody-0123456789";
const SELDOM: &str = "key-of-seldom-0123456789";

#[tokio::test]
async fn what_the_filter_refuses_has_a_code_a_sentence_and_an_id_in_the_log() -> Result<()> {
    let narrow = ClientKey {
        models: vec!["grok-4".to_owned()],
        paths: vec!["/v1/chat/".to_owned(), "/v1/models".to_owned()],
        requests_per_minute: 2,
        ..ClientKey::of_key("narrow".parse()?, NARROW.as_bytes())
    };
    let nobody = ClientKey {
        credential: "nobody".to_owned(),
        ..ClientKey::of_key("nobody".parse()?, NOBODY.as_bytes())
    };
    let seldom = ClientKey {
        requests_per_minute: 1,
        ..ClientKey::of_key("seldom".parse()?, SELDOM.as_bytes())
    };
    let plan = Plan {
        client_keys: vec![("alice", KEY)],
        limited_keys: vec![narrow, nobody, seldom],
        ..Plan::default()
    };
    let mut stack = Stack::start(plan).await?;
    let mut all = Vec::new();
    let chat = "/v1/chat/completions";
    for protocol in Protocol::ALL {
        for (message, key, expected) in [
            (
                Message::get("/v1/models"),
                "wrong",
                (401, "invalid_client_key", "invalid_client_key"),
            ),
            (Message::get("//v1/models"), KEY, (400, "ambiguous_path", "ambiguous_path")),
            (Message::new("TRACE", "/v1/models"), KEY, (405, "method_not_allowed", "method_not")),
            (Message::get("/v1/files"), NARROW, (403, "path_not_allowed", "narrow")),
            (Message::post(chat, "{}"), NARROW, (403, "model_not_allowed", "narrow")),
            (Message::get("/v1/models"), NOBODY, (503, "unknown_credential", "nobody")),
        ] {
            let outcome =
                message.with("x-proxy-api-key", key).send(protocol, stack.address).await?;
            let answer = outcome.answer().with_context(|| outcome.to_string())?;
            all.push(told(&format!("{protocol:?} {expected:?}"), answer, expected)?);
        }
    }
    ensure!(stack.provider().requests().is_empty());
    // One request in a minute, and then no more.
    let request = || Message::get("/v1/models").with("x-proxy-api-key", SELDOM);
    ensure!(request().send(Protocol::Http1, stack.address).await?.status() == 200);
    for protocol in Protocol::ALL {
        let outcome = request().send(protocol, stack.address).await?;
        let answer = outcome.answer().with_context(|| outcome.to_string())?;
        ensure!(answer.header("retry-after").is_some(), "{answer:?}");
        let expected = (429, "rate_limit_exceeded", "seldom");
        all.push(told(&format!("{protocol:?} {expected:?}"), answer, expected)?);
    }
    logged(&mut stack, &all).await
}

#[tokio::test]
async fn what_is_refused_without_client_keys_has_a_code_over_both_protocols() -> Result<()> {
    let mut stack = Stack::start(Plan::default()).await?;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        for (message, expected) in [
            (
                Message::get("/v1/models").to("api.example"),
                (421, "misdirected_request", "misdirected_request"),
            ),
            (
                Message::get("/v1/models").with("origin", "https://evil.example"),
                (403, "cross_site_request", "cross_site_request"),
            ),
        ] {
            let outcome = message.send(protocol, stack.address).await?;
            let answer = outcome.answer().with_context(|| outcome.to_string())?;
            all.push(told(&format!("{protocol:?} {expected:?}"), answer, expected)?);
        }
    }
    logged(&mut stack, &all).await?;
    ensure!(stack.provider().requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn what_the_bearer_refuses_has_an_id_in_the_log_too() -> Result<()> {
    let mut stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    stack.start_refresher().await?;
    stack.start_envoy().await?;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        let outcome = Message::get("/v1/models").send(protocol, stack.address).await?;
        let answer = outcome.answer().with_context(|| outcome.to_string())?;
        all.push(told("no login", answer, (503, "login_required", "login_required"))?);
    }
    logged(&mut stack, &all).await?;
    // The API as a cluster, without a gate before it.
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let filters = bootstrap.pointer_mut(filters).and_then(Value::as_array_mut);
    filters.context("filters")?.remove(0);
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        let outcome = Message::get("/v1/models").send(protocol, stack.address).await?;
        let answer = outcome.answer().with_context(|| outcome.to_string())?;
        all.push(told("no gate", answer, (503, "not_admitted", "not_admitted"))?);
    }
    logged(&mut stack, &all).await?;
    ensure!(stack.provider().requests().is_empty());
    Ok(())
}
