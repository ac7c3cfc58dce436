//! The shipped compose file as it runs: with the images of the run, settings for the simulated
//! provider, and a network that leads to it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{eventually, http_client};
use tokio::process::Command;

use crate::engine::{compose, docker, output};
use crate::images::{self, Images};
use crate::provider::Provider;

/// How long something may take to come about.
pub const SOON: Duration = Duration::from_secs(30);

/// Numbers the deployments of this run.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// What a deployment is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Life of an access token, in seconds.
    pub token_life: u64,
    /// Lines for the configuration file.
    pub settings: &'static str,
    /// The size of the volume of the grant, where it is limited.
    pub state_bytes: Option<u32>,
    /// How many Envoys there may be.
    pub envoys: u16,
}

impl Default for Plan {
    fn default() -> Self {
        Self { token_life: 3600, settings: "", state_bytes: None, envoys: 1 }
    }
}

impl Plan {
    /// With tokens that are renewed every few seconds.
    pub fn brief() -> Self {
        let settings = "[rotation]\nspacing = 1\n";
        Self { token_life: 16, settings, ..Self::default() }
    }

    /// With room for two Envoys.
    pub fn two_envoys() -> Self {
        Self { envoys: 2, ..Self::default() }
    }

    /// With a volume that can be filled.
    pub fn small_state() -> Self {
        Self { state_bytes: Some(1 << 20), ..Self::default() }
    }
}

/// A running deployment. What it consists of is removed when it is dropped.
pub struct Deployment {
    // In the order in which they have to end: the project uses the provider's network.
    project: Project,
    /// The provider.
    pub provider: Provider,
    /// The key of the one client.
    pub key: String,
    /// For requests.
    pub client: reqwest::Client,
    images: Images,
    /// The port of the first Envoy.
    first: u16,
}

impl Deployment {
    /// Starts all of it, logs in, makes a client key, and waits until it serves.
    pub async fn start(plan: Plan) -> Result<Self> {
        let images = tokio::task::spawn_blocking(images::made).await??;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("torchbearer-{}-{number}", images::tag());
        let provider = Provider::start(&images, &name, plan.token_life).await?;
        let project = Project::new(name, &plan, &provider, &images)?;
        let client = http_client()?;
        let first = project.port;
        let key = String::new();
        let mut deployment = Self { project, provider, key, client, images, first };
        let begun = deployment.begin().await;
        if begun.is_err() {
            deployment.print_logs().await;
        }
        begun.map(|()| deployment)
    }

    async fn begin(&mut self) -> Result<()> {
        self.project.run(&["up", "--detach"]).await?;
        // Of a range, the engine takes the one that it likes.
        let envoy = self.container("envoy").await?;
        let published = docker(&["port", &envoy, "9996/tcp"]).await?;
        let port = published.rsplit(':').next().and_then(|port| port.parse().ok());
        self.first = port.with_context(|| format!("no port: {published}"))?;
        self.refresher(&["login", "--device"]).await?;
        self.key = self.refresher(&["keys", "add", "alice"]).await?;
        self.serves().await
    }

    /// The name of all of it.
    pub fn name(&self) -> &str {
        &self.project.name
    }

    /// The network between provider, refresher and Envoy.
    pub fn network(&self) -> &str {
        // That it is the project's own name is the provider's doing.
        &self.project.name
    }

