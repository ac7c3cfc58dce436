//! How each fault is made to happen. Each ends with a look at whether it did: one that had no effect
//! is an error.

mod clients;
mod envoy;
mod machine;
mod provider;
mod refresher;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use simulator::Control;
use tests::{eventually, unix_request};

use crate::allowance::Excuse;
use crate::plan::{Fault, Planned};
use crate::rig::Rig;
use crate::traffic::Recorder;

/// How long the effect of a fault may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the faults of a run have led to.
#[derive(Debug, Default)]
pub struct Losses {
    /// What has been excused.
    pub excuses: Vec<Excuse>,
    /// Refresh tokens that were on their way when the refresher was killed: their successor was
    /// lost with it, and only a login helps. The one loss that cannot be excluded.
    pub lost_answers: u64,
}

/// A fault that is being made to happen.
pub struct Injection<'a> {
    pub rig: &'a mut Rig,
    pub recorder: &'a Recorder,
    pub losses: &'a mut Losses,
    pub random: SmallRng,
}

/// Makes a fault happen, and looks whether it did.
pub async fn inject(
    planned: Planned,
    rig: &mut Rig,
    recorder: &Recorder,
    losses: &mut Losses,
) -> Result<()> {
    let random = SmallRng::seed_from_u64(planned.seed);
    let mut injection = Injection { rig, recorder, losses, random };
    injection.happen(planned.fault).await.context(planned.fault.name())
}

impl Injection<'_> {
    async fn happen(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::ProviderDown => self.close_the_door().await,
            Fault::ProviderSlow => self.slow_the_provider().await,
            Fault::ProviderError => self.fail_at_the_provider().await,
            Fault::ProviderBusy => self.limit_at_the_provider().await,
            Fault::ProviderRedirects => self.redirect_at_the_provider().await,
            Fault::TokenRefused => self.refuse_the_token().await,
            Fault::RefresherKilled => self.kill_the_refresher().await,
            Fault::RefresherStopped => self.stop_the_refresher().await,
            Fault::EnvoyKilled => self.kill_envoy().await,
            Fault::EnvoyHotRestarted => self.restart_envoy().await,
            Fault::EnvoyReconfigured => self.reconfigure_envoy().await,
            Fault::DiskFull => self.fill_the_disk().await,
            Fault::ClockJump => self.let_the_clock_jump().await,
            Fault::ClientResets => self.reset_connections().await,
            Fault::SlowReaders => self.read_slowly().await,
        }
    }

    fn provider(&self) -> Control {
        self.rig.stack.provider().clone()
    }

    /// Lets some time pass.
    async fn pass(&mut self, millis: Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(millis))).await;
    }

    /// Waits until the refresher has printed this after so much of its log.
    async fn printed(&self, printed: usize, text: &str) -> Result<()> {
        let refresher = self.rig.stack.refresher()?;
        let found = async || {
            let log = refresher.log();
            log.get(printed..).is_some_and(|news| news.contains(text)).then_some(())
        };
        seen(&format!("the refresher says {text:?}"), found).await
    }

    /// What the refresher says of itself.
    async fn health(&self) -> Option<Value> {
        Some(unix_request(&self.rig.stack.socket(), "GET", "/health", "").await.ok()?.json())
    }

    /// Waits until another refresh has succeeded.
    async fn refreshed(&self) -> Result<()> {
        let provider = self.provider();
        let before = provider.summary().refreshes;
        seen("a refresh succeeds again", async || {
            (provider.summary().refreshes > before).then_some(())
        })
        .await
    }
}

/// Waits for the effect of a fault.
async fn seen<T>(what: &str, attempt: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    match eventually(PATIENCE, attempt).await {
        Some(found) => Ok(found),
        None => bail!("the fault had no effect, or its end none: {what}, within {PATIENCE:?}"),
    }
}
