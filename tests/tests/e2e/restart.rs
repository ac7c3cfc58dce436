//! Envoy started, restarted and reconfigured under load.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, envoy_binary, eventually, free_port, http_client, unix_request};
use tokio::task::JoinHandle;

use crate::proof::{KEY, arrived};

const LISTENER: &str = "/static_resources/listeners/0";
const FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(30);

/// Clients that send one request after the other on connections that they keep.
struct Load {
    served: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(stack: &Stack) -> Result<Self> {
        let (served, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let clients = (0..6).map(|number| {
            let client = http_client()?;
            let url = stack.url("/v1/echo");
            let (served, ends) = (Arc::clone(&served), Arc::clone(&ends));
            Ok(tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let request = match number % 2 {
                        0 => client.get(&url),
                        _ => client.post(&url).body("hello"),
                    };
                    let answer = request.header("x-proxy-api-key", KEY).send().await?;
                    let (status, body) = (answer.status(), answer.text().await?);
                    ensure!(status == 200, "{status}: {body}");
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }))
        });
        let clients = clients.collect::<Result<_>>()?;
        Ok(Self { served, ends, clients })
    }

    /// Waits until so many more requests have been served.
    async fn more(&self, requests: u64) -> Result<()> {
        let goal = self.served.load(Ordering::Relaxed) + requests;
        let reached = eventually(SOON, async || {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            (failed || self.served.load(Ordering::Relaxed) >= goal).then_some(())
        });
        reached.await.context("requests are served")
    }

    /// Ends it; says which request failed, if one did.
    async fn end(self) -> Result<u64> {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?.context("a request failed")?;
        }
        Ok(self.served.load(Ordering::Relaxed))
    }
}

async fn with_refresher() -> Result<Stack> {
    let stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    Ok(stack)
}

/// The bootstrap with a port that is known before the start.
fn on_port(bootstrap: &str, port: u16) -> Result<Value> {
    let mut bootstrap: Value = serde_json::from_str(bootstrap)?;
    let path = format!("{LISTENER}/address/socket_address/port_value");
    *bootstrap.pointer_mut(&path).context("the port")? = port.into();
    Ok(bootstrap)
}

/// The status of a request without a key, on a connection of its own; 0: there was no answer.
async fn status(stack: &Stack) -> u16 {
    let request = b"GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stack.raw(request).await.map_or(0, |answer| answer.status)
}

#[tokio::test]
async fn f06_in_either_order_nothing_goes_without_a_bearer() -> Result<()> {
    for envoy_first in [true, false] {
        let mut stack = with_refresher().await?;
        let port = free_port()?;
        let bootstrap = on_port(&stack.bootstrap()?, port)?.to_string();
        // Requests knock from before there is anybody to answer.
        let ends = Arc::new(AtomicBool::new(false));
        let knocking = {
            let ends = Arc::clone(&ends);
            let url = format!("http://127.0.0.1:{port}/v1/echo");
            let client = http_client()?;
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !ends.load(Ordering::Relaxed) {
                    if let Ok(answer) = client.get(&url).send().await {
                        seen.push(answer.status().as_u16());
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                seen
            })
        };
        if envoy_first {
            stack.start_envoy_with(&bootstrap).await?;
            stack.start_refresher().await?;
        } else {
            stack.start_refresher().await?;
            stack.start_envoy_with(&bootstrap).await?;
        }
        let served = eventually(SOON, async || (status(&stack).await == 200).then_some(()));
        served.await.context("it serves")?;
        ends.store(true, Ordering::Relaxed);
        let seen = knocking.await?;
        ensure!(seen.iter().all(|status| [200, 503].contains(status)), "{seen:?}");
        ensure!(!arrived(&stack)?.is_empty());
    }
    Ok(())
}

/// Starts an Envoy that can be restarted hot, or restarts one.
fn start_hot(stack: &Stack, file: &Path, epoch: &str, base_id: Option<&str>) -> Result<Process> {
    let mut command = Process::command(envoy_binary()?);
    command.arg("-c").arg(file).args(["--concurrency", "2", "--restart-epoch", epoch]);
    command.args(["--drain-time-s", "3", "--parent-shutdown-time-s", "6"]);
    match base_id {
        Some(base_id) => command.args(["--base-id", base_id]),
        None => command
            .arg("--use-dynamic-base-id")
            .arg("--base-id-path")
            .arg(stack.dir().join("base-id")),
    };
    Process::start(&format!("envoy-{epoch}"), stack.dir(), &mut command)
}

/// Waits until the Envoy of this epoch is the one that serves.
async fn epoch_serves(stack: &Stack, epoch: u64) -> Result<()> {
    let live = eventually(SOON, async || {
        let info = stack.admin("/server_info").await.ok()?.json();
        let serves = info["command_line_options"]["restart_epoch"] == epoch;
        (serves && info["state"] == "LIVE").then_some(())
    });
    live.await.with_context(|| format!("the Envoy of epoch {epoch} serves"))
}

