//! Settings and the command line as users and their programs meet them.

mod commands;
mod exits;

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use simulator::{Fault, Options, Target};
use tests::{Plan, Process, Stack, envoy_binary, eventually, filter_module, own_port};
use tokio::process::Command;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A command with the Envoy and the filter of the tests.
fn command(stack: &Stack, arguments: &[&str]) -> Result<Command> {
    let mut command = stack.refresher_command(arguments)?;
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    Ok(command)
}

/// Runs a command to its end.
async fn output(command: &mut Command) -> Result<Output> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(tokio::time::timeout(LIMIT, running).await.context("it goes on running")??)
}

/// What a command prints that ends with this code, on standard output and on standard error.
async fn ends(command: &mut Command, code: i32) -> Result<(String, String)> {
    let output = output(command).await?;
    let (said, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.code() == Some(code), "{:?}: {}: {said}{errors}", command, output.status);
    Ok((said, errors))
}

#[tokio::test]
async fn the_variables_of_the_predecessors_do_what_they_did() -> Result<()> {
    const KEY: &str = "key-of-the-predecessor";
    let provider = Options { approve_device: true, token_life: 40, ..Options::default() };
    let settings = "[rotation]\nspacing = 1\n[envoy]\nconcurrency = 1\n".to_owned();
    let stack =
        Stack::prepare(Plan { login: false, provider, settings, ..Plan::default() }).await?;

    // HERMES_AUTH_PATH is where `import` looks, and the grant goes where GROK_PROXY_AUTH_STATE says.
    // Both are logins, which have no place among what the stack looks through for secrets.
    let home = tempfile::TempDir::new()?;
    let hermes = home.path().join("hermes.json");
    let grant = stack.provider().issue_grant();
    let endpoint = format!("{}/oauth2/token", stack.provider_url());
    let tokens = serde_json::json!({"version": 1, "providers": {"xai-oauth": {
        "tokens": grant, "discovery": {"token_endpoint": endpoint}, "last_refresh": tests::unix_now(),
    }}});
    std::fs::write(&hermes, tokens.to_string())?;
    let kept = home.path().join("kept");
    std::fs::create_dir(&kept)?;
    let kept = kept.join("auth_state.json");
    let client = Options::default().client_id;
    let mut import = command(&stack, &["import", "--client-id", &client])?;
    import.env("HERMES_AUTH_PATH", &hermes).env("GROK_PROXY_AUTH_STATE", &kept);
    ends(&mut import, 0).await?;
    ensure!(kept.is_file() && !stack.state_dir().join("grants").exists());
    // The other predecessor's variable means the same.
    ends(command(&stack, &["status"])?.env("XAI_PROXY_TOKEN_PATH", &kept), 0).await?;
    ends(&mut command(&stack, &["status"])?, 3).await?;

    // The port is taken: the next that is free.
    let taken = own_port()?;
    let port = taken.local_addr()?.port();
    let mut up = command(&stack, &["up"])?;
    up.env("GROK_PROXY_AUTH_STATE", &kept)
        .env("PROXY_HOST", "127.0.0.1")
        .env("PROXY_PORT", port.to_string())
        .env("PROXY_API_KEY", KEY)
        .env("LOG_LEVEL", "warning")
        .env("HERMES_AUTH_PATH", &hermes)
        .env("HERMES_POLL_INTERVAL", "5")
        .env("TOKEN_REFRESH_WINDOW", "36")
        .env("UPSTREAM_RETRY_ATTEMPTS", "1")
        .env("UPSTREAM_RETRY_DELAY", "0.03");
    let mut up = Process::start("up", stack.dir(), &mut up)?;
    let base = |line: &str| {
        let (_, rest) = line.split_once("listening on http://127.0.0.1:")?;
        rest.split_once("/v1")?.0.parse::<u16>().ok()
    };
    let served = up.printed(LIMIT, base).await.with_context(|| up.log())?;
    ensure!(served > port && served < port + 20, "{served} after {port}");
    let url = format!("http://127.0.0.1:{served}/v1/models");
    let status = async |key: &str| {
        let request = stack.client.get(&url).header("x-proxy-api-key", key);
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    ensure!(status("wrong-key-0123456789").await? == 401 && status(KEY).await? == 200);

    // One further attempt, after the pause that was set.
    stack.provider().clear();
    stack.provider().set_fault(Fault { status: Some(503), ..Fault::new(Target::Api) });
    ensure!(status(KEY).await? == 503);
    ensure!(stack.provider().summary().api_requests == 2, "{:?}", stack.provider().summary());
    stack.provider().clear_faults(None);
    let bootstrap = std::fs::read_to_string(stack.state_dir().join("envoy/bootstrap.json"))?;
    ensure!(bootstrap.contains("\"0.03s\""));

    // 36 seconds before its end is four after its issue; half of its life would be twenty.
    let refreshed = async || (stack.provider().summary().refreshes > 0).then_some(());
    eventually(Duration::from_secs(15), refreshed).await.context("no refresh in time")?;
    ensure!(!up.log().contains(" INFO "), "{}", up.log());
    up.stop().await?;

    // HERMES_POLL_INTERVAL has a bound, as TOKEN_REFRESH_WINDOW has.
    let mut show = command(&stack, &["config", "show", "--json"])?;
    let (shown, _) = ends(show.env("HERMES_POLL_INTERVAL", "5"), 0).await?;
    let shown: Value = serde_json::from_str(&shown)?;
    let shown = shown["settings"].as_array().context("settings")?;
    let poll = shown.iter().find(|shown| shown["setting"] == "import.poll_interval");
    ensure!(poll.is_some_and(|poll| poll["value"] == 5), "{poll:?}");
    let mut check = command(&stack, &["config", "check"])?;
    check.env("HERMES_POLL_INTERVAL", "4").env("TOKEN_REFRESH_WINDOW", "29");
    let (_, errors) = ends(&mut check, 2).await?;
    ensure!(errors.contains("HERMES_POLL_INTERVAL") && errors.contains("TOKEN_REFRESH_WINDOW"));
    Ok(())
}
