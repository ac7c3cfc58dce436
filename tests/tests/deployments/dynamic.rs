//! `envoy/dynamic`: every part is a file that is replaced while requests run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Stack, eventually, http_client};
use tokio::task::JoinHandle;

use crate::proof::{carries, replays};
use crate::shipped::{
    document, here, routed_to_the_simulator, sidecar, text, to_the_simulator, valid_for_envoy,
};

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(20);

const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";
const UPSTREAM: &str =
    "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What `config_discovery` stands for, in the form of the static file.
fn inlined(filter: &mut Value, file: &str) -> Result<()> {
    let place = document(&here_in_the_project(&text(file)?))?;
    let mut place = place["resources"][0].clone();
    let members = place.as_object_mut().context("a resource")?;
    members.remove("@type").context("its type")?;
    *filter = place;
    Ok(())
}

/// The one path in which the two folders differ.
fn here_in_the_project(text: &str) -> String {
    text.replace("/etc/envoy/filter.wasm", "target/filter.wasm")
}

#[test]
fn the_files_say_what_the_static_one_says() -> Result<()> {
    let single = document(&text("standalone/bootstrap.yaml")?)?;
    let mut listeners = document(&text("dynamic/lds.yaml")?)?["resources"].clone();
    let gate = listeners.pointer_mut(&format!("/0{MANAGER}/http_filters/0")).context("the gate")?;
    inlined(gate, "dynamic/gate.yaml")?;
    let mut clusters = document(&text("dynamic/cds.yaml")?)?["resources"].clone();
    let bearer = clusters.pointer_mut(&format!("/0{UPSTREAM}/http_filters/0"));
    inlined(bearer.context("the bearer")?, "dynamic/bearer.yaml")?;
    for (resources, kind) in
        [(&mut listeners, "listener.v3.Listener"), (&mut clusters, "cluster.v3.Cluster")]
    {
        for resource in resources.as_array_mut().into_iter().flatten() {
            let found = resource.as_object_mut().and_then(|members| members.remove("@type"));
            ensure!(found == Some(json!(format!("type.googleapis.com/envoy.config.{kind}"))));
        }
    }
    let mut bootstrap = document(&text("dynamic/bootstrap.yaml")?)?;
    let members = bootstrap.as_object_mut().context("a bootstrap")?;
    members.remove("dynamic_resources").context("the other files")?;
    members.insert(
        "static_resources".to_owned(),
        json!({"listeners": listeners, "clusters": clusters}),
    );
    ensure!(bootstrap == single, "they differ: {bootstrap:#}\n{single:#}");
    Ok(())
}

/// A running Envoy that reads files in a folder of its own.
struct Files {
    stack: Stack,
    folder: PathBuf,
}

/// A shipped file with this machine's paths, where Envoy finds it in this folder.
fn shipped(stack: &Stack, folder: &Path, path: &str) -> Result<Value> {
    let text = here(stack, &document(&text(path)?)?.to_string())?;
    let mut shipped = document(&text.replace("/etc/envoy", &folder.display().to_string()))?;
    let resources = shipped.get_mut("resources").and_then(Value::as_array_mut);
    for resource in resources.into_iter().flatten() {
        if resource["name"] == "upstream" {
            to_the_simulator(stack, resource)?;
        }
        if let Some(port) = resource.pointer_mut("/address/socket_address/port_value") {
            *port = 0.into();
        }
    }
    routed_to_the_simulator(stack, &shipped)
}

/// Replaces a file, as the README says.
fn put(folder: &Path, file: &str, text: &str) -> Result<()> {
    let new = folder.join(format!("{file}.new"));
    fs::write(&new, text)?;
    Ok(fs::rename(new, folder.join(format!("{file}.yaml")))?)
}

impl Files {
    async fn start() -> Result<Self> {
        let mut stack = sidecar().await?;
        let folder = stack.dir().join("etc-envoy");
        fs::create_dir(&folder)?;
        for file in ["gate", "bearer", "cds", "lds"] {
            let resources = shipped(&stack, &folder, &format!("dynamic/{file}.yaml"))?;
            put(&folder, file, &resources.to_string())?;
        }
        let bootstrap = shipped(&stack, &folder, "dynamic/bootstrap.yaml")?;
        valid_for_envoy(&stack, &bootstrap).await?;
        stack.start_envoy_with(&bootstrap.to_string()).await?;
        Ok(Self { stack, folder })
    }

    fn read(&self, file: &str) -> Result<Value> {
        document(&fs::read_to_string(self.folder.join(format!("{file}.yaml")))?)
    }

    /// Waits until Envoy has counted something once more.
    async fn counted(&self, counter: &str, before: u64) -> Result<()> {
        let more = async || (self.stack.stat(counter).await.ok()? > before).then_some(());
        eventually(SOON, more).await.with_context(|| format!("{counter} stays at {before}"))
    }

    /// Puts a changed file in force.
    async fn change(&self, file: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let counter = counters(file).0;
        let before = self.stack.stat(counter).await?;
        let mut resources = self.read(file)?;
        change(&mut resources["resources"]);
        put(&self.folder, file, &resources.to_string())?;
        self.counted(counter, before).await
    }
}

