//! The Envoy that serves: restarted when it ends, replaced when its configuration changes, drained
//! when it is to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::envoy::Program;
use super::image::Image;
use super::log::{self, Bounds};
use super::process::{Envoy, Error, Paths, Role};
use crate::clock::{self, Now, Share};
use crate::config::Config;
use crate::signals::Signals;
use crate::{chain, store};

/// The longest pause before another try to start Envoy, in milliseconds.
const MAX_PAUSE_MS: u64 = 30_000;

/// The shortest, in milliseconds.
const MIN_PAUSE_MS: u64 = 100;

/// How long an Envoy that was replaced lives on in any case, in milliseconds: its clients hear with
/// their next answer that they are to connect anew.
const LINGER_MS: u64 = 5_000;

/// Why Envoy was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum Unchanged {
    /// It would not start.
    #[error("envoy does not start with the new configuration")]
    Refused(#[source] Error),
    /// Its configuration cannot be written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There are two Envoys already.
    #[error(
        "envoy is replaced once the {requests} requests have ended that began before the reload before this one"
    )]
    Draining {
        /// How many are under way.
        requests: u64,
    },
    /// It did not give way to another one, which should not happen after a trial.
    #[error("envoy cannot be replaced while it runs: restart \"refresher up\"")]
    Stuck,
}

/// The Envoy that serves, and one that it has replaced.
#[derive(Debug)]
pub struct Supervisor {
    paths: Paths,
    trial: Paths,
    program: Program,
    config: Arc<Config>,
    image: Image,
    address: SocketAddr,
    envoy: Envoy,
    /// The one before, until the running one has told it to end.
    old: Option<Old>,
    /// Whether an attempt to replace the running Envoy has failed: Envoy does not allow another.
    stuck: bool,
}

/// An Envoy that was replaced. It has to live until its successor tells it to end, at the end of
/// `envoy.reload_timeout` or at the next hot restart: where nobody hears that, the successor aborts.
#[derive(Debug)]
struct Old {
    envoy: Envoy,
    /// Since when, on the boot-time clock.
    since_ms: u64,
    /// Its successor has ended, so that it is ours to end.
    orphan: bool,
}

