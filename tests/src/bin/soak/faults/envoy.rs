//! Faults of Envoy.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::http_client;
use tokio::net::TcpStream;

use super::{Injection, PATIENCE, seen};
use crate::allowance::Excuse;
use crate::plan::Fault;

const CLUSTER_CHANGES: &str = "cluster_manager.cluster_modified";
const LISTENER_CHANGES: &str = "listener_manager.listener_modified";

impl Injection<'_> {
    /// It is killed and started again.
    pub(super) async fn kill_envoy(&mut self) -> Result<()> {
        let address = self.rig.stack.address;
        let from = self.recorder.elapsed();
        self.rig.stack.take_envoy()?.kill().await?;
        let refused = TcpStream::connect(address).await.is_err();
        self.rig.start_envoy().await?;
        seen("Envoy accepts connections again", async || {
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await?;
        let until = self.recorder.elapsed();
        self.losses.excuses.push(Excuse { fault: Fault::EnvoyKilled, from, until });
        ensure!(refused, "the fault had no effect: somebody listened while Envoy was dead");
        ensure!(self.rig.stack.address == address, "Envoy listens elsewhere");
        self.served().await
    }

    /// Another one takes its place without a pause.
    pub(super) async fn restart_envoy(&mut self) -> Result<()> {
        let mut before = self.rig.stack.hot_restart_envoy().await?;
        let status = before.wait(PATIENCE).await.context("the Envoy before the hot restart")?;
        ensure!(status.success(), "the Envoy before the hot restart ended with {status}");
        // Nobody else is left to answer.
        self.served().await
    }

    /// Its cluster, its listener and the filter are changed, each by another file.
    pub(super) async fn reconfigure_envoy(&mut self) -> Result<()> {
        let before = self.rig.stack.stat(CLUSTER_CHANGES).await?;
        self.rig.envoy_files().change_cluster()?;
        self.counted(CLUSTER_CHANGES, before).await?;
        self.pass(100..500).await;
        let header = format!("x-soak-{}", self.recorder.elapsed().as_millis());
        ensure!(self.arrives(&header).await?, "{header} was stripped already");
        let before = self.rig.stack.stat(LISTENER_CHANGES).await?;
        self.rig.envoy_files().change_listener(&header)?;
        self.counted(LISTENER_CHANGES, before).await?;
        seen("the changed filter is in force", async || {
            self.arrives(&header).await.is_ok_and(|arrives| !arrives).then_some(())
        })
        .await
    }

    /// Whether the API gets a header of a request on a new connection.
    async fn arrives(&self, header: &str) -> Result<bool> {
        let request = http_client()?.get(self.rig.stack.url("/v1/echo")).header(header, "1");
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        let headers = answer.get("headers").and_then(Value::as_array).context("the echo")?;
        Ok(headers.iter().any(|line| line.get(0).and_then(Value::as_str) == Some(header)))
    }

    async fn served(&self) -> Result<()> {
        let answer = http_client()?.get(self.rig.stack.url("/v1/models")).send().await?;
        let status = answer.status();
        ensure!(status == 200, "a new connection is answered {status}: {}", answer.text().await?);
        Ok(())
    }

    /// Waits until Envoy has counted something more.
    pub(super) async fn counted(&self, counter: &str, before: u64) -> Result<()> {
        self.counted_times(counter, before, 1).await
    }

    /// Waits until Envoy has counted something so many times more.
    pub(super) async fn counted_times(&self, stat: &str, before: u64, times: u64) -> Result<()> {
        seen(&format!("{stat} grows by {times}"), async || {
            (self.rig.stack.stat(stat).await.ok()? >= before + times).then_some(())
        })
        .await
    }
}
