//! Provider, refresher and Envoy together.

mod audit;
mod envoy;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use filter::client::ClientKey;
use filter::verdict::Rule;
use refresher::bootstrap;
use refresher::config::Proxy;
use simulator::{Control, Options, Simulator};
use tempfile::TempDir;
use tokio::process::Command;

use crate::artefacts::{filter_module, refresher_binary};
use crate::clock::eventually;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::raw::{Answer, http_client, raw_request, unix_request};

/// How long a program may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// What a stack is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The provider.
    pub provider: Options,
    /// Client keys of the gate: names and keys.
    pub client_keys: Vec<(&'static str, &'static str)>,
    /// Further ones, with what they are limited to.
    pub limited_keys: Vec<ClientKey>,
    /// Whether to log in before the start.
    pub login: bool,
    /// How many ports the provider has registered for the callback of a login.
    pub callbacks: usize,
    /// Where Envoy listens.
    pub host: IpAddr,
    /// Envoy's worker threads.
    pub workers: u16,
    /// What Envoy does with requests.
    pub proxy: Proxy,
    /// Whether Envoy's own filter puts in the token, from a file.
    pub sds: bool,
    /// Another module than the shipped one.
    pub filter: Option<PathBuf>,
    /// Lines for the refresher's configuration file.
    pub settings: String,
    /// Where the refresher keeps its state, in place of a folder of the stack's.
    pub state_dir: Option<PathBuf>,
    /// Environment variables of the refresher.
    pub environment: Vec<(&'static str, OsString)>,
    /// Further arguments of Envoy.
    pub envoy_arguments: Vec<&'static str>,
    /// The level of what the filter and the refresher log.
    pub log: &'static str,
    /// Whether the programs' logs are kept to themselves at the end.
    pub quiet: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let provider = Options { approve_device: true, stream_chunks: 4, ..Options::default() };
        Self {
            provider,
            client_keys: Vec::new(),
            limited_keys: Vec::new(),
            login: true,
            callbacks: 1,
            host: Ipv4Addr::LOCALHOST.into(),
            workers: 2,
            proxy: Proxy::default(),
            sds: false,
            filter: None,
            settings: String::new(),
            state_dir: None,
            environment: Vec::new(),
            envoy_arguments: Vec::new(),
            log: "trace",
            quiet: false,
        }
    }
}

/// A port that was free a moment ago, for programs that must be told theirs.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(own_port()?.local_addr()?.port())
}

/// A port that is taken for as long as the listener lives.
///
/// # Errors
///
/// When there is none.
pub fn own_port() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// A provider, a refresher and an Envoy.
#[derive(Debug)]
pub struct Stack {
    // In the order in which they have to end.
    envoy: Option<Process>,
    /// How many Envoys it has replaced by a hot restart.
    epoch: u32,
    refresher: Option<Process>,
    simulator: Simulator,
    plan: Plan,
    dir: TempDir,
    state_dir: PathBuf,
    /// The registered ports of the callback, in the order in which they are tried.
    pub callbacks: Vec<u16>,
    /// Where Envoy listens.
    pub address: SocketAddr,
    /// For requests through Envoy.
    pub client: reqwest::Client,
}

impl Stack {
    /// Starts all of it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When a part does not start.
    pub async fn start(plan: Plan) -> Result<Self> {
        let mut stack = Self::prepare(plan).await?;
        if stack.plan.login {
            stack.login().await?;
        }
        stack.start_refresher().await?;
        stack.start_envoy().await?;
        Ok(stack)
    }

    /// Starts the provider and writes the refresher's configuration, no more.
    ///
    /// # Errors
    ///
    /// When the provider does not start.
    pub async fn prepare(mut plan: Plan) -> Result<Self> {
        let dir = TempDir::new()?;
        // Held together, so that they differ.
        let held = (0..plan.callbacks).map(|_| own_port()).collect::<Result<Vec<_>>>()?;
        let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
        let callbacks = held.iter().map(port).collect::<Result<Vec<_>>>()?;
        drop(held);
        let redirect = |port| format!("http://127.0.0.1:{port}/callback");
        plan.provider.redirect_uris = callbacks.iter().map(redirect).collect();
        let simulator = Simulator::start(plan.provider.clone()).await?;
        let client = http_client()?;
        let url = simulator.url();
        let state_dir = plan.state_dir.clone().unwrap_or_else(|| dir.path().join("state"));
        let state = toml::Value::from(state_dir.display().to_string());
        if plan.sds {
            let directory = dir.path().join("sds");
            let setting = toml::Value::from(directory.display().to_string());
            plan.settings.push_str(&format!("\n[publish]\nsds_dir = {setting}\n"));
            plan.proxy.sds_dir = Some(directory);
        }
        let PlanSettings { top, rest } = PlanSettings::split(&plan.settings);
        let config = format!(
            r#"{top}
provider = "simulated"
state_dir = {state}
{rest}
[providers.simulated]
issuer = "{url}"
client_id = "{}"
scopes = ["openid", "offline_access", "api:access"]
redirect_ports = {callbacks:?}
upstream = "{url}"
"#,
            plan.provider.client_id
        );
        std::fs::write(dir.path().join("config.toml"), config)?;
        let address = SocketAddr::new(plan.host, 0);
        let (envoy, epoch, refresher) = (None, 0, None);
        Ok(Self {
            envoy,
            epoch,
            refresher,
            simulator,
            plan,
            dir,
            state_dir,
            callbacks,
            address,
            client,
        })
    }

