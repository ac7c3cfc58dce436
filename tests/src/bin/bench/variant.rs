//! What is compared: Envoys with different filters, and other proxies, each a process of its own
//! on a core that it has for itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use filter::client::ClientKey;
use filter::verdict::Rule;
use refresher::bootstrap;
use refresher::config::Proxy;
use serde_json::{Value, json};
use tests::{Process, envoy_binary, eventually, filter_module, unix_request};
use tokio::process::Command;
use url::Url;

use crate::cores;

/// The client's key, which every request carries.
pub const KEY: &str = "torchbearer-bench-key-0123456789";

/// How long a program may take until it is ready.
const START: Duration = Duration::from_secs(30);

const LISTENER: &str = "/static_resources/listeners/0";
const FILTERS: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
const VIRTUAL_HOST: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0";
const UPSTREAM_FILTERS: &str = "/static_resources/clusters/0/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters";
const WASM: &str = "typed_config/config";

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The shipped bootstrap less our filters.
    Bare,
    /// A filter that does nothing in the places of ours.
    Empty,
    /// Gate and bearer.
    TwoPlaces,
    /// The same, with tokens counted: as shipped.
    WithUsage,
    /// Gate and bearer in one place.
    OnePlace,
    /// Envoy's own filters that do the nearest job.
    Native,
    /// Bare, and a minimal proxy behind it that puts the token in.
    Sidecar,
    /// A proxy in Python, without Envoy.
    FastApi,
    /// A Wasm filter in front that makes this call of the host so often.
    Price(&'static str, u32),
}

impl Kind {
    /// All that are compared with each other.
    pub const ALL: [Self; 8] = [
        Self::Bare,
        Self::Empty,
        Self::TwoPlaces,
        Self::WithUsage,
        Self::OnePlace,
        Self::Native,
        Self::Sidecar,
        Self::FastApi,
    ];

    /// Whether it replaces the client's key by the access token.
    pub fn puts_token_in(self) -> bool {
        !matches!(self, Self::Bare | Self::Empty | Self::Price(..))
    }

    /// Whether it asks the refresher for the token.
    fn asks(self) -> bool {
        matches!(self, Self::TwoPlaces | Self::WithUsage | Self::OnePlace)
    }

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare Envoy",
            Self::Empty => "empty Wasm filter, two places",
            Self::TwoPlaces => "Torchbearer, two places",
            Self::WithUsage => "Torchbearer, two places, usage",
            Self::OnePlace => "Torchbearer, one place",
            Self::Native => "native filters",
            Self::Sidecar => "bare Envoy and a hyper proxy",
            Self::FastApi => "FastAPI proxy",
            Self::Price(call, _) => call,
        }
    }
}

/// What the variants have in common.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// A folder for their files.
    pub dir: &'a Path,
    /// The refresher's socket.
    pub socket: &'a Path,
    /// Its process, if it is one.
    pub refresher: Option<u32>,
    /// The API.
    pub upstream: Url,
    /// The certificate of the API, where it speaks TLS.
    pub trusted_ca: Option<&'a Path>,
    /// The access token that the refresher has, for those that do not ask it.
    pub access_token: &'a str,
    /// Envoy's workers.
    pub workers: u16,
}

/// A running variant.
#[derive(Debug)]
pub struct Variant {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    processes: Vec<Process>,
    refresher: Option<u32>,
}

impl Variant {
    /// Starts it and waits until it listens.
    pub async fn start(kind: Kind, setting: &Setting<'_>) -> Result<Self> {
        let (processes, address) = match kind {
            Kind::FastApi => {
                let (process, address) = python_proxy(setting).await?;
                (vec![process], address)
            }
            Kind::Sidecar => {
                let (proxy, behind) = hyper_proxy(setting).await?;
                let upstream = format!("http://{behind}").parse()?;
                let setting = Setting { upstream, trusted_ca: None, ..setting.clone() };
                let (envoy, address) = envoy(kind, &setting).await?;
                (vec![envoy, proxy], address)
            }
            _ => {
                let (process, address) = envoy(kind, setting).await?;
                (vec![process], address)
            }
        };
        let refresher = setting.refresher.filter(|_| kind.asks());
        Ok(Self { kind, address, processes, refresher })
    }

    /// The time that its processes have had on the processor. The refresher is one of them; it
    /// serves other variants too, but these are idle when this one is measured.
    pub fn time(&self) -> Result<Duration> {
        let own = self.processes.iter().map(|process| process.id().context("a proxy has ended"));
        own.chain(self.refresher.map(Ok)).map(|id| cores::time(id?)).sum()
    }

