//! Clients that ask one after the other, on connections that they keep.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{eventually, http_client};
use tokio::task::JoinHandle;

use crate::deployment::{Deployment, SOON};

/// How many there are.
pub const CLIENTS: usize = 4;

/// The pause between two requests of one of them.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    served: AtomicU64,
    /// Whether an Envoy is away, so that connections end and cannot be made.
    away: AtomicBool,
    /// What went wrong although no Envoy was away, and how often.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them towards the Envoy of this number.
    pub fn start(deployment: &Deployment, envoy: u16) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let clients = (0..CLIENTS).map(|number| {
            let (client, shared) = (http_client()?, Arc::clone(&shared));
            let url = deployment.url(envoy, "/v1/echo");
            let key = deployment.key.clone();
            Ok(tokio::spawn(async move {
                while !shared.ends.load(Ordering::Relaxed) {
                    let request = match number % 2 {
                        0 => client.get(&url),
                        _ => client.post(&url).body("hello"),
                    };
                    let away = shared.away.load(Ordering::Relaxed);
                    let outcome = async {
                        let answer = request.bearer_auth(&key).timeout(SOON).send().await?;
                        let (status, body) = (answer.status(), answer.text().await?);
                        ensure!(status == 200, "{status}: {body}");
                        Ok(())
                    };
                    match outcome.await {
                        Ok(()) => {
                            shared.served.fetch_add(1, Ordering::Relaxed);
                        }
                        // One that began or ended while an Envoy was away.
                        Err(_) if away || shared.away.load(Ordering::Relaxed) => {}
                        Err(error) => {
                            let failures = shared.failures.lock();
                            let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
                            *failures.entry(format!("{error:#}")).or_default() += 1;
                        }
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }))
        });
        Ok(Self { clients: clients.collect::<Result<_>>()?, shared })
    }

    /// Waits until so many more requests have been served.
    pub async fn more(&self, requests: u64) -> Result<()> {
        let goal = self.shared.served.load(Ordering::Relaxed) + requests;
        let reached = eventually(SOON, async || {
            (self.shared.served.load(Ordering::Relaxed) >= goal).then_some(())
        });
        reached.await.context("requests are served")
    }

    /// Says whether an Envoy is away.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    /// Ends it; says how many were served, and fails if one failed that should not have.
    pub async fn end(self) -> Result<u64> {
        self.shared.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?;
        }
        let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(failures.is_empty(), "requests failed: {failures:?}");
        Ok(self.shared.served.load(Ordering::Relaxed))
    }
}
