//! More than one Envoy.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::eventually;
use tokio::task::JoinSet;

use crate::deployment::{Deployment, SOON};
use crate::engine::docker;
use crate::load::Load;

/// How many streams there are, and of how many events, so far apart.
const STREAMS: usize = 12;
const EVENTS: usize = 80;
const APART_MS: u64 = 100;

/// How many requests wait for an Envoy that stands still.
const LATE: usize = 8;

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
    let (first, of_first) = (it.container("envoy").await?, workers(it).await?);
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
    all_serve(it, "20s").await?;

    // Of one that stands still, the refresher tells what it serves, and of the other what that does.
    let second = it.containers("envoy").await?.into_iter().find(|id| *id != first);
    let second = second.context("there is no second")?;
    let before = it.provider.count("refreshes").await?;
    docker(&["pause", &second]).await?;
    it.provider.order("kill", &json!({})).await?;
    let served = it.serves().await;
    let waited = all_serve(it, "3s").await;
    let known = workers(it).await;
    // It may send these with the old token, and so report that as refused when all is done.
    let mut late = JoinSet::new();
    for _ in 0..LATE {
        let request = it.client.get(it.url(1, "/v1/models")).bearer_auth(&it.key);
        late.spawn(request.timeout(SOON).send());
    }
    docker(&["unpause", &second]).await?;
    served?;
    while let Some(answer) = late.join_next().await {
        let status = answer??.status();
        ensure!(status == 200, "{status}");
    }
    let renewed = it.provider.count("refreshes").await? - before;
    ensure!(renewed == 1, "the token was renewed {renewed} times");
    let said = waited.err().context("both serve it")?.to_string();
    ensure!(said.contains("exit status: 5") && said.contains("behind generation"), "{said}");
    let known = known?;
    let newest = known.values().max().context("no worker is known")?;
    for (id, generation) in &known {
        ensure!((generation == newest) == of_first.contains_key(id), "{id}, of {known:?}");
    }
    ensure!(known.len() > of_first.len(), "{known:?}");
    all_serve(it, "20s").await.context("when it goes on")
}

/// Waits until all workers serve what is published.
async fn all_serve(it: &Deployment, within: &str) -> Result<()> {
    let wait = ["status", "--wait-generation", "current", "--timeout", within];
    it.refresher(&wait).await.map(drop)
}

/// The workers that the refresher knows, and what each of them serves.
async fn workers(it: &Deployment) -> Result<BTreeMap<String, u64>> {
    let status: Value = serde_json::from_str(&it.refresher(&["status", "--json"]).await?)?;
    let workers = status["overview"]["workers"].as_array().context("no workers")?;
    let known = workers.iter().map(|worker| {
        let id = worker["id"].as_str()?.to_owned();
        Some((id, worker["generation"].as_u64()?))
    });
    known.collect::<Option<_>>().with_context(|| format!("not told: {status}"))
}

async fn add_a_second(it: &Deployment) -> Result<()> {
    it.compose(&["up", "--detach", "--no-recreate", "--scale", "envoy=2"]).await?;
    let serves = eventually(SOON, async || {
        let request = it.client.get(it.url(1, "/v1/models")).bearer_auth(&it.key);
        (request.send().await.ok()?.status() == 200).then_some(())
    });
    serves.await.context("the second Envoy serves")
}
