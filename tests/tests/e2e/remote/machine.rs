//! Machines of their own for Envoys: network namespaces, with one cable to the refresher and one to
//! everything else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::{Process, Stack, envoy_binary, eventually, http_client, unix_request};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{KEY, SOON, Site};

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.context("`ip` is missing; run `apt-get install iproute2`")?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    bail!(
        "ip {arguments}: {error}; network namespaces need root: `sudo -E make test`, and in a container \
         `docker run --privileged`"
    )
}

/// A network namespace with two cables. It ends with this, and what runs in it has ended before.
pub(super) struct Machine {
    namespace: String,
    /// This side's addresses: of the cable to the refresher, and of the other.
    pub(super) refresher: IpAddr,
    pub(super) outside: IpAddr,
    /// Its own address on the other cable.
    own: IpAddr,
}

impl Machine {
    pub(super) fn new() -> Result<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Two runs of the tests at the same time have different networks, most likely.
        let run = 128 + u8::try_from(std::process::id() % 100)?;
        let namespace = format!("torch{}-{number}", std::process::id());
        let address = |host: u8| IpAddr::from(Ipv4Addr::new(10, run, number, host));
        ip(&format!("netns add {namespace}"))?;
        let (refresher, outside, own) = (address(1), address(5), address(6));
        let machine = Self { namespace, refresher, outside, own };
        machine.cable('r', refresher, address(2))?;
        machine.cable('o', outside, own)?;
        machine.inside("link set lo up")?;
        Ok(machine)
    }

    fn end(&self, cable: char) -> String {
        format!("{}{cable}", self.namespace)
    }

    fn cable(&self, name: char, here: IpAddr, there: IpAddr) -> Result<()> {
        let (near, ns) = (self.end(name), &self.namespace);
        ip(&format!("link add {near} type veth peer name {name}0 netns {ns}"))?;
        ip(&format!("address add {here}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        self.inside(&format!("address add {there}/30 dev {name}0"))?;
        self.inside(&format!("link set {name}0 up"))
    }

    fn inside(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.namespace))
    }

    /// Pulls the cable to the refresher out.
    pub(super) fn cut(&self) -> Result<()> {
        ip(&format!("link set {} down", self.end('r')))
    }

    /// Puts it in again.
    pub(super) fn heal(&self) -> Result<()> {
        ip(&format!("link set {} up", self.end('r')))
    }

    /// Starts an Envoy in here, and waits until it serves.
    pub(super) async fn envoy(&self, site: &Site, name: &str, subject: &str) -> Result<Elsewhere> {
        let api = forward(site.stack.provider_url()).await?;
        let mut bootstrap = site.bootstrap(name, self.refresher, subject)?;
        let address = format!("{}:0", self.own);
        let outside = SocketAddr::new(self.outside, api.port);
        place(&mut bootstrap, "listeners/0/address", address.parse()?)?;
        let endpoint = "clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        place(&mut bootstrap, endpoint, outside)?;
        let dir = site.dir();
        let admin = dir.join(format!("{name}-admin.sock"));
        *bootstrap.pointer_mut("/admin/address/pipe/path").context("the admin interface")? =
            admin.display().to_string().into();
        let file = dir.join(format!("{name}.json"));
        std::fs::write(&file, bootstrap.to_string())?;
        let mut command = Process::command("ip");
        command.args(["netns", "exec", &self.namespace]).arg(envoy_binary()?);
        command.arg("-c").arg(&file).args(["--use-dynamic-base-id", "--concurrency", "1"]);
        let mut envoy = Process::start(name, dir, &mut command)?;
        let address = eventually(SOON, async || {
            if envoy.ended().is_some() {
                return Some(None);
            }
            let listeners = unix_request(&admin, "GET", "/listeners?format=json", "").await.ok()?;
            let port = "/listener_statuses/0/local_address/socket_address/port_value";
            let port = listeners.json().pointer(port)?.as_u64()?.try_into().ok()?;
            Some(Some(SocketAddr::new(self.own, port)))
        });
        let address = address.await.flatten().with_context(|| envoy.log())?;
        let elsewhere = Elsewhere { _envoy: envoy, _api: api, address };
        let client = http_client()?;
        let serves = eventually(SOON, async || {
            let answer = client.get(elsewhere.url()).bearer_auth(KEY).send().await.ok()?;
            (answer.status() == 200).then_some(())
        });
        serves.await.with_context(|| format!("{name} does not serve"))?;
        Ok(elsewhere)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The cables go with it.
        if let Err(error) = ip(&format!("netns delete {}", self.namespace)) {
            println!("{error:#}");
        }
    }
}

fn place(bootstrap: &mut Value, path: &str, address: SocketAddr) -> Result<()> {
    let path = format!("/static_resources/{path}/socket_address");
    let place = bootstrap.pointer_mut(&path).with_context(|| path.clone())?;
    place["address"] = address.ip().to_string().into();
    place["port_value"] = address.port().into();
    Ok(())
}

/// An Envoy in a machine.
pub(super) struct Elsewhere {
    _envoy: Process,
    _api: Forward,
    address: SocketAddr,
}

impl Elsewhere {
    pub(super) fn url(&self) -> String {
        format!("http://{}/v1/models", self.address)
    }
}

/// The API, which listens on loopback only, for machines.
struct Forward {
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(url: &str) -> Result<Forward> {
    let to = url.strip_prefix("http://").context("a plain address")?.to_owned();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let port = listener.local_addr()?.port();
    let server = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    Ok(Forward { port, server })
}

/// Clients that send one request after the other, none of which may fail.
pub(super) struct Traffic {
    served: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    pub(super) fn start(urls: impl IntoIterator<Item = String>) -> Result<Self> {
        let (served, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let clients = urls.into_iter().map(|url| {
            let (client, served, ends) = (http_client()?, Arc::clone(&served), Arc::clone(&ends));
            Ok(tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let answer = client.get(&url).bearer_auth(KEY).send().await?;
                    let (status, body) = (answer.status(), answer.text().await?);
                    ensure!(status == 200, "{url}: {status}: {body}");
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            }))
        });
        let clients = clients.collect::<Result<_>>()?;
        Ok(Self { served, ends, clients })
    }

    /// Ends, and answers how many requests were served, if none failed.
    pub(super) async fn end(self) -> Result<u64> {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        Ok(self.served.load(Ordering::Relaxed))
    }
}

/// The workers' Envoys, with the generations that they serve, in the order of the refresher's list.
pub(super) async fn workers(stack: &Stack) -> Result<(u64, Vec<(String, u64)>)> {
    let overview = unix_request(&stack.socket(), "GET", "/v1/overview", "").await?.json();
    let published = overview["health"]["generation"].as_u64().context("a generation")?;
    let workers = overview["workers"].as_array().context("workers")?.iter().map(|worker| {
        let envoy = worker["envoy"].as_str().unwrap_or("(here)").to_owned();
        Ok((envoy, worker["generation"].as_u64().context("a generation")?))
    });
    Ok((published, workers.collect::<Result<_>>()?))
}
