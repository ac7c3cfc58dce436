//! What `status` tells.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Stack, eventually, unix_request};

use super::{END, finished, machine};

/// `refresher status`, plain and as JSON, ends with this code and shows no secret.
async fn report(stack: &Stack, code: i32, secrets: &[String]) -> Result<(String, Value)> {
    let mut texts = Vec::new();
    for arguments in [&["status"][..], &["status", "--json"]] {
        let output = finished(&mut stack.refresher_command(arguments)?).await?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code), "{}: {text}{errors}", output.status);
        let clean = secrets.iter().all(|it| !text.contains(it) && !errors.contains(it));
        ensure!(clean, "a secret: {text}{errors}");
        texts.push(text);
    }
    let json = serde_json::from_str(&texts.pop().unwrap_or_default())?;
    Ok((texts.pop().unwrap_or_default(), json))
}

#[tokio::test]
async fn status_tells_the_login_and_the_refresher_but_no_secret() -> Result<()> {
    let mut stack = machine(false, "").await?;
    let (text, json) = report(&stack, 3, &[]).await?;
    ensure!(text.contains("login_required") && text.contains("not serving"), "{text}");
    ensure!(json["credentials"][0]["state"] == "login_required", "{json}");
    ensure!(json["credentials"][0]["reason"] == "never_logged_in", "{json}");

    stack.login().await?;
    let grant = fs::read_to_string(stack.state_dir().join("grants/simulated.default.json"))?;
    let grant: Value = serde_json::from_str(&grant)?;
    let secret = |path: &str| grant.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let secrets = [secret("/refresh_token"), secret("/token/access_token")];
    let secrets: Option<Vec<_>> = secrets.into_iter().collect();
    let secrets = secrets.context("no tokens in the grant")?;
    let (text, json) = report(&stack, 0, &secrets).await?;
    ensure!(text.contains("logged_in") && text.contains("expires in"), "{text}");
    ensure!(json["serving"] == false && json["provider"] == "simulated", "{json}");
    ensure!(json["credentials"][0]["state"] == "logged_in", "{json}");
    ensure!(json["credentials"][0]["expires_at"] == grant["token"]["expires_at"], "{json}");

    stack.start_refresher().await?;
    let ready = eventually(END, async || {
        let answer = unix_request(&stack.socket(), "GET", "/ready", "").await.ok()?;
        (answer.status == 200).then_some(())
    });
    ready.await.context("the refresher is not ready")?;
    let (text, json) = report(&stack, 0, &secrets).await?;
    ensure!(text.contains("ready") && !text.contains("not serving"), "{text}");
    ensure!(json["serving"] == true && json["credentials"][0]["state"] == "ready", "{json}");
    Ok(())
}
