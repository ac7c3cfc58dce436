//! Envoy and refresher, stopped and started.

use anyhow::{Context as _, Result, ensure};
use tests::{Stopwatch, eventually};

use crate::deployment::{Deployment, SOON};
use crate::engine::docker;
use crate::load::Load;

/// How often each is restarted under load.
const RESTARTS: usize = 20;

pub async fn in_each_order_nothing_goes_without_a_bearer(it: &mut Deployment) -> Result<()> {
    let (refresher, envoy) = (it.container("refresher").await?, it.container("envoy").await?);
    docker(&["kill", &refresher, &envoy]).await?;
    docker(&["start", &envoy]).await?;
    // An Envoy that has no bundle yet refuses: one that is still starting gives no answer.
    let before = it.provider.count("api_requests").await?;
    let refused = eventually(SOON, async || match it.status("/v1/models").await {
        0 => None,
        status => Some(status),
    });
    let status = refused.await.context("Envoy alone gives no answer")?;
    ensure!(status == 503, "{status}");
    ensure!(it.provider.count("api_requests").await? == before, "it reached the API");
    docker(&["start", &refresher]).await?;
    it.serves().await.context("with the refresher behind Envoy")?;

    docker(&["kill", &refresher, &envoy]).await?;
    docker(&["start", &refresher]).await?;
    docker(&["start", &envoy]).await?;
    // Meanwhile there is no answer, a refusal, or the API's: the audit looks at what came.
    let status = it.status("/v1/models").await;
    ensure!([0, 200, 503].contains(&status), "{status}");
    it.serves().await?;
    // Both at once, as after a restart of the machine.
    docker(&["restart", "--time", "5", &refresher, &envoy]).await?;
    it.serves().await
}

pub async fn twenty_of_each_under_load_lose_nothing_else(it: &mut Deployment) -> Result<()> {
    let (refresher, envoy) = (it.container("refresher").await?, it.container("envoy").await?);
    let before = it.provider.count("refreshes").await?;
    let load = Load::start(it, 0)?;
    let watch = Stopwatch::start();
    for _ in 0..RESTARTS {
        // Of a refresher that goes and comes, no client notices anything.
        docker(&["restart", "--time", "5", &refresher]).await?;
        load.more(10).await?;
        // Of an Envoy that is killed, those notice it whose connections end with it.
        load.set_away(true);
        docker(&["kill", &envoy]).await?;
        docker(&["start", &envoy]).await?;
        it.serves().await?;
        load.set_away(false);
        load.more(10).await?;
    }
    let served = load.end().await?;
    let renewed = it.provider.count("refreshes").await? - before;
    println!("{RESTARTS} of each in {:?}, {served} requests, {renewed} refreshes", watch.elapsed());
    ensure!(renewed >= 2, "the token was renewed {renewed} times");
    it.refresher(&["status", "--running"]).await.context("the login is good").map(drop)
}
