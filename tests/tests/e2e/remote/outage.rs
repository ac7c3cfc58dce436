//! The refresher, or the network to it, is away.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use simulator::Options;
use tests::{Plan, Stopwatch, eventually, unix_request};

use super::machine::{Machine, Traffic, workers};
use super::{KEY, SOON, Site};

/// A token's life in the test of an outage, in seconds.
const LIFE: u64 = 15;

const EAST: &str = "spiffe://example.org/envoy/east";
const WEST: &str = "spiffe://example.org/envoy/west";

fn plan() -> Plan {
    Plan { client_keys: vec![("alice", KEY)], ..Plan::default() }
}

/// What the default credential's health says.
async fn health(site: &Site, field: &str) -> Result<u64> {
    let health = unix_request(&site.stack.socket(), "GET", "/health", "").await?.json();
    health[field].as_u64().with_context(|| health.to_string())
}

#[tokio::test]
async fn a_refresher_that_is_away_for_two_fifths_of_a_token_s_life_costs_no_request() -> Result<()>
{
    let machine = Machine::new()?;
    let provider = Options { token_life: LIFE, approve_device: true, ..Options::default() };
    let settings = "[rotation]\nspacing = 1\n".to_owned();
    let plan = Plan { provider, settings, ..plan() };
    let any = Ipv4Addr::UNSPECIFIED.into();
    let mut site = Site::start(plan, any, &["spiffe://example.org/envoy/*"]).await?;
    let envoy = machine.envoy(&site, "east", EAST).await?;
    let traffic = Traffic::start([envoy.url(), envoy.url()])?;
    // Not long before the token is renewed, at half of its life give or take a tenth: the worst
    // moment that surely meets no renewal under way.
    let about = eventually(SOON, async || {
        let left = health(&site, "token_seconds_to_expiry").await.ok()?;
        (left == LIFE / 2 + 2).then_some(())
    });
    about.await.context("the token does not come of age")?;
    let refreshes = site.stack.provider().summary().refreshes;
    site.stack.take_refresher()?.kill().await?;
    tokio::time::sleep(Duration::from_secs(LIFE * 2 / 5)).await;
    assert_eq!(site.stack.provider().summary().refreshes, refreshes, "nobody was there to refresh");
    site.stack.start_refresher().await?;
    // Longer than the token that there was, so that requests live on the next ones.
    let renewed = eventually(Duration::from_secs(LIFE), async || {
        (site.stack.provider().summary().refreshes >= refreshes + 2).then_some(())
    });
    renewed.await.context("the token is not renewed")?;
    let served = traffic.end().await?;
    ensure!(served > 200, "{served}");
    assert_eq!(site.stack.provider().summary().spent_twice, 0);
    Ok(())
}

#[tokio::test]
async fn a_network_that_is_cut_and_heals_costs_no_request_and_all_workers_are_told_apart()
-> Result<()> {
    let (east, west) = (Machine::new()?, Machine::new()?);
    let any = Ipv4Addr::UNSPECIFIED.into();
    let mut site = Site::start(plan(), any, &[EAST, WEST]).await?;
    site.stack.start_envoy().await?;
    let (near, far) =
        tokio::try_join!(east.envoy(&site, "east", EAST), west.envoy(&site, "west", WEST))?;
    // Each has one worker and its main thread; the one beside the refresher two, and that.
    let here = "(here)";
    let names = [here, here, here, EAST, EAST, WEST, WEST];
    let mut generation = 0;
    let known = eventually(SOON, async || {
        let (published, all) = workers(&site.stack).await.ok()?;
        let current = all.iter().all(|(_, serves)| *serves == published);
        generation = published;
        (current && all.iter().map(|(envoy, _)| envoy.as_str()).eq(names)).then_some(())
    });
    known.await.with_context(|| "not all workers are known")?;

    let traffic = Traffic::start([near.url(), far.url()])?;
    west.cut()?;
    // A rotation, which leaves the older token good.
    let bundle = unix_request(&site.stack.socket(), "GET", "/v1/bundle", "").await?.json();
    let token = &bundle["credentials"]["default"]["generation"];
    let rejection = json!({"credential": "default", "generation": token, "status": 401});
    unix_request(&site.stack.socket(), "POST", "/v1/rejections", &rejection.to_string()).await?;
    let told = eventually(SOON, async || {
        let (published, all) = workers(&site.stack).await.ok()?;
        let behind = all.iter().filter(|(_, serves)| *serves < published);
        let behind: Vec<_> = behind.map(|(envoy, _)| envoy.as_str()).collect();
        (published > generation && behind == [WEST, WEST]).then_some(())
    });
    told.await.context("not all but those behind the cut have the newer token")?;
    let wait = |timeout| ["status", "--wait-generation", "current", "--timeout", timeout];
    let waited = site.stack.refresher_command(&wait("1s"))?.output().await?;
    let said = String::from_utf8_lossy(&waited.stdout) + String::from_utf8_lossy(&waited.stderr);
    ensure!(waited.status.code() == Some(5), "{:?}: {said}", waited.status);
    ensure!(said.contains(WEST) && !said.contains(EAST), "{said}");

    west.heal()?;
    let since = Stopwatch::start();
    let waited = site.stack.refresher_command(&wait("30s"))?.output().await?;
    ensure!(waited.status.success(), "{waited:?}");
    println!("healed after {:?}", since.elapsed());
    let served = traffic.end().await?;
    ensure!(served > 50, "{served}");
    // What the metrics page says of workers has their Envoy's name.
    let page = unix_request(&site.stack.socket(), "GET", "/metrics", "").await?.body;
    ensure!(page.contains(&format!(",envoy=\"{WEST}\"}} ")), "{page}");
    Ok(())
}
