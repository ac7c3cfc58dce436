//! No secret in any log, dump, metric, error or process argument.
//!
//! Every test of this suite ends with that check of its own stack ([`Stack::audit`]); here is what
//! the others do not come across, and that the check can fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::{Canaries, Plan, Process, Stack, eventually};

/// How long a program may take to be there.
const SOON: Duration = Duration::from_secs(10);

const KEY: &str = "canary-client-key-0123456789";
const WRONG: &str = "canary-wrong-key-9876543210";

#[tokio::test]
async fn no_answer_shows_a_secret() -> Result<()> {
    let client_keys = [("alice", KEY), ("bob", WRONG)];
    let plan = Plan { client_keys: vec![("alice", KEY)], ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let mut answers = Vec::new();
    let request = stack.client.get(stack.url("/v1/models")).header("x-proxy-api-key", KEY);
    let mut note = async |request: reqwest::RequestBuilder| -> Result<u16> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        answers.push(format!("{:?}", answer.headers()));
        answers.push(answer.text().await?);
        Ok(status)
    };
    // Served, refused, with a dead token, with a login that has ended.
    let again = || request.try_clone().context("a request without a body");
    assert_eq!(note(again()?).await?, 200);
    let wrong = stack.client.get(stack.url("/v1/models")).bearer_auth(WRONG);
    assert_eq!(note(wrong).await?, 401);
    stack.provider().kill_access_token();
    assert_eq!(note(again()?).await?, 200);
    stack.provider().revoke_all();
    assert_eq!(note(again()?).await?, 503);
    for target in ["/health", "/ready", "//", "/v1/echo"] {
        let request = stack.client.get(stack.url(target)).header("x-proxy-api-key", KEY);
        note(request).await?;
    }
    let secrets = stack.provider().secrets();
    assert!(secrets.len() >= 5, "a device code, and two tokens each of two generations");
    let keys: Vec<_> = client_keys.iter().map(|(_, key)| (*key).to_owned()).collect();
    Canaries::new(&secrets, &keys)?.clear("an answer", answers.join("\n").as_bytes())
}

#[tokio::test]
async fn secrets_are_stored_where_others_cannot_read() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let mode = |path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(mode(stack.state_dir())?, 0o700);
    let canaries = Canaries::new(&stack.provider().secrets(), &[])?;
    let mut grants = 0;
    for entry in fs::read_dir(stack.state_dir().join("grants"))? {
        let path = entry?.path();
        if canaries.find(&fs::read(&path)?).is_some() {
            assert_eq!(mode(path)?, 0o600);
            grants += 1;
        }
    }
    assert_eq!(grants, 1);
    Ok(())
}

#[tokio::test]
async fn a_secret_in_a_log_an_argument_or_a_dump_is_found() -> Result<()> {
    let plan = Plan { client_keys: vec![("alice", KEY)], ..Plan::default() };
    let mut stack = Stack::start(plan).await?;
    stack.audit()?;
    let secret = stack.provider().secrets().pop().context("a secret")?;
    let planted = stack.dir().join("planted.log");
    for shown in [secret.as_str(), KEY] {
        fs::write(&planted, format!("a line\ntoken={shown}\n"))?;
        assert!(stack.audit().is_err());
    }
    fs::remove_file(&planted)?;
    let mut command = Process::command("sleep");
    let process = Process::start("sleep", stack.dir(), command.arg0(&secret).arg("60"))?;
    let shown = eventually(SOON, async || stack.audit().err()).await;
    shown.context("an argument")?;
    process.kill().await?;
    stack.audit()?;

    let bootstrap = stack.bootstrap()?.replacen("\"proxy\"", &format!("\"{KEY}\""), 1);
    stack.take_envoy()?.stop().await?;
    stack.start_envoy_with(&bootstrap).await?;
    let shown = stack.audit().expect_err("the statistics and the dump").to_string();
    assert!(shown.contains("shows a secret"), "{shown}");
    stack.take_envoy()?.stop().await?;
    fs::remove_file(stack.dir().join("bootstrap.json"))?;
    stack.audit()
}