impl Supervisor {
    /// Starts an Envoy, and waits until it serves.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn start(
        config: Arc<Config>,
        program: Program,
        image: Image,
        address: SocketAddr,
    ) -> Result<Self, Error> {
        let paths = Paths::new(&config.state_dir);
        let trial = Paths::trial(&config.state_dir);
        image.write(&paths)?;
        // A crash leaves it behind, and Envoy would not replace it.
        let _ = std::fs::remove_file(&paths.admin);
        let mut envoy = Envoy::start(&program, &paths, &config.envoy, Role::First)?;
        envoy.ready(Some(address)).await?;
        let (old, stuck) = (None, false);
        Ok(Self { paths, trial, program, config, image, address, envoy, old, stuck })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it runs with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The files that it depends on.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Waits until Envoy ends, which is an error.
    pub async fn ended(&mut self) -> Error {
        self.envoy.ended().await
    }

    /// Starts Envoy again until it serves: at once, since it did serve, and then with pauses that
    /// grow. Must be dropped to give up.
    pub async fn revive(&mut self) {
        let mut failures = 0;
        loop {
            tokio::time::sleep(pause(failures, clock::share())).await;
            failures += 1;
            let _ = std::fs::remove_file(&self.paths.admin);
            let started = Envoy::start(&self.program, &self.paths, &self.config.envoy, Role::First);
            let ready = match started {
                Ok(envoy) => {
                    self.envoy = envoy;
                    self.envoy.ready(Some(self.address)).await
                }
                Err(error) => Err(error),
            };
            match ready {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(error = %chain::line(&error), failures, "envoy not restarted");
                    self.envoy.kill().await;
                }
            }
        }
        self.stuck = false;
        if let Some(old) = &mut self.old {
            old.orphan = true;
        }
        tracing::info!(address = %self.address, "envoy serves again");
    }

    /// What is due each second: the log is kept within its bounds, and an Envoy that was replaced
    /// ends when it has nothing left to do.
    pub async fn keep_house(&mut self, now: Now) {
        let settings = &self.config.envoy;
        let bounds = Bounds { max_bytes: settings.log_max_bytes, files: settings.log_files };
        match log::rotate(&self.paths.log, bounds) {
            Ok(false) => {}
            Ok(true) => {
                self.envoy.reopen_log();
                self.old.iter().for_each(|old| old.envoy.reopen_log());
            }
            Err(error) => tracing::warn!(%error, "envoy's log is not rotated"),
        }
        let reload_ms = u64::try_from(settings.reload_timeout.as_millis()).unwrap_or(u64::MAX);
        if let Some(mut old) = self.old.take() {
            let age_ms = now.boot_ms.saturating_sub(old.since_ms);
            let idle = age_ms > LINGER_MS && old.envoy.requests().await.is_ok_and(|it| it == 0);
            if old.envoy.has_ended() {
                tracing::info!("the envoy before the reload has ended");
                // Not as it was told: the running one would miss it.
                self.stuck |= !old.orphan && age_ms + LINGER_MS < reload_ms;
            } else if old.orphan && (idle || age_ms > reload_ms) {
                old.envoy.end().await;
            } else {
                self.old = Some(old);
            }
        }
    }

    /// Puts another configuration in force; Envoy is replaced only if it sees a difference. Streams
    /// under way go on in the Envoy that has them, for as long as `envoy.reload_timeout`.
    ///
    /// # Errors
    ///
    /// When the new one does not serve; the old one does then.
    pub async fn change(
        &mut self,
        config: Arc<Config>,
        program: Program,
        image: Image,
        address: SocketAddr,
    ) -> Result<(), Unchanged> {
        if image != self.image {
            if let Some(old) = &mut self.old {
                // The next hot restart ends it, whatever it has under way.
                let requests = old.envoy.requests().await.unwrap_or_default();
                let age_ms = clock::now().boot_ms.saturating_sub(old.since_ms);
                if requests > 0 || age_ms < LINGER_MS {
                    return Err(Unchanged::Draining { requests });
                }
            }
            if self.stuck {
                return Err(Unchanged::Stuck);
            }
            self.try_out(&config, &program, &image).await?;
            self.replace(&config, &program, &image, address).await?;
        }
        self.program = program;
        self.config = config;
        self.image = image;
        self.address = address;
        Ok(())
    }

    /// Starts an Envoy beside the running one, without a port and without touching the other: a
    /// successor that fails would leave the running one without its admin interface, and
    /// `--mode validate` finds less, since it loads no filter.
    async fn try_out(
        &self,
        config: &Config,
        program: &Program,
        image: &Image,
    ) -> Result<(), Unchanged> {
        for left in [&self.trial.admin, &self.trial.log, &self.trial.printed] {
            let _ = std::fs::remove_file(left);
        }
        image.write_trial(&self.trial)?;
        let mut trial = Envoy::start(program, &self.trial, &config.envoy, Role::First)
            .map_err(Unchanged::Refused)?;
        let ready = trial.ready(None).await;
        trial.kill().await;
        let _ = std::fs::remove_file(&self.trial.admin);
        ready.map_err(Unchanged::Refused)
    }

    /// Envoy's hot restart: the successor takes over the listening sockets, and the Envoy before it
    /// accepts nothing more once that is ready.
    async fn replace(
        &mut self,
        config: &Config,
        program: &Program,
        image: &Image,
        address: SocketAddr,
    ) -> Result<(), Unchanged> {
        let base_id = std::fs::read_to_string(&self.paths.base_id).unwrap_or_default();
        let role = Role::Successor { base_id: base_id.trim(), epoch: self.envoy.epoch() + 1 };
        image.write(&self.paths)?;
        // Whatever happens from here on, Envoy allows no second attempt.
        self.stuck = true;
        let started = async {
            let mut next = Envoy::start(program, &self.paths, &config.envoy, role)?;
            next.ready(Some(address)).await?;
            Ok(next)
        };
        match started.await {
            Ok(next) => {
                self.stuck = false;
                let envoy = std::mem::replace(&mut self.envoy, next);
                let since_ms = clock::now().boot_ms;
                let before = self.old.replace(Old { envoy, since_ms, orphan: false });
                if let Some(before) = before {
                    before.envoy.end().await;
                }
                Ok(())
            }
            Err(error) => {
                self.image.write(&self.paths)?;
                Err(Unchanged::Refused(error))
            }
        }
    }

    /// Ends all of it. Requests under way may end first, within `envoy.drain_timeout`, and no new
    /// connections are accepted; another signal ends them at once.
    pub async fn stop(mut self, signals: &mut Signals) {
        let limit = self.config.envoy.drain_timeout;
        self.envoy.drain().await;
        let under_way = self.envoy.requests().await.unwrap_or_default();
        if under_way > 0 {
            tracing::info!(
                requests = under_way,
                seconds = limit.as_secs(),
                "requests are under way; another signal ends them at once"
            );
        }
        let mut old = self.old.take().map(|old| old.envoy);
        let idle = async {
            self.envoy.idle().await;
            if let Some(old) = &mut old {
                old.idle().await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = tokio::time::sleep(limit) => tracing::warn!("requests under way are cut off"),
            () = signals.stop() => tracing::warn!("requests under way are cut off"),
        }
        // In this order, for the sake of what one still has to say to the other.
        self.envoy.end().await;
        if let Some(old) = old {
            old.end().await;
        }
        let _ = std::fs::remove_file(&self.paths.admin);
    }
}

/// None before the first try; then at random within a range that doubles, so that a broken Envoy
/// does not keep a core busy, and several on one machine do not start in step.
fn pause(failures: u32, share: Share) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let range = 250_u64.saturating_mul(1 << failures.min(16)).min(MAX_PAUSE_MS);
    Duration::from_millis(share.times(range).max(MIN_PAUSE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_at_once_and_the_later_ones_are_spread_within_a_bound() {
        assert_eq!(pause(0, Share::of(u32::MAX)), Duration::ZERO);
        assert_eq!(pause(1, Share::of(u32::MAX)), Duration::from_millis(499));
        assert_eq!(pause(2, Share::of(1 << 31)), Duration::from_millis(500));
        for failures in 1..=u32::BITS {
            assert_eq!(pause(failures, Share::of(0)), Duration::from_millis(MIN_PAUSE_MS));
            assert!(pause(failures, Share::of(u32::MAX)) < Duration::from_millis(MAX_PAUSE_MS));
        }
        assert!(pause(40, Share::of(u32::MAX)) >= Duration::from_millis(MAX_PAUSE_MS - 1));
    }
}
