//! Logins beside a refresher that runs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use simulator::{Fault, Target};
use tests::{Plan, Stack, Stopwatch, eventually};

use super::{SOON, grant};

#[tokio::test]
async fn a_login_is_published_at_once_by_the_refresher_that_runs() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..Plan::default() }).await?;
    let models = stack.url("/v1/models");
    let answer = stack.client.get(&models).send().await?;
    ensure!(answer.status() == 503, "{}", answer.status());
    let error: Value = answer.json().await?;
    ensure!(error["error"]["code"] == "login_required", "{error}");
    ensure!(stack.provider().requests().is_empty());

    stack.login().await?;
    let works = eventually(Duration::from_secs(2), async || {
        let answer = stack.client.get(&models).send().await.ok()?;
        (answer.status() == 200).then_some(())
    });
    works.await.context("the running refresher did not publish the login")?;
    ensure!(stack.provider().summary().refused == 0);

    // The refresher looks for itself each second. A login takes a little more than that, so one
    // that begins right after a look would be found about a second after its end.
    let mut delays = Vec::new();
    for _ in 0..5 {
        stack.login().await?;
        let ended = Stopwatch::start();
        let token = grant(&stack)?.pointer("/token/access_token").cloned().context("no token")?;
        let token = token.as_str().context("no token")?;
        served(&stack, token).await.context("the running refresher did not publish a login")?;
        delays.push(ended.elapsed());
    }
    delays.sort();
    ensure!(delays.get(2).is_some_and(|median| *median < Duration::from_millis(500)), "{delays:?}");
    Ok(())
}

/// Waits until this access token is published.
async fn served(stack: &Stack, token: &str) -> Option<()> {
    eventually(Duration::from_secs(3), async || {
        let bundle = tests::unix_request(&stack.socket(), "GET", "/v1/bundle", "").await.ok()?;
        let published = bundle.json().pointer("/credentials/default/access_token").cloned();
        (published? == token).then_some(())
    })
    .await
}

#[tokio::test]
async fn l09_a_login_during_a_refresh_leaves_the_newer_grant() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let before = grant(&stack)?;
    // The refresh has been decided at the provider, and its answer is on the way.
    let slow = Fault {
        count: Some(1),
        mode: simulator::Mode::After,
        delay_ms: 1_500,
        ..Fault::new(Target::Token)
    };
    stack.provider().set_fault(slow);
    stack.provider().kill_access_token();
    let request = tokio::spawn(stack.client.get(stack.url("/v1/models")).send());
    let refreshing = stack.provider().wait_until(|control| control.summary().refreshes == 1);
    tokio::time::timeout(SOON, refreshing).await.context("no refresh")?;
    stack.login().await?;
    let answer = request.await??;
    ensure!(answer.status() == 200, "{}", answer.text().await?);

    let after = grant(&stack)?;
    ensure!(after["generation"].as_u64() > before["generation"].as_u64(), "{after}");
    let newest = after["token"]["access_token"].as_str().context("no token")?.to_owned();
    served(&stack, &newest).await.context("the newer grant is not served")?;
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    ensure!(stack.provider().summary().spent_twice == 0);
    Ok(())
}