    /// The folder with everything that the stack writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The refresher's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone()
    }

    /// The refresher's socket.
    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("refresher.sock")
    }

    fn admin_socket(&self) -> PathBuf {
        // Where the refresher looks for it.
        self.state_dir().join("envoy-admin.sock")
    }

    /// The provider's control.
    pub fn provider(&self) -> &Control {
        self.simulator.control()
    }

    /// The provider's address.
    pub fn provider_url(&self) -> &str {
        self.simulator.url()
    }

    /// Where the provider and its API listen, whatever stands before them.
    pub fn provider_address(&self) -> SocketAddr {
        self.simulator.address()
    }

    /// A refresher command with this stack's configuration.
    ///
    /// # Errors
    ///
    /// When it has not been built.
    pub fn refresher_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Process::command(refresher_binary()?);
        command.env("HOME", self.dir()).arg("--config").arg(self.dir().join("config.toml"));
        command.args(arguments).envs(self.plan.environment.iter().cloned());
        Ok(command)
    }

    fn launch(&self, name: &str, command: &mut Command) -> Result<Process> {
        let process = Process::start(name, self.dir(), command.env("LOG_LEVEL", self.plan.log))?;
        Ok(if self.plan.quiet { process.quiet() } else { process })
    }

    /// Logs in by the device flow, which the provider approves at once.
    ///
    /// # Errors
    ///
    /// When the login fails.
    pub async fn login(&self) -> Result<()> {
        let mut command = self.refresher_command(&["login", "--device"])?;
        let mut login = self.launch("login", &mut command)?;
        let status = login.wait(START).await?;
        if !status.success() {
            bail!("the login ended with {status}: {}", login.log());
        }
        Ok(())
    }

    /// Starts the refresher and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn start_refresher(&mut self) -> Result<()> {
        let mut command = self.refresher_command(&["serve"])?;
        let mut refresher = self.launch("refresher", &mut command)?;
        let socket = self.socket();
        let ready = eventually(START, async || {
            if refresher.ended().is_some() {
                return Some(false);
            }
            unix_request(&socket, "GET", "/health", "").await.ok().map(|_| true)
        });
        if ready.await != Some(true) {
            bail!("the refresher does not answer: {}", refresher.log());
        }
        self.refresher = Some(refresher);
        Ok(())
    }

    /// Starts Envoy with the shipped bootstrap and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn start_envoy(&mut self) -> Result<()> {
        let bootstrap = self.bootstrap()?;
        self.start_envoy_with(&bootstrap).await
    }

    /// The shipped bootstrap with this stack's values.
    ///
    /// # Errors
    ///
    /// When it cannot be rendered.
    pub fn bootstrap(&self) -> Result<String> {
        self.bootstrap_for(self.simulator.url())
    }

    /// The same with the API at another address.
    ///
    /// # Errors
    ///
    /// When it cannot be rendered.
    pub fn bootstrap_for(&self, upstream: &str) -> Result<String> {
        let key = |(name, key): &(&str, &str)| Ok(ClientKey::of_key(name.parse()?, key.as_bytes()));
        let client_keys: Result<Vec<_>> = self.plan.client_keys.iter().map(key).collect();
        let filter = self.plan.filter.clone().map_or_else(filter_module, Ok)?;
        let client_keys = [client_keys?, self.plan.limited_keys.clone()].concat();
        Ok(bootstrap::render(&bootstrap::Settings {
            listen: SocketAddr::new(self.plan.host, 0),
            upstream: &upstream.parse()?,
            filter: &filter,
            socket: &self.socket(),
            admin: &self.admin_socket(),
            trusted_ca: None,
            client_keys: &client_keys,
            upstream_headers: &[],
            dead_token: &Rule::default(),
            proxy: &self.plan.proxy,
        })?)
    }

    /// Asks Envoy's admin interface.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn admin(&self, target: &str) -> Result<Answer> {
        unix_request(&self.admin_socket(), "GET", target, "").await
    }

    /// One of Envoy's counters or gauges; 0 when it has not been touched.
    ///
    /// # Errors
    ///
    /// When the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        let stats = self.admin("/stats?usedonly").await?.body;
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    /// Envoy's metrics.
    ///
    /// # Errors
    ///
    /// When the admin interface does not answer, or not in the form of Prometheus.
    pub async fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.admin("/stats/prometheus").await?.body)
    }

    /// The URL of a path behind Envoy.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends these bytes to Envoy.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn raw(&self, request: &[u8]) -> Result<Answer> {
        raw_request(self.address, request).await
    }

    /// The running refresher.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub fn refresher(&self) -> Result<&Process> {
        self.refresher.as_ref().context("the refresher was stopped")
    }

    /// The running Envoy.
    ///
    /// # Errors
    ///
    /// When it was stopped.
    pub fn envoy(&self) -> Result<&Process> {
        self.envoy.as_ref().context("Envoy was stopped")
    }

    /// Takes the refresher out, to stop it.
    ///
    /// # Errors
    ///
    /// When it was stopped before.
    pub fn take_refresher(&mut self) -> Result<Process> {
        self.refresher.take().context("the refresher was stopped")
    }

    /// Takes Envoy out, to stop it.
    ///
    /// # Errors
    ///
    /// When it was stopped before.
    pub fn take_envoy(&mut self) -> Result<Process> {
        self.envoy.take().context("Envoy was stopped")
    }
}

/// Settings in TOML: those before the first table, and the tables.
struct PlanSettings<'a> {
    top: &'a str,
    rest: &'a str,
}

impl<'a> PlanSettings<'a> {
    fn split(settings: &'a str) -> Self {
        let start = settings.find('[').unwrap_or(settings.len());
        let (top, rest) = settings.split_at(start);
        Self { top, rest }
    }
}
