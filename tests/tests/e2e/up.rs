//! `refresher up` as a user starts it: what it refuses, what it serves, how it ends. And `status`.

mod kills;
mod lifetime;
mod logs;
mod provider;
mod refusals;
mod reload;
mod status;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{RequestBuilder, StatusCode};
use tests::{Plan, Process, Stack, envoy_binary, filter_module};
use tokio::process::Command;

/// How long `up` may take until it serves, with an Envoy that compiles the filter.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end.
const END: Duration = Duration::from_secs(15);

/// A provider, and a login if asked for.
pub(crate) async fn machine(login: bool, settings: &str) -> Result<Stack> {
    let plan = Plan { login, settings: settings.to_owned(), ..Plan::default() };
    let stack = Stack::prepare(plan).await?;
    if login {
        stack.login().await?;
    }
    Ok(stack)
}

/// One worker each, since every test here has an Envoy of its own.
pub(crate) const SMALL: &str = "[envoy]\nconcurrency = 1\n";

/// `refresher up` with the real Envoy and filter, on a port that the kernel chooses unless said.
fn up_command(stack: &Stack, arguments: &[&str]) -> Result<Command> {
    let mut command = stack.refresher_command(&["up", "--port", "0"])?;
    if arguments.contains(&"--port") {
        command = stack.refresher_command(&["up"])?;
    }
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    command.args(arguments);
    Ok(command)
}

/// A chat whose answer is a stream of so many events, with a pause before each.
fn chat(chunks: u32, delay_ms: u32) -> serde_json::Value {
    let messages = [serde_json::json!({"role": "user", "content": "Hello"})];
    serde_json::json!({"model": "grok-4", "stream": true, "messages": messages,
        "x_chunks": chunks, "x_delay_ms": delay_ms})
}

/// Runs a command to its end.
async fn finished(command: &mut Command) -> Result<Output> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(tokio::time::timeout(END, running).await.context("it goes on running")??)
}

/// The lines on standard error of a command that ends with this code, and prints nothing else.
async fn refused(command: &mut Command, code: i32) -> Result<Vec<String>> {
    let output = finished(command).await?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(code), "{} instead of {code}: {errors}", output.status);
    let said = String::from_utf8(output.stdout)?;
    ensure!(said.is_empty(), "{said}");
    Ok(errors.lines().map(str::to_owned).collect())
}

/// A `refresher up` that serves.
pub(crate) struct Up {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Up {
    pub(crate) async fn start(stack: &Stack, command: &mut Command) -> Result<Self> {
        Self::start_as("up", stack, command).await
    }

    /// The same with a log of its own, where it is not the first.
    async fn start_as(name: &str, stack: &Stack, command: &mut Command) -> Result<Self> {
        let mut process = Process::start(name, stack.dir(), command.env("LOG_LEVEL", "trace"))?;
        let base = |line: &str| {
            let (_, rest) = line.split_once("listening on http://")?;
            rest.split_once("/v1")?.0.parse().ok()
        };
        let address = process.printed(START, base).await;
        let address = address.with_context(|| process.log())?;
        Ok(Self { process, address })
    }

    pub(crate) fn get(&self, stack: &Stack, path: &str) -> RequestBuilder {
        let request = stack.client.get(format!("http://127.0.0.1:{}{path}", self.address.port()));
        request.timeout(Duration::from_secs(10))
    }

    async fn status(&self, stack: &Stack) -> Result<StatusCode> {
        Ok(self.get(stack, "/v1/models").send().await?.status())
    }

    /// Its Envoy's process id.
    fn envoy(&self) -> Option<i32> {
        let parent = i32::try_from(self.process.id()?).ok()?;
        processes().into_iter().find(|it| it.parent == parent && it.is("envoy")).map(|it| it.id)
    }
}

/// A process of this machine.
struct Running {
    id: i32,
    parent: i32,
    name: String,
}

impl Running {
    fn is(&self, name: &str) -> bool {
        self.name.starts_with(name)
    }
}

/// What the kernel says of every process, except those that have ended (proc_pid_stat(5)).
fn processes() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| running(&entry.path())).collect()
}

fn running(process: &Path) -> Option<Running> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (start, rest) = stat.rsplit_once(") ")?;
    let (id, name) = start.split_once(" (")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let alive = !matches!(state, "Z" | "X");
    alive.then_some(Running { id: id.parse().ok()?, parent, name: name.to_owned() })
}

fn lives(id: i32) -> bool {
    running(&PathBuf::from(format!("/proc/{id}"))).is_some()
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}
