//! Envoy: started, and replaced by its own hot restart.

use std::fs::{DirBuilder, remove_file};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{START, Stack};
use crate::artefacts::envoy_binary;
use crate::clock::eventually;
use crate::process::Process;

/// As what an Envoy is started.
enum Role {
    /// With nobody before it.
    First,
    /// In place of the running one.
    Successor,
}

impl Stack {
    /// Starts Envoy with another bootstrap.
    ///
    /// # Errors
    ///
    /// When it does not start listening.
    pub async fn start_envoy_with(&mut self, bootstrap: &str) -> Result<()> {
        std::fs::write(self.bootstrap_file(), bootstrap)?;
        // Envoy's admin socket is to be in there, also where no refresher has run yet.
        DirBuilder::new().recursive(true).mode(0o700).create(self.state_dir())?;
        // One that was killed leaves it behind, and Envoy would not replace it.
        let _ = remove_file(self.admin_socket());
        self.epoch = 0;
        let mut envoy = self.launch_envoy(&Role::First)?;
        let listening = eventually(START, async || {
            if envoy.ended().is_some() {
                return Some(None);
            }
            self.listener_address().await.map(Some)
        });
        let Some(address) = listening.await.flatten() else {
            bail!("Envoy does not listen: {}", envoy.log());
        };
        self.address = address;
        self.envoy = Some(envoy);
        Ok(())
    }

    /// Replaces Envoy by one with the bootstrap that is in the file now, which takes over the
    /// listening sockets. Returns the one before, which ends by itself.
    ///
    /// # Errors
    ///
    /// When the new one does not become live.
    pub async fn hot_restart_envoy(&mut self) -> Result<Process> {
        self.epoch += 1;
        let mut envoy = self.launch_envoy(&Role::Successor)?;
        let live = eventually(START, async || {
            if envoy.ended().is_some() {
                return Some(false);
            }
            self.is_live().await.then_some(true)
        });
        if live.await != Some(true) {
            bail!("Envoy's successor does not become live: {}", envoy.log());
        }
        self.envoy.replace(envoy).context("Envoy was stopped")
    }

    fn bootstrap_file(&self) -> PathBuf {
        self.dir().join("bootstrap.json")
    }

    fn launch_envoy(&self, role: &Role) -> Result<Process> {
        let base_id = self.dir().join("base-id");
        let mut command = Process::command(envoy_binary()?);
        command.arg("-c").arg(self.bootstrap_file());
        match role {
            Role::First => {
                command.args(["--use-dynamic-base-id", "--base-id-path"]).arg(base_id);
            }
            Role::Successor => {
                let base_id = std::fs::read_to_string(base_id)?;
                command.args(["--base-id", base_id.trim()]);
                command.args(["--restart-epoch", &self.epoch.to_string()]);
            }
        }
        command.args(["--concurrency", &self.plan.workers.to_string()]);
        // Of Envoy's own components, those that deal with requests print headers at such a level.
        command.args(["-l", "info", "--component-log-level", &format!("wasm:{}", self.plan.log)]);
        command.args(&self.plan.envoy_arguments);
        self.launch("envoy", &mut command)
    }

    async fn listener_address(&self) -> Option<SocketAddr> {
        let listeners = self.admin("/listeners?format=json").await.ok()?.json();
        let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
        let host = address.get("address")?.as_str()?.parse().ok()?;
        let port = address.get("port_value")?.as_u64()?.try_into().ok()?;
        Some(SocketAddr::new(host, port))
    }

    /// Whether the admin interface is that of the Envoy of this epoch, and this Envoy is ready.
    async fn is_live(&self) -> bool {
        let Ok(answer) = self.admin("/server_info").await else {
            return false;
        };
        let info = answer.json();
        // Envoy leaves out what is zero.
        let epoch = info.pointer("/command_line_options/restart_epoch").and_then(Value::as_u64);
        let state = info.get("state").and_then(Value::as_str);
        epoch.unwrap_or_default() == u64::from(self.epoch) && state == Some("LIVE")
    }
}
