//! The fields of `/health`, and the predecessors' series, by name and meaning.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use simulator::{Fault, Target};
use tests::{Plan, Stack, eventually, unix_now};

use super::{SOON, asked, series, serves};

/// The names of an object's members.
fn names(object: &Value) -> Vec<&str> {
    object.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn number(object: &Value, name: &str) -> Result<u64> {
    object[name].as_u64().with_context(|| format!("{name}: {object}"))
}

/// Waits until this many refreshes have succeeded and failed; gives what `/health` says then.
async fn refreshed(stack: &Stack, successes: u64, failures: u64) -> Result<Value> {
    let reached = eventually(SOON, async || {
        let (_, health) = asked(stack, "/health").await.ok()?;
        let refresh = &health["oauth_refresh"];
        (refresh["refresh_success_count"] == successes
            && refresh["refresh_failure_count"].as_u64()? >= failures)
            .then_some(health)
    });
    reached.await.context("the refreshes are not counted")
}

/// The default credential's series of the predecessors, in the order in which they are listed.
async fn predecessors(stack: &Stack) -> Result<Vec<f64>> {
    let metrics = series(stack).await?;
    let value = |name: &&str| metrics.value(name, &[]).with_context(|| (*name).to_owned());
    [
        "proxy_token_expires_at",
        "proxy_token_seconds_to_expiry",
        "proxy_oauth_refresh_success_total",
        "proxy_oauth_refresh_failure_total",
        "proxy_oauth_refresh_token_rotated",
        "proxy_oauth_reauth_required",
        "proxy_oauth_401_refresh_attempts_total",
        "proxy_oauth_401_refresh_successes_total",
        "proxy_oauth_401_refresh_failures_total",
    ]
    .iter()
    .map(value)
    .collect()
}

#[tokio::test]
async fn every_field_and_series_of_the_predecessors_means_what_it_says() -> Result<()> {
    let stack = Stack::start(Plan { workers: 1, ..Plan::default() }).await?;
    serves(&stack).await?;
    let begin = unix_now();
    let (status, health) = asked(&stack, "/health").await?;
    ensure!(status == 200 && health["status"] == "ok", "{health}");
    for field in [
        "status",
        "provider",
        "api_base",
        "token_expires_at",
        "token_seconds_to_expiry",
        "token_endpoint",
        "oauth_refresh",
    ] {
        ensure!(names(&health).contains(&field), "{field}: {health}");
    }
    ensure!(health["provider"] == "simulated" && health["api_base"] == stack.provider_url());
    let endpoint = health["token_endpoint"].as_str().context("token_endpoint")?;
    ensure!(endpoint.starts_with(stack.provider_url()), "{endpoint}");
    let expires_at = number(&health, "token_expires_at")?;
    ensure!(expires_at.abs_diff(begin + 21_600) < 60, "{health}");
    let left = number(&health, "token_seconds_to_expiry")?;
    ensure!((expires_at - begin).abs_diff(left) <= 10, "{health}");
    let fresh = json!({
        "last_refresh_at": null, "last_refresh_status": null, "last_refresh_error_class": null,
        "refresh_token_rotated": false, "refresh_success_count": 0, "refresh_failure_count": 0,
    });
    assert_eq!(health["oauth_refresh"], fresh);
    let credential = &health["credentials"]["default"];
    ensure!(credential["state"] == "ready" && credential["expires_at"] == expires_at, "{health}");
    let (issued_at, next) =
        (number(credential, "issued_at")?, number(credential, "next_refresh_at")?);
    ensure!(issued_at.abs_diff(begin) < 60, "{health}");
    // At half of its life, give or take a tenth of that.
    ensure!((issued_at + 9_700..=issued_at + 11_900).contains(&next), "{health}");
    let generation = number(credential, "generation")?;
    ensure!(number(&health, "generation")? >= generation, "{health}");
    let shown = predecessors(&stack).await?;
    ensure!(shown[0] == expires_at as f64 && (shown[1] - left as f64).abs() <= 10.0, "{shown:?}");
    assert_eq!(shown[2..], [0.0; 7]);

    // The API refuses the token, and the provider gives another.
    stack.provider().kill_access_token();
    serves(&stack).await?;
    let health = refreshed(&stack, 1, 0).await?;
    let refresh = &health["oauth_refresh"];
    ensure!(number(refresh, "last_refresh_at")?.abs_diff(unix_now()) < 60, "{health}");
    ensure!(refresh["last_refresh_status"] == "success", "{health}");
    ensure!(refresh["last_refresh_error_class"].is_null(), "{health}");
    ensure!(refresh["refresh_token_rotated"] == true, "{health}");
    ensure!(number(&health["credentials"]["default"], "generation")? > generation, "{health}");
    assert_eq!(predecessors(&stack).await?[2..], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);

    // The API refuses that one too, and the provider is down.
    let fault = Fault { status: Some(500), ..Fault::new(Target::Token) };
    stack.provider().set_fault(fault);
    stack.provider().kill_access_token();
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    ensure!(answer.status() == 503, "{}", answer.status());
    let health = refreshed(&stack, 1, 1).await?;
    let refresh = &health["oauth_refresh"];
    ensure!(refresh["last_refresh_status"] == "failure", "{health}");
    ensure!(refresh["last_refresh_error_class"] == "http_500", "{health}");
    let shown = predecessors(&stack).await?;
    ensure!(shown[2] == 1.0 && shown[3] >= 1.0, "{shown:?}");
    assert_eq!(shown[5..], [0.0, 2.0, 1.0, 1.0]);

    // And then it says that the login has ended.
    stack.provider().clear_faults(None);
    stack.provider().revoke_all();
    let dead = eventually(SOON, async || {
        let (_, health) = asked(&stack, "/health").await.ok()?;
        (health["oauth_reauth_required"] == true).then_some(health)
    });
    dead.await.context("a login is not required")?;
    assert_eq!(predecessors(&stack).await?[5], 1.0);
    Ok(())
}

#[tokio::test]
async fn the_preset_xai_is_known_by_the_predecessors_name_and_by_its_own() -> Result<()> {
    let mut stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let state = toml::Value::from(stack.state_dir().display().to_string());
    let config = format!("provider = \"xai\"\nstate_dir = {state}\n");
    fs::write(stack.dir().join("config.toml"), config)?;
    stack.start_refresher().await?;
    let (_, health) = asked(&stack, "/health").await?;
    ensure!(health["provider"] == "xai-oauth" && health["provider_setting"] == "xai", "{health}");
    ensure!(health["api_base"] == "https://api.x.ai", "{health}");
    let output = stack.refresher_command(&["status", "--json"])?.output().await?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(status["provider"] == "xai" && status["serving"] == true, "{status}");
    Ok(())
}
