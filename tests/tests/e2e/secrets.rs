//! No secret in any log, dump, metric, error or process argument.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{Plan, Stack, unix_request};

const KEY: &str = "canary-client-key-0123456789";

#[tokio::test]
async fn no_secret_is_shown_anywhere() -> Result<()> {
    let client_keys = vec![("alice", KEY)];
    let stack = Stack::start(Plan { client_keys, envoy_log: "trace", ..Plan::default() }).await?;
    let mut secrets = vec![KEY.to_owned()];
    secrets.extend(stored_secrets(&stack.state_dir())?);

    // Traffic of every kind: served, refused, with a dead token, without a login.
    let request = stack.client.get(stack.url("/v1/models")).header("x-proxy-api-key", KEY);
    let mut answers = Vec::new();
    for refused in [false, true] {
        if refused {
            stack.provider().kill_access_token();
        }
        let request = request.try_clone().context("a request")?;
        answers.push(request.send().await?.text().await?);
    }
    secrets.extend(stored_secrets(&stack.state_dir())?);
    let wrong = stack.client.get(stack.url("/v1/models")).bearer_auth("canary-wrong-key");
    answers.push(wrong.send().await?.text().await?);
    stack.provider().revoke_all();
    answers.push(request.send().await?.text().await?);
    secrets.push("canary-wrong-key".to_owned());
    assert!(secrets.len() >= 6, "access and refresh tokens of two generations");

    let mut shown = vec![
        ("answers".to_owned(), answers.join("\n")),
        ("refresher's log".to_owned(), stack.refresher()?.log()),
    ];
    for target in ["/config_dump", "/stats", "/stats/prometheus", "/clusters", "/certs"] {
        shown.push((target.to_owned(), stack.admin(target).await?.body));
    }
    for target in ["/health", "/ready"] {
        let answer = unix_request(&stack.socket(), "GET", target, "").await?;
        shown.push((target.to_owned(), answer.body));
    }
    for process in [stack.refresher()?, stack.envoy()?] {
        let id = process.id().context("a running process")?;
        let line = fs::read(format!("/proc/{id}/cmdline"))?;
        shown.push((format!("/proc/{id}/cmdline"), String::from_utf8_lossy(&line).into_owned()));
    }
    // Envoy's own trace log prints header values, so of it the filter's lines count.
    let log = stack.envoy()?.log();
    let ours: Vec<_> = log.lines().filter(|line| line.contains("torchbearer:")).collect();
    assert!(!ours.is_empty(), "the filter logs at this level");
    shown.push(("the filter's log".to_owned(), ours.join("\n")));
    for (place, text) in &shown {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "a secret in {place}");
            let beginning: String = secret.chars().skip(8).take(12).collect();
            assert!(!text.contains(&beginning), "a part of a secret in {place}");
        }
    }
    Ok(())
}

/// Access and refresh tokens of the grant files, which must be closed to others.
fn stored_secrets(state: &Path) -> Result<Vec<String>> {
    let mut secrets = Vec::new();
    let folder = state.join("grants");
    assert_eq!(fs::metadata(state)?.permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        let grant: Value = serde_json::from_slice(&fs::read(&path)?)?;
        for pointer in ["/token/access_token", "/refresh_token"] {
            let secret = grant.pointer(pointer).and_then(Value::as_str);
            secrets.push(secret.context("a token")?.to_owned());
        }
    }
    Ok(secrets)
}
