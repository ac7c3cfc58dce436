//! What is under test: the stack, on a disk, a clock and ports of its own, and an Envoy that reads its
//! listener and its clusters from files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use refresher::config::Proxy;
use serde_json::{Value, json};
use simulator::Options;
use tempfile::TempDir;
use tests::{Plan, Stack};

use crate::door::{Door, HeldPort};
use crate::machine::{Disk, WallClock};
use crate::needs::Needs;

/// The tokens' life: half of it is the time between two rotations. What is left after a rotation that
/// fails is longer than any fault that must not be felt.
const TOKEN_LIFE_S: u64 = 6;

/// Room for what the refresher stores, in KiB.
const STATE_KIB: u32 = 1 << 10;

/// Room for the memory that programs share, in KiB.
const SHARED_MEMORY_KIB: u32 = 64 << 10;

/// An Envoy that is replaced, and a listener, lets what is under way end for so long: more than two
/// streams last. The first has begun with no word of the end of its connection, so that HTTP/1.1
/// clients begin another on it.
const ENVOY_ARGUMENTS: [&str; 6] = [
    "--drain-time-s",
    "9",
    "--parent-shutdown-time-s",
    "10",
    // Every answer says at once that its connection ends.
    "--drain-strategy",
    "immediate",
];

const PORT: &str = "/address/socket_address/port_value";
const BUFFER: &str = "/per_connection_buffer_limit_bytes";
const GATE: &str = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/configuration/value";

/// The stack and what it stands on, in the order in which they have to end.
pub struct Rig {
    pub stack: Stack,
    pub door: Door,
    pub clock: WallClock,
    pub disk: Disk,
    envoy: Envoy,
    _shared_memory: Disk,
    _folder: TempDir,
}

impl Rig {
    /// Starts all of it.
    pub async fn start(needs: Needs) -> Result<Self> {
        let folder = TempDir::new()?;
        // What programs that are killed leave there goes with this run.
        let shared_memory = Disk::mount(Path::new("/dev/shm"), SHARED_MEMORY_KIB)?;
        let disk = Disk::mount(&folder.path().join("state"), STATE_KIB)?;
        let clock = WallClock::new(needs.clock_library, folder.path())?;
        let mut door = Door::new()?;
        let provider = Options {
            url: Some(door.url()),
            token_life: TOKEN_LIFE_S,
            approve_device: true,
            stream_chunks: 6,
            ..Options::default()
        };
        let mut stack = Stack::prepare(Plan {
            provider,
            // The least that is accepted, so that a slow reader soon fills it.
            proxy: Proxy { buffer_bytes: 64 << 10, ..Proxy::default() },
            settings: "[rotation]\nspacing = 1\n".to_owned(),
            state_dir: Some(disk.folder().to_owned()),
            environment: clock.environment(),
            envoy_arguments: ENVOY_ARGUMENTS.to_vec(),
            log: "info",
            quiet: true,
            ..Plan::default()
        })
        .await?;
        door.open(stack.provider_address())?;
        stack.login().await?;
        stack.start_refresher().await?;
        let bootstrap = stack.bootstrap_for(&format!("http://{}", stack.provider_address()))?;
        let envoy = Envoy::new(&folder.path().join("envoy"), &bootstrap)?;
        stack.start_envoy_with(&envoy.bootstrap).await?;
        Ok(Self { stack, door, clock, disk, envoy, _shared_memory: shared_memory, _folder: folder })
    }

    /// Starts Envoy on the port that it had.
    pub async fn start_envoy(&mut self) -> Result<()> {
        self.stack.start_envoy_with(&self.envoy.bootstrap).await
    }

    /// What Envoy reads.
    pub fn envoy_files(&mut self) -> &mut Envoy {
        &mut self.envoy
    }
}

/// What Envoy reads: the shipped bootstrap, its listener and its clusters in files that it watches.
pub struct Envoy {
    folder: PathBuf,
    bootstrap: String,
    listener: Value,
    clusters: Value,
    changes: u64,
    _port: HeldPort,
}

impl Envoy {
    fn new(folder: &Path, rendered: &str) -> Result<Self> {
        fs::create_dir(folder)?;
        let port = HeldPort::take()?;
        let mut bootstrap: Value = serde_json::from_str(rendered)?;
        let members = bootstrap.as_object_mut().context("a bootstrap")?;
        let mut resources = members.remove("static_resources").context("its resources")?;
        let mut listener = resources.pointer_mut("/listeners/0").context("its listener")?.take();
        *listener.pointer_mut(PORT).context("its port")? = port.address().port().into();
        let clusters = resources.pointer_mut("/clusters").context("its clusters")?.take();
        let watched = |file: &str| {
            let path = folder.join(file).display().to_string();
            json!({"resource_api_version": "V3", "path_config_source":
                   {"path": path, "watched_directory": {"path": folder.display().to_string()}}})
        };
        let dynamic = json!({"lds_config": watched("lds.json"), "cds_config": watched("cds.json")});
        members.insert("dynamic_resources".to_owned(), dynamic);
        let (folder, bootstrap) = (folder.to_owned(), bootstrap.to_string());
        let envoy = Self { folder, bootstrap, listener, clusters, changes: 0, _port: port };
        envoy.write_clusters()?;
        envoy.write_listener()?;
        Ok(envoy)
    }

    /// Changes the API's cluster.
    pub fn change_cluster(&mut self) -> Result<()> {
        self.changes += 1;
        let timeout = self.clusters.pointer_mut("/0/connect_timeout").context("a time limit")?;
        *timeout = format!("{}.001s", 5 + self.changes % 5).into();
        self.write_clusters()
    }

    /// Changes the listener and the gate in it, which strips this header from now on.
    pub fn change_listener(&mut self, header: &str) -> Result<()> {
        self.changes += 1;
        let buffer = self.listener.pointer_mut(BUFFER).context("its buffer")?;
        *buffer = ((64 << 10) + self.changes).into();
        let gate = self.listener.pointer_mut(GATE).context("the gate's configuration")?;
        let mut plugin: Value = serde_json::from_str(gate.as_str().context("its text")?)?;
        let strip = plugin.pointer_mut("/gate/headers/strip").context("what it strips")?;
        *strip = json!([header]);
        *gate = plugin.to_string().into();
        self.write_listener()
    }

    fn write_clusters(&self) -> Result<()> {
        self.put("cds.json", "cluster.v3.Cluster", self.clusters.as_array().context("a list")?)
    }

    fn write_listener(&self) -> Result<()> {
        self.put("lds.json", "listener.v3.Listener", std::slice::from_ref(&self.listener))
    }

    /// Replaces a file by a rename, as Envoy wants it.
    fn put(&self, file: &str, kind: &str, resources: &[Value]) -> Result<()> {
        let mut resources = resources.to_vec();
        let kind = format!("type.googleapis.com/envoy.config.{kind}");
        for resource in &mut resources {
            let members = resource.as_object_mut().context("a resource")?;
            members.insert("@type".to_owned(), kind.clone().into());
        }
        let text = json!({"version_info": self.changes.to_string(), "resources": resources});
        let new = self.folder.join(format!("{file}.new"));
        fs::write(&new, text.to_string())?;
        Ok(fs::rename(new, self.folder.join(file))?)
    }
}
