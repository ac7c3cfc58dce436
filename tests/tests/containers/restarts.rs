//! Envoy and refresher, stopped and started.

use anyhow::{Context as _, Result, ensure};
use tests::Stopwatch;

use crate::deployment::Deployment;
use crate::engine::docker;
use crate::load::Load;

/// How often each is restarted under load.
const RESTARTS: usize = 20;

pub async fn in_each_order_nothing_goes_without_a_bearer(it: &mut Deployment) -> Result<()> {
    let (refresher, envoy) = (it.container("refresher").await?, it.container("envoy").await?);
    for order in [[&envoy, &refresher], [&refresher, &envoy]] {
        docker(&["kill", &refresher, &envoy]).await?;
        for container in order {
            docker(&["start", container]).await?;
            // Meanwhile there is no answer, a refusal, or the API's: the audit looks at what came.
            let status = it.status("/v1/models").await;
            ensure!([0, 200, 503].contains(&status), "{status}");
        }
        it.serves().await?;
    }
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
