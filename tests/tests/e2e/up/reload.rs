//! A changed configuration, put in force while everything runs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use serde_json::Value;
use tests::{Process, Stack, eventually, filter_module, http_client, unix_request};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::{SMALL, Up, chat, machine, processes, up_command};

const SOON: Duration = Duration::from_secs(60);

/// What the load shows once a key is wanted, and before.
const KEY: &str = "key-of-alice-0123456789";

/// Changes the refresher's configuration, as an editor does: by a new file under the old name.
fn configure(stack: &Stack, change: impl FnOnce(String) -> String) -> Result<()> {
    let (file, draft) = (stack.dir().join("config.toml"), stack.dir().join("config.toml.new"));
    fs::write(&draft, change(fs::read_to_string(&file)?))?;
    Ok(fs::rename(draft, file)?)
}

async fn health(stack: &Stack) -> Result<Value> {
    Ok(unix_request(&stack.socket(), "GET", "/health", "").await?.json())
}

/// Waits until `/health` has an alarm about the configuration that says this, or has none.
async fn alarm(stack: &Stack, says: Option<&str>) -> Result<Value> {
    let reached = eventually(SOON, async || {
        let health = health(stack).await.ok()?;
        let alarm = health["config_alarm"].as_str();
        let status = if alarm.is_some() { "degraded" } else { "ok" };
        let said = match says {
            Some(says) => alarm?.contains(says),
            None => alarm.is_none(),
        };
        (said && health["status"] == status).then_some(health)
    });
    reached.await.with_context(|| format!("no alarm with {says:?}"))
}

/// Clients that ask one after the other, on connections that they keep, and all have to get 200.
struct Load {
    served: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(up: &Up) -> Result<Self> {
        let (served, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let url = format!("http://{}/v1/echo", up.address);
        let client = |number: usize| {
            let (client, url) = (http_client()?, url.clone());
            let (served, ends) = (served.clone(), ends.clone());
            Ok(tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let request = match number % 2 {
                        0 => client.get(&url),
                        _ => client.post(&url).body("hello"),
                    };
                    let request = request.header("x-proxy-api-key", KEY).header("x-note", "n");
                    let answer = request.send().await?;
                    let (status, body) = (answer.status(), answer.text().await?);
                    ensure!(status == 200, "{status}: {body}");
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }))
        };
        let clients = (0..4).map(client).collect::<Result<_>>()?;
        Ok(Self { served, ends, clients })
    }

    async fn more(&self) -> Result<()> {
        let goal = self.served.load(Ordering::Relaxed) + 50;
        let reached = eventually(SOON, async || {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            (failed || self.served.load(Ordering::Relaxed) >= goal).then_some(())
        });
        reached.await.context("requests are served")
    }

    async fn end(self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?.context("a request failed")?;
        }
        Ok(())
    }
}

/// Reads a stream to its end; answers the number of its events.
async fn whole(up: &Up, delay_ms: u32) -> Result<JoinHandle<Result<usize>>> {
    let url = format!("http://{}/v1/chat/completions", up.address);
    let request = http_client()?.post(url).json(&chat(20, delay_ms));
    let mut answer = request.header("x-proxy-api-key", KEY).send().await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    Ok(tokio::spawn(async move {
        let mut text = String::new();
        while let Some(chunk) = answer.chunk().await? {
            text.push_str(std::str::from_utf8(&chunk)?);
        }
        ensure!(text.trim_end().ends_with("data: [DONE]"), "cut off: {text}");
        Ok(text.matches("data: ").count())
    }))
}

/// The status of a request without a key, on a connection of its own.
async fn without_key(up: &Up) -> Option<u16> {
    let url = format!("http://{}/v1/echo", up.address);
    Some(http_client().ok()?.get(url).send().await.ok()?.status().as_u16())
}

/// How many Envoys `up` has.
fn envoys(up: &Up) -> usize {
    let parent = up.process.id().and_then(|id| i32::try_from(id).ok());
    processes().iter().filter(|it| Some(it.parent) == parent && it.is("envoy")).count()
}

/// Without a controlling terminal, as under a service manager.
fn detached(command: &Command) -> Command {
    let command = command.as_std();
    let mut detached = Process::command("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            detached.env(name, value);
        }
    }
    detached
}

