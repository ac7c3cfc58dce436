//! The network between the refresher and the provider.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::eventually;

use crate::deployment::{Deployment, SOON};
use crate::engine::docker;
use crate::load::Load;

pub async fn a_cut_network_costs_no_request_and_heals(it: &mut Deployment) -> Result<()> {
    let refresher = it.container("refresher").await?;
    let load = Load::start(it, 0)?;
    // Right after a refresh, so that the token outlives what follows.
    let before = refreshes(it, "refresh_success_count").await?;
    more_than(it, "refresh_success_count", before).await.context("the token is renewed")?;

    docker(&["network", "disconnect", it.network(), &refresher]).await?;
    let before = refreshes(it, "refresh_failure_count").await?;
    let spent = it.provider.count("refresh_requests").await?;
    more_than(it, "refresh_failure_count", before).await.context("the cut is noticed")?;
    ensure!(it.provider.count("refresh_requests").await? == spent, "the network is not cut");
    load.more(50).await.context("the valid token serves on")?;

    docker(&["network", "connect", it.network(), &refresher]).await?;
    let before = refreshes(it, "refresh_success_count").await?;
    more_than(it, "refresh_success_count", before).await.context("it heals")?;
    load.more(50).await?;
    let served = load.end().await?;
    ensure!(served > 200, "{served}");
    Ok(())
}

async fn refreshes(it: &Deployment, count: &str) -> Result<u64> {
    let health = it.health().await?;
    health["oauth_refresh"][count].as_u64().with_context(|| format!("no {count}: {health}"))
}

async fn more_than(it: &Deployment, count: &str, before: u64) -> Result<()> {
    let risen = eventually(SOON, async || {
        let risen = refreshes(it, count).await.is_ok_and(|now| now > before);
        if !risen {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        risen.then_some(())
    });
    risen.await.with_context(|| format!("{count} stays at {before}"))
}
