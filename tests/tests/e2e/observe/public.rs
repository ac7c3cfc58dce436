//! The refresher's pages on Envoy's listener: with a key, or open where that is configured.

use anyhow::{Context as _, Result};
use filter::management::PublicPaths;
use refresher::config::Proxy;
use serde_json::Value;
use tests::{Plan, Stack, eventually};

use super::{ALICE, SOON, serves};

fn plan(public: &[&str]) -> Result<Plan> {
    let public: Vec<_> = public.iter().map(|path| (*path).to_owned()).collect();
    let public_paths = PublicPaths::of(&public).context("a page")?;
    let proxy = Proxy { public_paths, ..Proxy::default() };
    Ok(Plan { client_keys: vec![("alice", ALICE)], proxy, workers: 1, ..Plan::default() })
}

async fn status(stack: &Stack, method: &str, target: &str) -> Result<u16> {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: example.com\r\n");
    Ok(stack.raw(format!("{head}connection: close\r\n\r\n").as_bytes()).await?.status)
}

const PAGES: [&str; 4] = ["/health", "/health?a=b", "/ready", "/metrics"];

#[tokio::test]
async fn the_pages_need_a_key_unless_they_are_public_and_open_nothing_else() -> Result<()> {
    let stack = Stack::start(plan(&[])?).await?;
    serves(&stack).await?;
    for target in PAGES {
        assert_eq!(status(&stack, "GET", target).await?, 401, "{target}");
        let request = stack.client.get(stack.url(target)).bearer_auth(ALICE);
        assert_eq!(request.send().await?.status(), 200, "{target}");
    }
    drop(stack);

    let stack = Stack::start(plan(&["/health", "/metrics"])?).await?;
    serves(&stack).await?;
    let seen = stack.provider().requests().len();
    for (method, target, expected) in [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/ready", 401),
        ("GET", "/health?deep=1", 401),
        ("GET", "/health?", 401),
        ("GET", "/health/", 401),
        ("GET", "/healthz", 401),
        ("GET", "/metrics/../v1/models", 400),
        ("GET", "//health", 400),
        ("POST", "/health", 401),
        ("DELETE", "/metrics", 401),
        ("GET", "/v1/models", 401),
        ("GET", "/v1/health", 401),
        ("GET", "/", 401),
    ] {
        assert_eq!(status(&stack, method, target).await?, expected, "{method} {target}");
    }
    // A wrong key, or one that is good for other paths, is no worse than none.
    let wrong = stack.client.get(stack.url("/health")).bearer_auth("wrong");
    assert_eq!(wrong.send().await?.status(), 200);
    assert_eq!(stack.provider().requests().len(), seen, "something reached the API");
    Ok(())
}

#[tokio::test]
async fn a_public_page_without_a_route_to_the_refresher_does_not_reach_the_api() -> Result<()> {
    let mut stack = Stack::prepare(plan(&["/health"])?).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let routes = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config\
                  /route_config/virtual_hosts/0/routes";
    let routes = bootstrap.pointer_mut(routes).and_then(Value::as_array_mut).context("routes")?;
    routes.retain(|route| route["name"] != "health");
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    serves(&stack).await?;
    let seen = stack.provider().requests().len();
    assert_eq!(status(&stack, "GET", "/health").await?, 503);
    let refused = eventually(SOON, async || {
        let metrics = stack.metrics().await.ok()?;
        metrics.value("torchbearer_refusals_total", &[("code", "not_admitted")])
    });
    assert_eq!(refused.await, Some(1.0));
    assert_eq!(stack.provider().requests().len(), seen, "it reached the API");
    Ok(())
}
