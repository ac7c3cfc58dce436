//! Logins that are missing, or have ended.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{Stack, eventually, unix_request};

use super::{Call, SOON, known, small};

#[tokio::test]
async fn a_login_that_is_missing_or_has_ended_is_named() -> Result<()> {
    let mut plan = small();
    plan.login = false;
    let mut stack = Stack::prepare(plan).await?;
    // On a machine where nothing has been done yet, a login is what comes first.
    let none = ("token", "fail", "never logged in");
    let idle = [
        none,
        ("socket", "skipped", "no login"),
        ("workers", "skipped", "no refresher"),
        ("request", "skipped", "no Envoy"),
    ];
    let free = tests::free_port()?.to_string();
    let call = Call::new(&stack)?.env("PROXY_PORT", free);
    call.diagnose(&stack).await?.expect(3, &idle)?;

    stack.start_refresher().await?;
    stack.start_envoy().await?;
    known(&stack).await?;
    let token = ("token", "fail", "no login that holds (never_logged_in)");
    let request = ("request", "fail", "a login is required");
    Call::new(&stack)?.diagnose(&stack).await?.expect(3, &[token, request])?;

    // The provider ends the login: the token serves on, but the API does not take it.
    stack.login().await?;
    let ready = eventually(SOON, async || {
        let answer = unix_request(&stack.socket(), "GET", "/health", "").await.ok()?.json();
        answer["credentials"]["default"]["generation"].as_u64()
    });
    let generation = ready.await.context("not ready")?;
    stack.provider().revoke_all();
    let rejection = json!({"credential": "default", "generation": generation, "status": 401});
    // A token that is a moment old is not taken for dead.
    let dead = eventually(SOON, async || {
        let body = rejection.to_string();
        let answer = unix_request(&stack.socket(), "POST", "/v1/rejections", &body).await.ok()?;
        (answer.status == 409).then_some(())
    });
    dead.await.context("the grant does not end")?;
    known(&stack).await?;
    let found = Call::new(&stack)?.diagnose(&stack).await?;
    let token = ("token", "warn", "the login has ended");
    found.expect(if found.code == Some(3) { 3 } else { 1 }, &[token, ("request", "fail", "")])?;

    // Without a refresher the file tells it.
    stack.take_envoy()?.stop().await?;
    stack.take_refresher()?.stop().await?;
    let ended = ("token", "fail", "the provider has ended the login (invalid_grant)");
    let idle = [&[ended], &idle[1..]].concat();
    Call::new(&stack)?.diagnose(&stack).await?.expect(3, &idle)?;

    // One that is no grant is left where it is.
    let grant = stack.state_dir().join("grants/simulated.default.json");
    let mut broken: Value = serde_json::from_slice(&fs::read(&grant)?)?;
    broken["refresh_token"] = json!("");
    fs::write(&grant, broken.to_string())?;
    let idle = [&[("token", "fail", "is not a grant")], &idle[1..]].concat();
    let found = Call::new(&stack)?.diagnose(&stack).await?;
    found.expect(1, &idle)?;
    fs::metadata(&grant).context("it was moved")?;
    Ok(())
}