#[tokio::test]
async fn a_reload_cuts_no_stream_fails_no_request_and_is_all_or_nothing() -> Result<()> {
    let settings = format!("{SMALL}reload_timeout = 45\n[websocket]\npaths = [\"/v1/realtime\"]\n");
    let stack = machine(true, &settings).await?;
    let module = stack.dir().join("filter.wasm");
    fs::copy(filter_module()?, &module)?;
    let mut command = up_command(&stack, &[])?;
    let up = Up::start(&stack, command.env("TORCHBEARER_FILTER", &module)).await?;
    let envoy = up.envoy().context("no Envoy runs")?;
    let load = Load::start(&up)?;
    load.more().await?;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(whole(&up, 700).await?);
    }
    let url = format!("ws://{}/v1/realtime?model=grok-4", up.address);
    let (mut socket, _) = tokio_tungstenite::client_async(
        url.as_str(),
        tokio::net::TcpStream::connect(up.address).await?,
    )
    .await?;
    let grant = health(&stack).await?["credentials"]["default"]["generation"].clone();

    // What is not accepted changes nothing, and says what would be.
    configure(&stack, |text| text.replace("concurrency = 1", "concurrency = \"one\""))?;
    let said = alarm(&stack, Some("a number from 1 to 1024")).await?;
    ensure!(said["credentials"]["default"]["state"] == "ready", "{said}");
    ensure!(up.envoy() == Some(envoy) && without_key(&up).await == Some(200));
    // Mended, and with it come settings that Envoy sees and settings that it does not.
    let digest = ClientKey::of_key("alice".parse()?, KEY.as_bytes());
    let digest = serde_json::to_value(&digest)?["sha256"].as_str().map(str::to_owned);
    let digest = digest.context("a digest")?;
    configure(&stack, |text| {
        let text = text.replace("concurrency = \"one\"", "concurrency = 1");
        format!("{text}\n[headers]\nstrip = [\"x-note\"]\n[client_keys]\nalice = \"{digest}\"\n")
    })?;
    alarm(&stack, None).await?;
    let wanted = eventually(SOON, async || (without_key(&up).await? == 401).then_some(()));
    wanted.await.context("no key is wanted")?;
    ensure!(up.envoy().is_some_and(|id| id != envoy) || envoys(&up) == 2, "the same Envoy");
    load.more().await?;
    stack.provider().clear();
    load.more().await?;
    let stripped = stack.provider().requests();
    let echoes = stripped.iter().filter(|it| it.path == "/v1/echo");
    ensure!(echoes.clone().count() > 0);
    let notes = echoes.filter(|it| it.header("x-note").next().is_some());
    ensure!(notes.count() == 0, "x-note is not stripped");

    // What Envoy refuses changes nothing either.
    let streams_end = async |streams: Vec<JoinHandle<Result<usize>>>| {
        for stream in streams {
            let events = stream.await??;
            ensure!(events == 23, "{events} events");
        }
        anyhow::Ok(())
    };
    streams_end(streams).await.context("a stream across the reload")?;
    socket.send(Message::text("still there")).await?;
    let echo = tokio::time::timeout(SOON, socket.next()).await?.context("an echo")??;
    ensure!(echo == Message::text("still there"), "{echo}");
    // Another change has to wait for the WebSocket, which is said, and then comes by itself.
    configure(&stack, |text| text.replace("[\"x-note\"]", "[\"x-other\"]"))?;
    alarm(&stack, Some("requests have ended")).await?;
    socket.close(None).await?;
    alarm(&stack, None).await?;
    load.more().await?;
    stack.provider().clear();
    load.more().await?;
    let requests = stack.provider().requests();
    ensure!(requests.iter().any(|it| it.header("x-note").next().is_some()));
    let alone = eventually(SOON, async || (envoys(&up) == 1).then_some(())).await;
    alone.context("an Envoy that was replaced goes on")?;

    let serving = up.envoy();
    fs::write(&module, "no module")?;
    // With something in it that the sidecar alone could put in force.
    let bob = format!("bob = \"{}\"\n", "b".repeat(64));
    configure(&stack, |text| text.replace("alice = ", &format!("{bob}alice = ")))?;
    alarm(&stack, Some("envoy does not start with the new configuration")).await?;
    let published = async || {
        let bundle = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?;
        anyhow::Ok(bundle.json()["client_keys"].to_string())
    };
    let keys = published().await?;
    ensure!(keys.contains("alice") && !keys.contains("bob"), "half of it is in force: {keys}");
    load.more().await?;
    ensure!(up.envoy() == serving && envoys(&up) == 1 && without_key(&up).await == Some(401));
    fs::copy(filter_module()?, &module)?;
    let mended = alarm(&stack, None).await?;
    ensure!(published().await?.contains("bob"));
    load.more().await?;
    load.end().await?;
    ensure!(mended["credentials"]["default"]["generation"] == grant, "{mended}");
    ensure!(up.process.stop().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_the_sidecar_keeps_the_token_and_the_polls() -> Result<()> {
    let stack = machine(true, "[rotation]\nspacing = 1\n").await?;
    let manager = UnixDatagram::bind(stack.dir().join("notify.sock"))?;
    manager.set_read_timeout(Some(SOON))?;
    let heard = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = manager.recv(&mut buffer).with_context(|| format!("no {wanted}"))?;
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if text.contains(wanted) {
                return anyhow::Ok(());
            }
        }
    };
    let mut command = detached(&stack.refresher_command(&["serve"])?);
    command.env("NOTIFY_SOCKET", stack.dir().join("notify.sock"));
    let mut serve = Process::start("serve", stack.dir(), &mut command)?;
    tokio::task::block_in_place(|| heard("READY=1"))?;
    let bundle = async |generation: u64| {
        let target = format!("/v1/bundle?generation={generation}&wait=50");
        anyhow::Ok(unix_request(&stack.socket(), "GET", &target, "").await?.json())
    };
    let first = bundle(0).await?;
    let token = first["credentials"]["default"]["generation"].clone();
    let generation = first["generation"].as_u64().context("a generation")?;

    // A poll that is open learns of a key that comes by a reload; the token is the same.
    let digest = "a".repeat(64);
    configure(&stack, |text| format!("{text}\n[client_keys]\nbob = \"{digest}\"\n"))?;
    let second = bundle(generation).await?;
    ensure!(second["client_keys"][0]["id"] == "bob", "{second}");
    ensure!(second["credentials"]["default"]["generation"] == token, "{second}");
    tokio::task::block_in_place(|| heard("RELOADING=1").and_then(|()| heard("READY=1")))?;
    ensure!(stack.provider().summary().refreshes == 0);

    // A wider window makes the refresh due at once: the settings of the rotation are in force.
    configure(&stack, |text| text.replace("spacing = 1", "spacing = 1\nwindow = 21599"))?;
    serve.signal(Signal::HUP)?;
    let generation = second["generation"].as_u64().context("a generation")?;
    let third = bundle(generation).await?;
    ensure!(third["credentials"]["default"]["state"] == "ready", "{third}");
    ensure!(third["credentials"]["default"]["generation"] != token, "{third}");
    ensure!(stack.provider().summary().spent_twice == 0);
    configure(&stack, |text| text.replace("\nwindow = 21599", ""))?;

    // What needs a restart says so, and the rest comes all the same.
    configure(&stack, |text| {
        let text = text.replace("state_dir = ", "socket = \"/elsewhere/s\"\nstate_dir = ");
        text.replace("bob = ", "carol = ")
    })?;
    alarm(&stack, Some("socket: changed, which takes effect at the next start")).await?;
    let keys = bundle(0).await?["client_keys"].clone();
    ensure!(keys[0]["id"] == "carol", "{keys}");
    configure(&stack, |text| text.replace("socket = \"/elsewhere/s\"\n", ""))?;
    alarm(&stack, None).await?;
    // A login that would be lost is a reason to stay.
    configure(&stack, |text| text.replace("client_id = \"", "client_id = \"other-"))?;
    let said = alarm(&stack, Some("is of another client")).await?;
    ensure!(said["credentials"]["default"]["state"] == "ready", "{said}");

    serve.signal(Signal::TERM)?;
    tokio::task::block_in_place(|| heard("STOPPING=1"))?;
    ensure!(serve.wait(SOON).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_closed_terminal_ends_it_but_not_under_nohup() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let start = async |name: &str, hangup: &str| {
        let inner = detached(&stack.refresher_command(&["serve"])?);
        let mut command = Process::command("setsid");
        // Whoever runs the tests may ignore the signal, as `nohup` does.
        command.args(["--ctty", "env", hangup]).args(inner.as_std().get_args());
        command.env("HOME", stack.dir());
        let (serve, keyboard) = Process::start_on_terminal(name, stack.dir(), command)?;
        let ready = eventually(SOON, async || health(&stack).await.ok()).await;
        ready.with_context(|| serve.log())?;
        serve.signal(Signal::HUP)?;
        anyhow::Ok((serve, keyboard))
    };
    let (mut serve, keyboard) = start("nohup", "--ignore-signal=HUP").await?;
    let again = |line: &str| line.contains("the configuration is in force").then_some(());
    serve.printed(SOON, again).await.context("it is not read again")?;
    ensure!(serve.stop().await?.success());
    drop(keyboard);
    let (mut serve, keyboard) = start("closed", "--default-signal=HUP").await?;
    let status = serve.wait(SOON).await?;
    drop(keyboard);
    ensure!(status.success() && !stack.socket().exists(), "{status}");
    Ok(())
}
