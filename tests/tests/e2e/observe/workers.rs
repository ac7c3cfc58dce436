//! Which generation each worker serves, and how late.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Plan, Stack, eventually};

use super::{SOON, asked, series, serves};

/// The workers, once there are three of them which all serve a newer generation than this one.
async fn all_newer(stack: &Stack, generation: u64) -> Result<(u64, Vec<Value>)> {
    let found = eventually(SOON, async || {
        let (_, overview) = asked(stack, "/v1/overview").await.ok()?;
        let published = overview["health"]["generation"].as_u64()?;
        let workers = overview["workers"].as_array()?.clone();
        let current = workers.iter().all(|worker| worker["generation"] == published);
        (published > generation && workers.len() == 3 && current).then_some((published, workers))
    });
    found.await.context("not every worker serves the newest generation")
}

#[tokio::test]
async fn each_worker_is_known_with_its_generation_and_lag() -> Result<()> {
    // Two workers, and Envoy's main thread.
    let stack = Stack::start(Plan { workers: 2, ..Plan::default() }).await?;
    serves(&stack).await?;
    let (mut generation, workers) = all_newer(&stack, 0).await?;
    let ids = |workers: &[Value]| workers.iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    let known = ids(&workers);
    for _ in 0..2 {
        stack.provider().kill_access_token();
        serves(&stack).await?;
        let (newer, workers) = all_newer(&stack, generation).await?;
        generation = newer;
        assert_eq!(ids(&workers), known, "the workers have other names now");
        for worker in &workers {
            // Some milliseconds, were this machine idle. A worker that polled on its next tick only
            // would take 250 each time.
            let lag = worker["lag_ms"].as_u64().with_context(|| worker.to_string())?;
            ensure!(lag < 5_000, "{worker}");
        }
        let least = workers.iter().filter_map(|worker| worker["lag_ms"].as_u64()).min();
        ensure!(least < Some(240), "{workers:?}");
        let metrics = series(&stack).await?;
        for worker in &workers {
            let labels = [("worker", worker["id"].as_str().context("a name")?)];
            let shown = metrics.value("torchbearer_worker_generation", &labels);
            assert_eq!(shown, Some(generation as f64));
            ensure!(metrics.value("torchbearer_worker_lag_seconds", &labels).is_some());
        }
        assert_eq!(metrics.value("torchbearer_refresher_workers", &[]), Some(3.0));
    }
    let (_, overview) = asked(&stack, "/v1/overview").await?;
    let envoy = &overview["envoy"];
    ensure!(envoy["state"] == "LIVE", "{overview}");
    let version = envoy["version"].as_str().unwrap_or_default();
    ensure!(version.split('.').count() == 3, "{version}");
    ensure!(envoy["requests"]["(none)"]["2xx"].as_u64() >= Some(3), "{overview}");
    Ok(())
}