    /// The id of its first process: where there is an Envoy, that is it.
    pub fn first_process(&self) -> Result<u32> {
        self.processes.first().and_then(Process::id).context("a proxy has ended")
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.processes.iter().map(Process::resident_kib).sum()
    }
}

/// A command whose process has the proxies' core.
fn on_its_core(program: &Path) -> Command {
    let mut command = Process::command("taskset");
    command.args(["--cpu-list", &cores::PROXIES.to_string()]).arg(program);
    command
}

async fn envoy(kind: Kind, setting: &Setting<'_>) -> Result<(Process, SocketAddr)> {
    let name = format!("{kind:?}-{}-{}", setting.upstream.authority(), setting.workers);
    let admin = setting.dir.join(format!("{name}.sock"));
    let bootstrap = render(kind, setting, &admin)?;
    let file = setting.dir.join(format!("{name}.json"));
    std::fs::write(&file, bootstrap.to_string())?;
    let mut command = match setting.workers {
        1 => on_its_core(&envoy_binary()?),
        _ => Process::command(envoy_binary()?),
    };
    command.arg("-c").arg(file).args(["--use-dynamic-base-id", "-l", "warning"]);
    command.args(["--concurrency", &setting.workers.to_string()]);
    let mut process = Process::start(&name, setting.dir, &mut command)?.quiet();
    let listening = eventually(START, async || {
        if process.ended().is_some() {
            return Some(None);
        }
        let answer = unix_request(&admin, "GET", "/listeners?format=json", "").await.ok()?.json();
        let address = answer.pointer("/listener_statuses/0/local_address/socket_address")?;
        let host = address.get("address")?.as_str()?.parse().ok()?;
        let port = address.get("port_value")?.as_u64()?.try_into().ok()?;
        Some(Some(SocketAddr::new(host, port)))
    });
    match listening.await.flatten() {
        Some(address) => Ok((process, address)),
        None => bail!("{}: does not listen: {}", kind.name(), process.log()),
    }
}

/// The shipped bootstrap, with other filters where the variant has others.
fn render(kind: Kind, setting: &Setting<'_>, admin: &Path) -> Result<Value> {
    let key = ClientKey::of_key("bench".parse()?, KEY.as_bytes());
    let usage = kind == Kind::WithUsage;
    let rendered = bootstrap::render(&bootstrap::Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        upstream: &setting.upstream,
        filter: &filter_module()?,
        socket: setting.socket,
        admin,
        trusted_ca: setting.trusted_ca,
        client_keys: &[key],
        upstream_headers: &[],
        dead_token: &Rule::default(),
        proxy: &Proxy { usage, ..Proxy::default() },
    })?;
    let mut bootstrap: Value = serde_json::from_str(&rendered)?;
    // Each worker has its share of the connections, so that what one worker does can be seen.
    insert(&mut bootstrap, LISTENER, "connection_balance_config", json!({"exact_balance": {}}))?;
    match kind {
        Kind::TwoPlaces | Kind::WithUsage | Kind::FastApi => {}
        Kind::Bare | Kind::Sidecar => {
            filters(&mut bootstrap, FILTERS)?.remove(0);
            filters(&mut bootstrap, UPSTREAM_FILTERS)?.remove(0);
        }
        Kind::Empty => {
            for place in [FILTERS, UPSTREAM_FILTERS] {
                other_module(&mut bootstrap, place, "empty", "")?;
            }
        }
        Kind::Price(call, times) => {
            other_module(&mut bootstrap, FILTERS, "prices", &format!("{call} {times}"))?;
            filters(&mut bootstrap, UPSTREAM_FILTERS)?.remove(0);
        }
        Kind::OnePlace => {
            let path = format!("{UPSTREAM_FILTERS}/0/{WASM}/configuration/value");
            let bearer: Value = parsed(at(&mut bootstrap, &path)?)?;
            let path = format!("{FILTERS}/0/{WASM}/configuration/value");
            let place = at(&mut bootstrap, &path)?;
            let mut both = parsed(place)?;
            insert(&mut both, "", "bearer", bearer.get("bearer").cloned().unwrap_or_default())?;
            *place = both.to_string().into();
            filters(&mut bootstrap, UPSTREAM_FILTERS)?.remove(0);
            let remove = json!(["x-forwarded-proto"]);
            insert(&mut bootstrap, VIRTUAL_HOST, "request_headers_to_remove", remove)?;
        }
        Kind::Native => {
            filters(&mut bootstrap, FILTERS)?.splice(0..1, native_gate());
            let bearer = native_bearer();
            filters(&mut bootstrap, UPSTREAM_FILTERS)?.splice(0..1, [bearer]);
            let secret = json!({"name": "token", "generic_secret": {
                "secret": {"inline_string": format!("Bearer {}", setting.access_token)}}});
            insert(&mut bootstrap, "/static_resources", "secrets", json!([secret]))?;
        }
    }
    Ok(bootstrap)
}