/// What Envoy counts of updates that it takes over, and that it refuses.
fn counters(file: &str) -> (&'static str, [&'static str; 2]) {
    match file {
        "lds" => (
            "listener_manager.listener_modified",
            ["listener_manager.lds.update_rejected", "listener_manager.lds.update_failure"],
        ),
        "cds" => (
            "cluster_manager.cluster_modified",
            ["cluster_manager.cds.update_rejected", "cluster_manager.cds.update_failure"],
        ),
        "gate" => (
            "extension_config_discovery.http_filter.torchbearer.gate.config_reload",
            [
                "extension_config_discovery.http_filter.torchbearer.gate.config_fail",
                "extension_config_discovery.http_filter.torchbearer.gate.update_failure",
            ],
        ),
        _ => (
            "extension_config_discovery.upstream_http_filter.torchbearer.bearer.config_reload",
            [
                "extension_config_discovery.upstream_http_filter.torchbearer.bearer.config_fail",
                "extension_config_discovery.upstream_http_filter.torchbearer.bearer.update_failure",
            ],
        ),
    }
}

/// Clients that send one request after the other, and one that reads a stream.
struct Load {
    served: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
    stream: JoinHandle<Result<String>>,
}

const EVENTS: usize = 60;

impl Load {
    fn start(stack: &Stack) -> Result<Self> {
        let (served, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let clients = (0..4).map(|number| {
            let (client, url) = (http_client()?, stack.url("/v1/echo"));
            let (served, ends) = (Arc::clone(&served), Arc::clone(&ends));
            Ok(tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let request = match number % 2 {
                        0 => client.get(&url),
                        _ => client.post(&url).body("hello"),
                    };
                    let answer = request.send().await?;
                    let (status, body) = (answer.status(), answer.text().await?);
                    ensure!(status == 200, "{status}: {body}");
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }))
        });
        let clients = clients.collect::<Result<_>>()?;
        let request = json!({"model": "grok-4", "stream": true, "x_chunks": EVENTS, "x_delay_ms": 100,
                             "messages": [{"role": "user", "content": "hello"}]});
        let request = stack.client.post(stack.url("/v1/chat/completions")).json(&request);
        let stream = tokio::spawn(async move { Ok(request.send().await?.text().await?) });
        Ok(Self { served, ends, clients, stream })
    }

    /// Waits until each client has been served some more.
    async fn more(&self) -> Result<()> {
        let goal = self.served.load(Ordering::Relaxed) + 40;
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
        let stream = self.stream.await??;
        ensure!(stream.trim_end().ends_with("data: [DONE]"), "the stream was cut: {stream}");
        let events = stream.matches("data: {").count();
        ensure!(events >= EVENTS, "{events} events of {EVENTS}");
        Ok(())
    }
}

fn plugin(resources: &mut Value, configuration: &str) {
    resources[0]["typed_config"]["config"]["configuration"]["value"] = configuration.into();
}

#[tokio::test]
async fn every_file_is_replaced_under_load_and_an_invalid_one_changes_nothing() -> Result<()> {
    let files = Files::start().await?;
    let stack = &files.stack;
    carries(stack, "unused").await?;
    let load = Load::start(stack)?;
    for round in 1..=3_u64 {
        let strip = format!(r#"{{"gate": {{"headers": {{"strip": ["x-round-{round}"]}}}}}}"#);
        files.change("gate", |resources| plugin(resources, &strip)).await?;
        load.more().await?;
        let wait = format!(r#"{{"bearer": {{"wait_ms": {}}}, "usage": {{}}}}"#, 1000 + round);
        files.change("bearer", |resources| plugin(resources, &wait)).await?;
        load.more().await?;
        files
            .change("cds", |resources| {
                resources[0]["connect_timeout"] = format!("{}s", 5 + round).into()
            })
            .await?;
        load.more().await?;
        let limit = (1 << 20) + round;
        files
            .change("lds", |resources| {
                resources[0]["per_connection_buffer_limit_bytes"] = limit.into()
            })
            .await?;
        load.more().await?;
        // What was changed is in force, on new connections too.
        stack.provider().clear();
        let request = http_client()?.get(stack.url("/v1/echo"));
        let request = request.header(format!("x-round-{round}"), "1").header("x-other", "1");
        ensure!(request.send().await?.status() == 200);
        let arrived = stack.provider().requests();
        let arrived = arrived.iter().find(|request| request.header("x-other").count() > 0);
        let arrived = arrived.context("the request arrived")?;
        ensure!(arrived.header(&format!("x-round-{round}")).count() == 0, "{arrived:?}");
    }
    // What Envoy cannot read, what is of another type, and what only the filter refuses.
    let with = |file: &str, field: &str, value: &str| {
        let mut resources = files.read(file)?;
        resources["resources"][0][field] = value.into();
        anyhow::Ok(resources.to_string())
    };
    let refused = |file: &str| {
        let mut resources = files.read(file)?;
        plugin(&mut resources["resources"], r#"{"gait": {}}"#);
        anyhow::Ok(resources.to_string())
    };
    for (file, invalid) in [
        ("lds", "{".to_owned()),
        ("lds", with("lds", "per_connection_buffer_limit_bytes", "many")?),
        ("cds", with("cds", "connect_timeout", "soon")?),
        ("gate", with("gate", "typed_config", "none")?),
        ("gate", refused("gate")?),
        ("bearer", refused("bearer")?),
    ] {
        let good = files.read(file)?.to_string();
        let (_, kinds) = counters(file);
        let before = [stack.stat(kinds[0]).await?, stack.stat(kinds[1]).await?];
        put(&files.folder, file, &invalid)?;
        let noticed = eventually(SOON, async || {
            let now = [stack.stat(kinds[0]).await.ok()?, stack.stat(kinds[1]).await.ok()?];
            (now != before).then_some(())
        });
        noticed.await.with_context(|| format!("{file}: Envoy does not refuse {invalid}"))?;
        load.more().await?;
        put(&files.folder, file, &good)?;
    }
    load.end().await?;
    replays(stack, "unused").await
}
