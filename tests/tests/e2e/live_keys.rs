//! Client keys that are made, replaced and revoked while requests are on their way.

mod restrictions;
mod times;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{
    Plan, Process, Stack, Stopwatch, envoy_binary, eventually, filter_module, raw_request,
};
use tokio::process::Command;

/// How long a command may take on a busy machine.
const COMMAND: Duration = Duration::from_secs(30);

/// How soon after a command's return its change is in force on every worker.
const SOON: Duration = Duration::from_secs(1);

/// `refresher keys` with these arguments: what it printed on standard output.
async fn keys(stack: &Stack, arguments: &[&str]) -> Result<String> {
    let mut command = stack.refresher_command(&["keys"])?;
    let running = command.args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND, running).await.context("it goes on running")??;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?} ended with {}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn request(key: &str) -> String {
    let key = if key.is_empty() { String::new() } else { format!("x-proxy-api-key: {key}\r\n") };
    format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{key}connection: close\r\n\r\n")
}

/// The status of a request with this key, on a connection of its own.
async fn status(stack: &Stack, key: &str) -> Result<u16> {
    Ok(stack.raw(request(key).as_bytes()).await?.status)
}

/// Whether every one of many requests with this key, each on a connection of its own, is answered
/// so. Each may reach another worker.
async fn always(stack: &Stack, key: &str, wanted: u16) -> Result<()> {
    let send = |_| {
        let (address, request) = (stack.address, request(key));
        tokio::spawn(async move { raw_request(address, request.as_bytes()).await })
    };
    let sent: Vec<_> = (0..40).map(send).collect();
    for one in sent {
        let status = one.await??.status;
        ensure!(status == wanted, "{status} instead of {wanted}");
    }
    Ok(())
}

/// Waits until requests with this key are answered so, whichever worker they reach.
async fn answered(stack: &Stack, key: &str, wanted: u16, limit: Duration) -> Option<()> {
    eventually(limit, async || always(stack, key, wanted).await.ok()).await
}

/// When each request was sent, and its answer's status.
type Seen = Vec<(Duration, u16)>;

/// Requests with one key on several kept connections, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<Seen>>>,
}

impl Load {
    fn start(stack: &Stack, key: &str, connections: usize, since: Stopwatch) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |_| {
            let (url, key, stop) = (stack.url("/v1/models"), key.to_owned(), stop.clone());
            tokio::spawn(async move {
                // A client of its own is a connection of its own.
                let client = tests::http_client()?;
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let sent = since.elapsed();
                    let answer = client.get(&url).bearer_auth(&key).send().await?;
                    seen.push((sent, answer.status().as_u16()));
                    answer.bytes().await?;
                }
                Ok(seen)
            })
        };
        let tasks = (0..connections).map(run).collect();
        Self { stop, tasks }
    }

    async fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.extend(task.await??);
        }
        Ok(seen)
    }
}