/// Has another module in a place of ours.
fn other_module(bootstrap: &mut Value, place: &str, name: &str, configuration: &str) -> Result<()> {
    let config = at(bootstrap, &format!("{place}/0/{WASM}"))?;
    *at(config, "/vm_config/code/local/filename")? = module(&format!("{name}.wasm"))?.into();
    *at(config, "/vm_config/vm_id")? = name.into();
    *at(config, "/configuration/value")? = configuration.into();
    Ok(())
}

/// Envoy's filters that check the key, and take out what ours does as far as they can.
fn native_gate() -> [Value; 2] {
    let named = ["accept-encoding", "authorization", "cookie", "forwarded", "proxy-authorization"];
    let more = ["via", "x-api-key", "x-forwarded-for", "x-proxy-api-key", "x-real-ip"];
    let remove: Vec<Value> =
        named.iter().chain(&more).map(|name| json!({"remove": name})).collect();
    [
        json!({"name": "envoy.filters.http.api_key_auth", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"key": KEY, "client": "bench"}],
            "key_sources": [{"header": "authorization"}]}}),
        json!({"name": "envoy.filters.http.header_mutation", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": remove}}}),
    ]
}

fn native_bearer() -> Value {
    json!({"name": "envoy.filters.http.credential_injector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": true,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
            "credential": {"name": "token"}}}}})
}

fn at<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    let path =
        if path.starts_with('/') || path.is_empty() { path.to_owned() } else { format!("/{path}") };
    document.pointer_mut(&path).with_context(|| format!("the bootstrap has no {path}"))
}

fn filters<'a>(bootstrap: &'a mut Value, path: &str) -> Result<&'a mut Vec<Value>> {
    at(bootstrap, path)?.as_array_mut().context("filters are a list")
}

fn insert(document: &mut Value, path: &str, member: &str, value: Value) -> Result<()> {
    let object = at(document, path)?.as_object_mut();
    object.context("the bootstrap has another shape")?.insert(member.to_owned(), value);
    Ok(())
}

fn parsed(text: &Value) -> Result<Value> {
    Ok(serde_json::from_str(text.as_str().context("a configuration is text")?)?)
}

/// Something that `make bench` has built.
fn module(name: &str) -> Result<String> {
    let path = filter_module()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing; run `make bench`", path.display());
    }
    Ok(path.display().to_string())
}

async fn hyper_proxy(setting: &Setting<'_>) -> Result<(Process, SocketAddr)> {
    let mut command = on_its_core(&std::env::current_exe()?);
    command.args(["sidecar", setting.upstream.as_str()]);
    announced("hyper", setting, &mut command).await
}

async fn python_proxy(setting: &Setting<'_>) -> Result<(Process, SocketAddr)> {
    let python = PathBuf::from(module("bench-python/bin/python")?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/bench/fastapi_proxy.py");
    let mut command = on_its_core(&python);
    command.arg(script).arg(setting.upstream.as_str());
    announced("fastapi", setting, &mut command).await
}

/// Starts a proxy that prints where it listens.
async fn announced(
    name: &str,
    setting: &Setting<'_>,
    command: &mut Command,
) -> Result<(Process, SocketAddr)> {
    let name = format!("{name}-{}", setting.upstream.authority());
    command.env("TOKEN", setting.access_token);
    if let Some(certificate) = setting.trusted_ca {
        command.env("TRUSTED_CA", certificate);
    }
    let mut process = Process::start(&name, setting.dir, command)?.quiet();
    let address = |line: &str| line.strip_prefix("listening on ")?.trim().parse().ok();
    let address = process.printed(START, address).await?;
    let accepting =
        eventually(START, async || tokio::net::TcpStream::connect(address).await.ok().map(drop));
    accepting.await.with_context(|| format!("{name} does not listen"))?;
    Ok((process, address))
}