    /// The containers of a service.
    pub async fn containers(&self, service: &str) -> Result<Vec<String>> {
        let ids = self.project.run(&["ps", "--quiet", service]).await?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// The one container of a service.
    pub async fn container(&self, service: &str) -> Result<String> {
        let ids = self.containers(service).await?;
        let [id] = ids.as_slice() else { anyhow::bail!("{service} has {} containers", ids.len()) };
        Ok(id.clone())
    }

    /// Runs the compose tool.
    pub async fn compose(&self, arguments: &[&str]) -> Result<String> {
        self.project.run(arguments).await
    }

    /// Runs it with one more file.
    pub async fn compose_with(&self, file: &str, arguments: &[&str]) -> Result<String> {
        let path = self.project.dir.path().join("more.yaml");
        fs::write(&path, file)?;
        self.project.run_with(&[path], arguments).await
    }

    /// Runs a command of the refresher's in its container, as the README has it.
    pub async fn refresher(&self, arguments: &[&str]) -> Result<String> {
        let command = [&["exec", "-T", "refresher", "refresher"], arguments].concat();
        self.project.run(&command).await
    }

    /// Asks a server on a socket in the shared volume.
    pub async fn ask_socket(&self, socket: &str, method: &str, target: &str) -> Result<String> {
        self.ask_socket_as("65532:65532", socket, method, target).await
    }

    /// The same as another user.
    pub async fn ask_socket_as(
        &self,
        user: &str,
        socket: &str,
        method: &str,
        target: &str,
    ) -> Result<String> {
        let volume = format!("{}_run:/run/torchbearer", self.name());
        let socket = format!("/run/torchbearer/{socket}");
        docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--user",
            user,
            "--volume",
            &volume,
            "--entrypoint",
            "/usr/local/bin/provider",
            &self.images.provider,
            "ask",
            &socket,
            method,
            target,
        ])
        .await
    }

    /// Runs a line of bash that sees the grant's volume under `/state`.
    pub async fn in_state(&self, line: &str) -> Result<String> {
        let volume = format!("{}_state:/state", self.name());
        docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--user",
            "65532:65532",
            "--volume",
            &volume,
            "--entrypoint",
            "/bin/bash",
            &self.images.envoy,
            "-c",
            line,
        ])
        .await
    }

    /// The address of an Envoy: 0 is the first, 1 the one that was added.
    pub fn url(&self, envoy: u16, path: &str) -> String {
        // Of two, the one that is not the first.
        let other =
            if self.first == self.project.port { self.first + 1 } else { self.project.port };
        let port = if envoy == 0 { self.first } else { other };
        format!("http://127.0.0.1:{port}{path}")
    }

    /// The status of a GET with the key on a connection of its own; 0: there was no answer.
    pub async fn status(&self, path: &str) -> u16 {
        let request = self.client.get(self.url(0, path)).bearer_auth(&self.key);
        let answer = request.header("connection", "close").timeout(SOON).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    /// Waits until requests are answered.
    pub async fn serves(&self) -> Result<()> {
        let mut last = 0;
        let served = eventually(SOON, async || {
            last = self.status("/v1/models").await;
            (last == 200).then_some(())
        });
        let served = served.await;
        served.with_context(|| format!("it does not serve; the last status is {last}"))
    }

    /// What `/health` says.
    pub async fn health(&self) -> Result<Value> {
        let request = self.client.get(self.url(0, "/health")).bearer_auth(&self.key);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// The states that an engine's inspection tells of a container.
    pub async fn inspect(&self, container: &str) -> Result<Value> {
        let said = docker(&["inspect", container]).await?;
        let mut said: Value = serde_json::from_str(&said)?;
        Ok(said.get_mut(0).context("nothing inspected")?.take())
    }

    /// Waits until the engine finds a container healthy.
    pub async fn healthy(&self, container: &str) -> Result<()> {
        let mut last = Value::Null;
        let healthy = eventually(SOON, async || {
            last = self.inspect(container).await.ok()?["State"]["Health"].take();
            (last["Status"] == "healthy").then_some(())
        });
        let healthy = healthy.await;
        healthy.with_context(|| format!("not healthy: {last}"))
    }

    /// The logs of all its containers.
    pub async fn logs(&self) -> Result<String> {
        self.project.run(&["logs", "--no-color"]).await
    }

    /// Shows the ends of the logs, after a test that has failed.
    pub async fn print_logs(&self) {
        let logs = self.project.run(&["logs", "--no-color", "--tail", "25"]).await;
        println!("--- the ends of the logs\n{}", logs.unwrap_or_default());
    }
}

/// The compose project.
struct Project {
    name: String,
    dir: TempDir,
    files: Vec<PathBuf>,
    environment: Vec<(&'static str, String)>,
    port: u16,
}

impl Project {
    fn new(name: String, plan: &Plan, provider: &Provider, images: &Images) -> Result<Self> {
        let dir = TempDir::new()?;
        let path = |file: &str| dir.path().join(file).display().to_string();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let shipped = root.join("envoy/compose");
        let settings = fs::read_to_string(shipped.join("config.toml"))?;
        fs::write(path("config.toml"), configured(&settings, plan, provider)?)?;
        fs::write(path("ca.pem"), &provider.authority)?;
        // The first look is taken when the first interval is over.
        let often = json!({"interval": "1s"});
        let mut override_file = json!({
            "version": "3.8",
            "services": {
                "bootstrap": {"volumes": mounts(&path)},
                "refresher": {
                    "healthcheck": often,
                    "volumes": mounts(&path),
                    "networks": ["default", "provider"],
                },
                "envoy": {
                    "healthcheck": often,
                    "networks": ["default", "provider"],
                },
            },
            "networks": {"provider": {"external": true, "name": name}},
        });
        if let Some(bytes) = plan.state_bytes {
            let options = format!("size={bytes},uid=65532,gid=65532,mode=0700");
            let driver = json!({"type": "tmpfs", "device": "tmpfs", "o": options});
            override_file["volumes"] = json!({"state": {"driver_opts": driver}});
        }
        fs::write(path("override.yaml"), override_file.to_string())?;
        let files = vec![shipped.join("docker-compose.yaml"), dir.path().join("override.yaml")];
        let port = free_ports(plan.envoys)?;
        let ports = match plan.envoys {
            1 => port.to_string(),
            more => format!("{port}-{}", port + more - 1),
        };
        let environment = vec![
            ("TORCHBEARER_IMAGE", images.refresher.clone()),
            ("ENVOY_IMAGE", images.envoy.clone()),
            ("TORCHBEARER_PORT", ports),
        ];
        Ok(Self { name, dir, files, environment, port })
    }

    fn command(&self, more: &[PathBuf], arguments: &[&str]) -> Result<std::process::Command> {
        let mut command = compose()?;
        command.args(["--project-name", &self.name]);
        for file in self.files.iter().chain(more) {
            command.arg("--file").arg(file);
        }
        command.args(arguments).envs(self.environment.iter().cloned());
        Ok(command)
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(&[], arguments).await
    }

    async fn run_with(&self, more: &[PathBuf], arguments: &[&str]) -> Result<String> {
        output(Command::from(self.command(more, arguments)?)).await
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let arguments = ["down", "--volumes", "--remove-orphans", "--timeout", "2"];
        if let Ok(mut down) = self.command(&[], &arguments) {
            let removed = down.stdin(Stdio::null()).stdout(Stdio::null()).output();
            if !removed.as_ref().is_ok_and(|output| output.status.success()) {
                println!("{} is not removed: {removed:?}", self.name);
            }
        }
    }
}

/// The shipped settings with another provider.
fn configured(shipped: &str, plan: &Plan, provider: &Provider) -> Result<String> {
    let envoy = "[envoy]\n";
    ensure!(shipped.contains("provider = \"xai\"\n"), "the shipped settings name no provider");
    ensure!(shipped.contains(envoy), "the shipped settings have no [envoy]");
    let url = &provider.url;
    let trusting = format!("{envoy}trusted_ca = \"/etc/torchbearer/ca.pem\"\n");
    let settings = shipped.replace("\"xai\"", "\"simulated\"").replace(envoy, &trusting);
    Ok(format!(
        r#"{settings}
{}
[providers.simulated]
issuer = "{url}"
client_id = "torchbearer-demo"
scopes = ["openid", "offline_access", "api:access"]
redirect_ports = [56121]
upstream = "{url}"
ca_file = "/etc/torchbearer/ca.pem"
"#,
        plan.settings
    ))
}

fn mounts(path: &dyn Fn(&str) -> String) -> [String; 2] {
    ["config.toml", "ca.pem"].map(|name| format!("{}:/etc/torchbearer/{name}:ro", path(name)))
}

/// So many ports in a row that were free a moment ago; the first of them.
fn free_ports(count: u16) -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind(("127.0.0.1", 0))?;
        let port = first.local_addr()?.port();
        let bind = |further| TcpListener::bind(("127.0.0.1", port.checked_add(further)?)).ok();
        if (1..count).map(bind).all(|bound| bound.is_some()) {
            return Ok(port);
        }
    }
    anyhow::bail!("no {count} ports in a row are free")
}
