//! What goes wrong, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rustix::process::Signal;
use simulator::{Fault as ProviderFault, Target};
use tests::{Stack, unix_request};

/// A fault, or a pause without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing for a moment.
    None,
    /// The refresher is killed and started again.
    RefresherKilled,
    /// The refresher is stopped for a while and goes on.
    RefresherStopped,
    /// The authorization server answers 503.
    ProviderDown,
    /// The authorization server answers late.
    ProviderSlow,
    /// The API refuses the current token.
    TokenKilled,
}

impl Fault {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::RefresherKilled => "refresher killed",
            Self::RefresherStopped => "refresher stopped",
            Self::ProviderDown => "provider down",
            Self::ProviderSlow => "provider slow",
            Self::TokenKilled => "token refused",
        }
    }
}

/// The faults of a run.
pub struct Faults {
    random: SmallRng,
    counts: BTreeMap<Fault, u64>,
    /// Refresh tokens that were on their way when the refresher was killed: their successor was
    /// lost with it, and only a login helps. The one loss that cannot be excluded.
    pub lost_answers: u64,
}

impl Faults {
    /// Faults as this generator has them.
    pub fn new(random: SmallRng) -> Self {
        Self { random, counts: BTreeMap::new(), lost_answers: 0 }
    }

    /// How often each happened.
    pub fn counts(&self) -> &BTreeMap<Fault, u64> {
        &self.counts
    }

    /// The next one.
    pub fn next(&mut self) -> Fault {
        match self.random.random_range(0..100) {
            0..40 => Fault::RefresherKilled,
            40..55 => Fault::RefresherStopped,
            55..70 => Fault::ProviderDown,
            70..85 => Fault::ProviderSlow,
            // The refresher heeds five rejections a minute.
            85..88 => Fault::TokenKilled,
            _ => Fault::None,
        }
    }

    /// Makes it happen, and lets some time pass.
    pub async fn inject(&mut self, fault: Fault, stack: &mut Stack) -> Result<()> {
        *self.counts.entry(fault).or_default() += 1;
        let provider = stack.provider().clone();
        match fault {
            Fault::None => {}
            Fault::RefresherKilled => {
                stack.take_refresher()?.kill().await?;
                stack.start_refresher().await?;
            }
            Fault::RefresherStopped => {
                stack.refresher()?.signal(Signal::STOP)?;
                self.pass(300..900).await;
                stack.refresher()?.signal(Signal::CONT)?;
            }
            Fault::ProviderDown => {
                provider.set_fault(ProviderFault {
                    status: Some(503),
                    ..ProviderFault::new(Target::Token)
                });
                self.pass(300..900).await;
                provider.clear_faults(None);
            }
            Fault::ProviderSlow => {
                provider.set_fault(ProviderFault {
                    delay_ms: 300,
                    ..ProviderFault::new(Target::Token)
                });
                self.pass(300..900).await;
                provider.clear_faults(None);
            }
            Fault::TokenKilled => {
                provider.kill_access_token();
            }
        }
        self.pass(200..1500).await;
        self.mend(stack).await
    }

    /// Logs in again where a killed exchange has cost the grant.
    async fn mend(&mut self, stack: &Stack) -> Result<()> {
        let health = unix_request(&stack.socket(), "GET", "/ready", "").await?;
        let reason = health.body;
        if health.status == 503 && reason.contains("login_required") {
            self.lost_answers += 1;
            stack.login().await?;
        }
        Ok(())
    }

    async fn pass(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(millis))).await;
    }
}
