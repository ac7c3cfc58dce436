//! The main job, shown: a login, a token injected and rotated, requests and a stream through Envoy.
//!
//! Everything is the shipped software but the provider, which is simulated. Each line says what
//! was done and what it proves. With `--exit` it ends after the last proof; without, it stays up
//! until Ctrl-C. It exits with 0 only if every proof held.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use simulator::{Control, Options, Simulator};
use tempfile::TempDir;
use tests::{Process, envoy_binary, filter_module, free_port, http_client, refresher_binary};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// How long a program may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// The most memory that the refresher may have resident, in KiB.
const REFRESHER_RSS_KIB: u64 = 16 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    let exit = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--exit") => true,
        Some(other) => {
            eprintln!("demo: {other} is not known; accepted is --exit");
            return ExitCode::from(2);
        }
    };
    match run(exit).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(130),
        Err(error) => {
            eprintln!("\ndemo: a proof failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows everything. Returns whether it came to the end before a signal did; either way, what was
/// started has ended.
async fn run(exit: bool) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stopped = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    println!("Torchbearer: a simulated provider, the real refresher, a real Envoy.\n");
    let dir = TempDir::new()?;
    let redirect = free_port()?;
    let simulator = Simulator::start(Options {
        redirect_uris: vec![format!("http://127.0.0.1:{redirect}/callback")],
        ..Options::default()
    })
    .await?;
    let config = configuration(dir.path(), simulator.url(), redirect)?;
    let mut up = None;
    let base = tokio::select! {
        base = show(dir.path(), &config, &simulator, &mut up) => Some(base),
        () = stopped() => None,
    };
    if let (Some(Ok(base)), Some(up), false) = (&base, &mut up, exit) {
        invite(base);
        tokio::select! {
            () = stopped() => println!(),
            status = up.wait(Duration::MAX) => bail!("refresher up ended: {:?}", status?),
        }
    }
    if let Some(up) = up {
        let log = up.log();
        let status = up.stop().await?;
        ensure!(status.success(), "refresher up ended with {status}:\n{}", tail(&log));
    }
    let Some(base) = base else {
        return Ok(false);
    };
    let base = base?;
    let answer = http_client()?.get(&base).send().await;
    ensure!(answer.is_err(), "something still answers on {base}");
    said("end", "refresher and Envoy have ended");
    println!("\nEvery proof held.");
    Ok(true)
}

/// Starts everything and shows each proof. Returns the address that Envoy serves on.
async fn show(
    dir: &Path,
    config: &Path,
    simulator: &Simulator,
    running: &mut Option<Process>,
) -> Result<String> {
    said("provider", &format!("an OAuth server and an API, both strict, at {}", simulator.url()));

    login(dir, config, simulator.control()).await?;

    let mut command = command(config, &["up"])?;
    // Ctrl-C is for this program, which then stops that one.
    command.process_group(0);
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    let up = running.insert(Process::start("up", dir, &mut command)?.quiet());
    let base = up.printed(START, base_url).await.with_context(|| up.log())?;
    said("up", &format!("Envoy serves on {base}, with the refresher beside it"));

    let proofs = Proofs { base: base.clone(), provider: simulator.control() };
    let shown = async {
        proofs.plain().await?;
        proofs.stream().await?;
        proofs.dead_token().await?;
        memory(up)
    };
    shown.await.with_context(|| format!("the end of the log:\n{}", tail(&up.log())))?;
    Ok(base)
}

fn invite(base: &str) {
    println!("\nTry it, or point any OpenAI client at {base}/v1 with any API key:\n");
    println!("  curl {base}/v1/chat/completions -H 'content-type: application/json' \\");
    println!(
        "    -d '{{\"model\": \"grok-4\", \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'\n"
    );
    println!("Ctrl-C ends it and leaves nothing running.");
}

fn said(step: &str, what: &str) {
    println!("{step:>12}  {what}");
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(30).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn configuration(dir: &Path, provider: &str, redirect: u16) -> Result<std::path::PathBuf> {
    let path = dir.join("config.toml");
    let state = toml::Value::from(dir.join("state").display().to_string());
    let config = format!(
        "provider = \"demo\"\nstate_dir = {state}\n\n[providers.demo]\nissuer = \"{provider}\"\n\
         upstream = \"{provider}\"\nredirect_ports = [{redirect}]\n"
    );
    std::fs::write(&path, config)?;
    Ok(path)
}

fn command(config: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Process::command(refresher_binary()?);
    command.arg("--config").arg(config).args(arguments);
    Ok(command)
}

async fn login(dir: &Path, config: &Path, provider: &Control) -> Result<()> {
    let mut command = command(config, &["login", "--device"])?;
    let mut login = Process::start("login", dir, &mut command)?.quiet();
    tokio::time::timeout(
        START,
        provider.wait_until(|provider| provider.pending_device().is_some()),
    )
    .await
    .with_context(|| login.log())?;
    let code = provider.pending_device().context("a user code")?;
    // What a person does at the address that the login shows.
    ensure!(provider.approve_device(code.as_str()), "the code {code} is not known");
    let status = login.wait(START).await?;
    ensure!(status.success(), "the login ended with {status}: {}", login.log());
    said("login", &format!("by device flow: the provider approved {code}, the grant is stored"));
    Ok(())
}

fn base_url(line: &str) -> Option<String> {
    let start = line.find("http://127.0.0.1:")?;
    let url: String = line.chars().skip(start).take_while(|c| !c.is_whitespace()).collect();
    Some(url.trim_end_matches("/v1").trim_end_matches('/').to_owned())
}

struct Proofs<'a> {
    base: String,
    provider: &'a Control,
}

impl Proofs<'_> {
    async fn chat(&self, body: Value) -> Result<reqwest::Response> {
        let client = http_client()?;
        let url = format!("{}/v1/chat/completions", self.base);
        let request = client.post(url).bearer_auth("any-key").header("cookie", "session=secret");
        let answer = request.json(&body).send().await?;
        let status = answer.status();
        if status != 200 {
            bail!("{status}: {}", answer.text().await?);
        }
        Ok(answer)
    }

    async fn plain(&self) -> Result<()> {
        let answer: Value = self.chat(question(false)).await?.json().await?;
        let content = answer.pointer("/choices/0/message/content").and_then(Value::as_str);
        ensure!(content.is_some_and(|content| !content.is_empty()), "no content: {answer}");
        let seen = self.provider.requests().pop().context("the API saw nothing")?;
        ensure!(seen.authorization.len() == 1 && seen.jti.is_some(), "not the account's bearer");
        ensure!(seen.header("cookie").count() == 0, "a cookie reached the API");
        said("request", "a chat completion answers 200; the API saw the account's bearer in place");
        said("", "of the client's Authorization, and no cookie");
        Ok(())
    }

    async fn stream(&self) -> Result<()> {
        let mut answer = self.chat(question(true)).await?;
        let first = answer.chunk().await?.context("no first event")?;
        ensure!(!first.windows(6).any(|bytes| bytes == b"[DONE]"), "the stream came at once");
        let mut events = first.to_vec();
        while let Some(chunk) = answer.chunk().await? {
            events.extend_from_slice(&chunk);
        }
        let events = String::from_utf8(events)?;
        let count = events.matches("data: ").count();
        ensure!(events.trim_end().ends_with("data: [DONE]"), "the stream was cut: {events}");
        said("stream", &format!("{count} events; the first arrived before the last was sent"));
        Ok(())
    }

    async fn dead_token(&self) -> Result<()> {
        let before = self.provider.summary();
        ensure!(self.provider.kill_access_token() > 0, "there was no token to kill");
        self.provider.clear();
        self.chat(question(false)).await?;
        let attempts = self.provider.requests();
        let refused = attempts.iter().filter(|attempt| attempt.refused).count();
        let after = self.provider.summary();
        ensure!(attempts.len() == 2 && refused == 1, "{} attempts", attempts.len());
        ensure!(after.refreshes <= before.refreshes + 1, "more than one refresh");
        ensure!(after.spent_twice == 0, "a refresh token was spent twice");
        said("dead token", "the API refused the token: one refresh, one replay of the POST, 200");
        Ok(())
    }
}

fn question(stream: bool) -> Value {
    json!({
        "model": "grok-4",
        "stream": stream,
        "messages": [{"role": "user", "content": "What is Torchbearer?"}],
        "x_chunks": 5,
        "x_delay_ms": 100,
    })
}

/// What the refresher has resident, where the system tells.
fn memory(up: &Process) -> Result<()> {
    let id = up.id().context("refresher up has ended")?;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else {
        return Ok(());
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let kib = kib.context("no VmRSS")?;
    ensure!(kib < REFRESHER_RSS_KIB, "the refresher has {kib} KiB resident");
    said("memory", &format!("the refresher has {:.1} MiB resident", kib as f64 / 1024.0));
    Ok(())
}
