//! Limits that Envoy's own filters make of the client's name, as `envoy/standalone/rate-limit.yaml` shows.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{Plan, Stack};

use super::{ALICE, BOB};

#[tokio::test]
async fn envoys_own_limits_go_by_the_clients_name() -> Result<()> {
    let client_keys = vec![("alice", ALICE), ("bob", BOB)];
    let mut stack = Stack::prepare(Plan { client_keys, ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/standalone/rate-limit.yaml");
    let example: Value = serde_saphyr::from_str(&std::fs::read_to_string(example)?)?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let filters = bootstrap.pointer_mut(&format!("{manager}/http_filters"));
    let filters = filters.and_then(Value::as_array_mut).context("the HTTP filters")?;
    for filter in example["http_filters"].as_array().context("filters")?.iter().rev() {
        filters.insert(1, filter.clone());
    }
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    let get = async |key: &str| {
        let request = stack.client.get(stack.url("/v1/models")).bearer_auth(key);
        // A client cannot lend itself another's name.
        let request = request.header("x-torchbearer-client", "bob");
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    let mut alice = Vec::new();
    for _ in 0..5 {
        alice.push(get(ALICE).await?);
        assert_eq!(get(BOB).await?, 200);
    }
    assert_eq!(alice, [200, 200, 200, 429, 429]);
    let requests = stack.provider().requests();
    assert_eq!(requests.len(), 8);
    for request in requests {
        assert_eq!(request.header("x-torchbearer-client").count(), 0);
    }
    Ok(())
}