#[tokio::test]
async fn f08_a_hot_restart_fails_no_request() -> Result<()> {
    let mut stack = with_refresher().await?;
    stack.start_refresher().await?;
    let port = free_port()?;
    let file = stack.dir().join("hot.json");
    std::fs::write(&file, on_port(&stack.bootstrap()?, port)?.to_string())?;
    stack.address = format!("127.0.0.1:{port}").parse()?;

    let mut running = start_hot(&stack, &file, "0", None)?;
    epoch_serves(&stack, 0).await?;
    let base_id = std::fs::read_to_string(stack.dir().join("base-id"))?;
    let served = eventually(SOON, async || (status(&stack).await == 200).then_some(()));
    served.await.context("it serves")?;
    let load = Load::start(&stack)?;
    load.more(100).await?;
    for epoch in 1..=2_u64 {
        let next = start_hot(&stack, &file, &epoch.to_string(), Some(base_id.trim()))?;
        epoch_serves(&stack, epoch).await?;
        // The old one drains and ends by itself.
        let mut old = std::mem::replace(&mut running, next);
        let end = old.wait(SOON).await?;
        ensure!(end.success(), "the old Envoy ended with {end}");
        load.more(100).await?;
    }
    let served = load.end().await?;
    ensure!(served >= 300, "{served}");
    arrived(&stack)?;
    Ok(())
}

/// A listener that Envoy reads from a file.
struct Discovery {
    dir: PathBuf,
    listener: Value,
}

impl Discovery {
    /// Moves the listener out of the bootstrap; gives what is left as well.
    fn of(stack: &Stack) -> Result<(Self, Value)> {
        let mut bootstrap = on_port(&stack.bootstrap()?, free_port()?)?;
        let mut listener = bootstrap.pointer_mut(LISTENER).context("the listener")?.take();
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
        let dir = stack.dir().join("lds");
        std::fs::create_dir(&dir)?;
        bootstrap["static_resources"]["listeners"] = json!([]);
        bootstrap["dynamic_resources"] = json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {
                "path": dir.join("lds.json"), "watched_directory": {"path": dir}}}});
        Ok((Self { dir, listener }, bootstrap))
    }

    /// Publishes bytes as Envoy wants it: by a move into the folder.
    fn publish(&self, document: &str) -> Result<()> {
        let new = self.dir.with_extension("new");
        std::fs::write(&new, document)?;
        Ok(std::fs::rename(new, self.dir.join("lds.json"))?)
    }

    /// The document with a changed listener.
    fn document(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut listener = self.listener.clone();
        change(&mut listener);
        json!({"resources": [listener]}).to_string()
    }
}

/// Sets the gate's plugin configuration.
fn set_gate(listener: &mut Value, configuration: &Value) {
    if let Some(gate) = listener.pointer_mut(&format!("{FILTERS}/0/typed_config/config")) {
        gate["configuration"]["value"] = configuration.to_string().into();
    }
}

#[tokio::test]
async fn f08_a_listener_update_fails_no_request_and_a_bad_one_changes_nothing() -> Result<()> {
    let mut stack = with_refresher().await?;
    stack.start_refresher().await?;
    let (discovery, bootstrap) = Discovery::of(&stack)?;
    discovery.publish(&discovery.document(|_| {}))?;
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    let is = async |expected: u16| {
        let is = eventually(SOON, async || (status(&stack).await == expected).then_some(()));
        is.await.with_context(|| format!("{expected} without a key"))
    };
    is(200).await?;
    let load = Load::start(&stack)?;
    load.more(100).await?;

    // From now on a key is wanted, which the load has always had.
    let keys = json!([ClientKey::of_key("alice".parse()?, KEY.as_bytes())]);
    let keyed = json!({"gate": {"client_keys": keys}});
    let good = discovery.document(|listener| set_gate(listener, &keyed));
    discovery.publish(&good)?;
    is(401).await?;
    load.more(100).await?;

    let bad = json!({"gate": {"client_key": []}});
    let wrong_digest = json!({"gate": {"client_keys": [{"id": "alice", "sha256": "00"}]}});
    for (what, document) in [
        ("no JSON", "{".to_owned()),
        ("nothing", String::new()),
        (
            "a word for a number",
            discovery.document(|listener| {
                listener["per_connection_buffer_limit_bytes"] = "much".into();
            }),
        ),
        ("an unknown setting", discovery.document(|listener| set_gate(listener, &bad))),
        ("half a key", discovery.document(|listener| set_gate(listener, &wrong_digest))),
        (
            "no module",
            discovery.document(|listener| {
                if let Some(gate) =
                    listener.pointer_mut(&format!("{FILTERS}/0/typed_config/config"))
                {
                    gate["vm_config"]["code"]["local"]["filename"] = "/nowhere/filter.wasm".into();
                }
            }),
        ),
        (
            "an unknown filter",
            discovery.document(|listener| {
                if let Some(filters) = listener.pointer_mut(FILTERS).and_then(Value::as_array_mut) {
                    let config = json!({"@type": "type.googleapis.com/nonsense.Filter"});
                    filters.insert(0, json!({"name": "nonsense", "typed_config": config}));
                }
            }),
        ),
    ] {
        let refused = async || {
            let mut sum = 0;
            for name in ["update_rejected", "update_failure"] {
                sum += stack.stat(&format!("listener_manager.lds.{name}")).await.ok()?;
            }
            Some(sum)
        };
        let before = refused().await.context("statistics")?;
        discovery.publish(&document)?;
        let heard = eventually(SOON, async || (refused().await? > before).then_some(()));
        heard.await.with_context(|| format!("{what} is refused"))?;
        load.more(50).await.with_context(|| format!("after {what}"))?;
        for _ in 0..4 {
            ensure!(status(&stack).await == 401, "{what} is in force");
        }
    }

    // And a good one is taken over again.
    discovery.publish(&discovery.document(|_| {}))?;
    is(200).await?;
    load.more(50).await?;
    let served = load.end().await?;
    ensure!(served >= 500, "{served}");
    arrived(&stack)?;
    let ready = unix_request(&stack.socket(), "GET", "/ready", "").await?;
    ensure!(ready.status == 200);
    Ok(())
}
