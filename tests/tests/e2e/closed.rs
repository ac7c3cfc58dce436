//! Failing closed: no valid token, no request.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use simulator::{Fault, Options, Target};
use tests::{Plan, Stack, eventually, unix_request};

/// Tokens of seconds are refreshed each few seconds.
const SHORT_LIVED: &str = "[rotation]\nspacing = 1\n";

/// Status, `Retry-After`, error code and body of a GET of `/v1/models`.
async fn get(stack: &Stack) -> Result<(u16, Option<u64>, Value)> {
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let body: Value = answer.json().await?;
    Ok((status, retry_after, body["error"]["code"].clone()))
}

/// Waits until a request is answered with this status.
async fn answered(stack: &Stack, status: u16, limit: Duration) -> Option<()> {
    eventually(limit, async || (get(stack).await.ok()?.0 == status).then_some(())).await
}

#[tokio::test]
async fn f01_never_logged_in() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..Plan::default() }).await?;
    let (status, _, code) = get(&stack).await?;
    assert_eq!((status, code), (503, json!("login_required")));
    assert!(stack.provider().requests().is_empty());
    let ready = unix_request(&stack.socket(), "GET", "/ready", "").await?;
    assert_eq!(ready.status, 503);
    let ready = stack.client.get(stack.url("/ready")).send().await?;
    assert_eq!(ready.status(), 503);
    Ok(())
}

#[tokio::test]
async fn f02_expired_and_the_provider_is_down() -> Result<()> {
    let provider = Options { token_life: 4, approve_device: true, ..Options::default() };
    let stack =
        Stack::start(Plan { provider, settings: SHORT_LIVED.to_owned(), ..Plan::default() })
            .await?;
    assert_eq!(get(&stack).await?.0, 200);
    stack.provider().set_fault(Fault { status: Some(503), ..Fault::new(Target::Token) });
    answered(&stack, 503, Duration::from_secs(10)).await.context("the token expires")?;
    stack.provider().clear();
    let (status, retry_after, code) = get(&stack).await?;
    assert_eq!((status, code), (503, json!("token_expired")));
    assert!(retry_after.is_some_and(|seconds| (1..=300).contains(&seconds)), "{retry_after:?}");
    assert!(stack.provider().requests().is_empty());
    // And back, without anybody's help.
    stack.provider().clear_faults(None);
    answered(&stack, 200, Duration::from_secs(40)).await.context("it recovers")?;
    assert_eq!(stack.provider().summary().spent_twice, 0);
    Ok(())
}

#[tokio::test]
async fn f03_a_killed_refresher_is_missed_only_when_the_token_expires() -> Result<()> {
    let provider = Options { token_life: 5, approve_device: true, ..Options::default() };
    let mut stack =
        Stack::start(Plan { provider, settings: SHORT_LIVED.to_owned(), ..Plan::default() })
            .await?;
    assert_eq!(get(&stack).await?.0, 200);
    stack.take_refresher()?.kill().await?;
    assert_eq!(get(&stack).await?.0, 200);
    answered(&stack, 503, Duration::from_secs(10)).await.context("the token expires")?;
    stack.provider().clear();
    assert_eq!(get(&stack).await?.0, 503);
    assert!(stack.provider().requests().is_empty());
    stack.provider().set_token_life(3600);
    stack.start_refresher().await?;
    answered(&stack, 200, Duration::from_secs(2)).await.context("it serves again within 2 s")?;
    assert_eq!(stack.provider().summary().spent_twice, 0);
    Ok(())
}

#[tokio::test]
async fn f04_a_stopped_refresher_holds_no_request_beyond_its_bound() -> Result<()> {
    let provider = Options { token_life: 5, approve_device: true, ..Options::default() };
    let stack =
        Stack::start(Plan { provider, settings: SHORT_LIVED.to_owned(), ..Plan::default() })
            .await?;
    assert_eq!(get(&stack).await?.0, 200);
    stack.refresher()?.signal(Signal::STOP)?;
    let bound = Duration::from_secs(6);
    assert_eq!(tokio::time::timeout(bound, get(&stack)).await??.0, 200);
    let expired = eventually(Duration::from_secs(10), async || {
        let answer = tokio::time::timeout(bound, get(&stack)).await;
        // No answer within the bound ends the wait as well.
        answer.map_or(Some(None), |answer| (answer.ok()?.0 == 503).then_some(Some(())))
    });
    expired.await.flatten().context("a request waited longer than its bound")?;
    stack.refresher()?.signal(Signal::CONT)?;
    answered(&stack, 200, Duration::from_secs(10)).await.context("it serves again")?;
    Ok(())
}

#[tokio::test]
async fn f06_envoy_first_waits_for_the_refresher_and_then_refuses() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_envoy().await?;
    let (status, _, code) = get(&stack).await?;
    assert_eq!((status, code), (503, json!("refresher_unavailable")));
    // A request that is there before the first bundle is served with it.
    let (early, started) = tokio::join!(
        stack.client.get(stack.url("/v1/models")).timeout(Duration::from_secs(5)).send(),
        async {
            let mut command = stack.refresher_command(&["serve"])?;
            tests::Process::start("refresher", stack.dir(), &mut command)
        }
    );
    let _refresher = started?;
    assert_eq!(early?.status(), 200);
    assert!(stack.provider().requests().iter().all(|request| request.jti.is_some()));
    Ok(())
}

#[tokio::test]
async fn a_listener_without_a_gate_hands_the_account_to_nobody() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let filters = bootstrap
        .pointer_mut(
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters",
        )
        .and_then(Value::as_array_mut)
        .context("the HTTP filters")?;
    filters.retain(|filter| filter["name"] != "torchbearer.gate");
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    let request = stack.client.get(stack.url("/v1/models"));
    let answer = request
        .header("x-torchbearer-credential", "default")
        .header("torchbearer.credential", "default")
        .send()
        .await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await?.contains("not_admitted"));
    assert!(stack.provider().requests().is_empty());
    Ok(())
}