#[tokio::test]
async fn k06_a_key_works_from_the_commands_return_and_so_do_both_during_a_rotation() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    ensure!(status(&stack, "").await? == 200, "without keys, loopback is served");
    let first = keys(&stack, &["add", "alice"]).await?;
    answered(&stack, &first, 200, COMMAND).await.context("the key is not taken")?;
    answered(&stack, "", 401, COMMAND).await.context("no key is taken as well")?;
    always(&stack, &first, 200).await?;
    always(&stack, "", 401).await?;

    let second = keys(&stack, &["rotate", "alice", "--overlap", "10m"]).await?;
    ensure!(first != second);
    answered(&stack, &second, 200, COMMAND).await.context("the new key is not taken")?;
    for key in [&first, &second] {
        always(&stack, key, 200).await.context("the overlap")?;
    }
    let third = keys(&stack, &["rotate", "alice", "--overlap", "0"]).await?;
    answered(&stack, &third, 200, COMMAND).await.context("the newest key is not taken")?;
    for key in [&first, &second] {
        always(&stack, key, 401).await.context("no overlap")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k06_a_key_is_revoked_under_load_and_the_others_do_not_notice() -> Result<()> {
    let stack = Stack::start(Plan { workers: 2, ..Plan::default() }).await?;
    let alice = keys(&stack, &["add", "alice"]).await?;
    let bob = keys(&stack, &["add", "bob"]).await?;
    for key in [&alice, &bob] {
        answered(&stack, key, 200, COMMAND).await.context("the key is not taken")?;
    }
    let since = Stopwatch::start();
    let kept = Load::start(&stack, &alice, 4, since);
    let ended = Load::start(&stack, &bob, 4, since);
    // Changes of every kind, one of which ends bob.
    keys(&stack, &["add", "carol"]).await?;
    keys(&stack, &["rotate", "carol"]).await?;
    let asked = since.elapsed();
    keys(&stack, &["revoke", "bob"]).await?;
    let returned = since.elapsed();
    keys(&stack, &["revoke", "carol"]).await?;
    let until = returned + SOON * 3;
    eventually(SOON * 30, async || (since.elapsed() > until).then_some(())).await;
    let (kept, ended) = (kept.finish().await?, ended.finish().await?);

    let refused: Vec<_> = kept.iter().filter(|(_, status)| *status != 200).collect();
    ensure!(refused.is_empty(), "of {} requests of alice: {refused:?}", kept.len());
    ensure!(kept.len() > 50, "too little load: {}", kept.len());
    let early = ended.iter().find(|(sent, status)| *sent < asked && *status != 200);
    ensure!(early.is_none(), "bob was refused at {early:?}, before {asked:?}");
    let late = ended.iter().find(|(sent, status)| *sent > returned + SOON && *status != 401);
    ensure!(late.is_none(), "bob was served at {late:?}, a second after {returned:?}");
    ensure!(ended.iter().any(|(sent, _)| *sent > returned + SOON), "no request after that");
    ensure!(ended.iter().all(|(_, status)| [200, 401].contains(status)));
    Ok(())
}

#[tokio::test]
async fn the_last_key_revoked_leaves_the_gate_closed_and_keys_survive_a_restart() -> Result<()> {
    let mut stack = Stack::start(Plan::default()).await?;
    let alice = keys(&stack, &["add", "alice"]).await?;
    answered(&stack, &alice, 200, COMMAND).await.context("the key is not taken")?;
    stack.take_refresher()?.stop().await?;
    stack.start_refresher().await?;
    always(&stack, &alice, 200).await?;

    // While none serves, a change waits for the start.
    stack.take_refresher()?.stop().await?;
    let bob = keys(&stack, &["add", "bob"]).await?;
    ensure!(status(&stack, &bob).await? == 401);
    stack.start_refresher().await?;
    answered(&stack, &bob, 200, COMMAND).await.context("the key is not taken at the start")?;

    keys(&stack, &["revoke", "alice"]).await?;
    keys(&stack, &["revoke", "bob"]).await?;
    answered(&stack, &bob, 401, COMMAND).await.context("the key still works")?;
    stack.provider().clear();
    for key in ["", &alice, &bob] {
        always(&stack, key, 401).await?;
    }
    stack.take_refresher()?.stop().await?;
    stack.take_envoy()?.stop().await?;
    stack.start_refresher().await?;
    stack.start_envoy().await?;
    answered(&stack, "", 401, COMMAND).await.context("a restart opens the gate")?;
    always(&stack, "", 401).await?;
    ensure!(stack.provider().requests().is_empty());
    Ok(())
}

/// `refresher up` beyond loopback.
fn open_up(stack: &Stack) -> Result<Command> {
    let mut command = stack.refresher_command(&["up", "--port", "0"])?;
    command.env("PROXY_HOST", "0.0.0.0").env("ENVOY_BIN", envoy_binary()?);
    command.env("TORCHBEARER_FILTER", filter_module()?);
    Ok(command)
}

#[tokio::test]
async fn k09_an_open_listener_is_content_with_a_key_that_was_made_by_command() -> Result<()> {
    let settings = "[envoy]\nconcurrency = 1\n".to_owned();
    let mut stack = Stack::prepare(Plan { settings, ..Plan::default() }).await?;
    stack.login().await?;
    let mut refused = Process::start("refused", stack.dir(), &mut open_up(&stack)?)?;
    ensure!(refused.wait(COMMAND).await?.code() == Some(2), "{}", refused.log());
    ensure!(refused.log().contains("refresher keys add NAME"), "{}", refused.log());

    let mut add = stack.refresher_command(&["keys", "add", "alice"])?;
    let output = add.env("PROXY_HOST", "0.0.0.0").output().await?;
    ensure!(output.status.success(), "{output:?}");
    let alice = String::from_utf8(output.stdout)?.trim_end().to_owned();
    let mut command = open_up(&stack)?;
    // The environment's key is one of a client named default besides.
    command.env("PROXY_API_KEY", "key-in-the-environment");
    let mut up = Process::start("up", stack.dir(), &mut command)?;
    let port =
        |line: &str| ensure_keys(line)?.rsplit_once(':')?.1.split('/').next()?.parse::<u16>().ok();
    let port = up.printed(Duration::from_secs(60), port).await.with_context(|| up.log())?;
    stack.address = ([127, 0, 0, 1], port).into();
    for (key, wanted) in [
        (alice.as_str(), 200),
        ("key-in-the-environment", 200),
        ("another-key-of-nobody", 401),
        ("", 401),
    ] {
        ensure!(status(&stack, key).await? == wanted, "{key}");
    }
    keys(&stack, &["revoke", "alice"]).await?;
    answered(&stack, &alice, 401, COMMAND).await.context("the key still works")?;
    ensure!(status(&stack, "key-in-the-environment").await? == 200);
    up.stop().await?;
    Ok(())
}

/// The address in the line that `up` prints, if it counts both keys.
fn ensure_keys(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("listening on http://")?;
    line.ends_with("(2 client keys)").then(|| rest.split_once("/v1")).flatten().map(|it| it.0)
}
