//! More than one Envoy.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::eventually;
use tokio::task::JoinSet;

use crate::deployment::{Deployment, SOON};
use crate::engine::docker;
use crate::load::Load;

/// How many streams there are, and of how many events, so far apart.
const STREAMS: usize = 12;
const EVENTS: usize = 80;
const APART_MS: u64 = 100;

pub async fn one_is_replaced_by_another_and_streams_stay_whole(it: &mut Deployment) -> Result<()> {
    let first = it.container("envoy").await?;
    let before = it.provider.count("api_requests").await?;
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let body = json!({"model": "grok-4", "stream": true, "x_chunks": EVENTS,
            "x_delay_ms": APART_MS, "messages": [{"role": "user", "content": "Hello"}]});
        let request = it.client.post(it.url(0, "/v1/chat/completions")).bearer_auth(&it.key);
        streams.spawn(request.json(&body).send());
    }
    let started = eventually(SOON, async || {
        let begun = it.provider.count("api_requests").await.ok()? - before;
        (begun >= STREAMS as u64).then_some(())
    });
    started.await.context("the streams begin")?;

    add_a_second(it).await?;
    let load = Load::start(it, 1)?;
    load.more(50).await?;
    // What is new goes to the second; the first goes when its last stream has ended.
    while let Some(answer) = streams.join_next().await {
        let answer = answer??;
        ensure!(answer.status() == 200, "{}", answer.status());
        let text = answer.text().await.context("a stream was cut")?;
        let events = text.lines().filter(|line| line.starts_with("data: ")).count();
        ensure!(events >= EVENTS && text.ends_with("data: [DONE]\n\n"), "{events} events: {text}");
    }
    docker(&["stop", "--time", "5", &first]).await?;
    load.more(50).await?;
    load.end().await.map(drop)
}

pub async fn two_share_a_refresher(it: &mut Deployment) -> Result<()> {
    add_a_second(it).await?;
    let loads = [Load::start(it, 0)?, Load::start(it, 1)?];
    for load in &loads {
        load.more(20).await?;
    }
    // A token that both find refused is renewed once.
    let before = it.provider.count("refreshes").await?;
    it.provider.order("kill", &json!({})).await?;
    for load in loads {
        load.more(50).await?;
        load.end().await?;
    }
    let renewed = it.provider.count("refreshes").await? - before;
    ensure!(renewed == 1, "the token was renewed {renewed} times");
    it.refresher(&["status", "--wait-generation", "current", "--timeout", "20s"]).await?;
    Ok(())
}

async fn add_a_second(it: &Deployment) -> Result<()> {
    it.compose(&["up", "--detach", "--no-recreate", "--scale", "envoy=2"]).await?;
    let serves = eventually(SOON, async || {
        let request = it.client.get(it.url(1, "/v1/models")).bearer_auth(&it.key);
        (request.send().await.ok()?.status() == 200).then_some(())
    });
    serves.await.context("the second Envoy serves")
}
