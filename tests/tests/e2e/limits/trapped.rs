//! A filter that traps takes its requests along, and their places.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use serde_json::{Map, Value, json};
use tests::{Plan, Stack, Stopwatch, eventually};

use super::{ALICE, key, open};

/// What the module may call and export, but for answering by itself: an attempt to do that traps.
const CAPABILITIES: &[&str] = &[
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proxy_add_header_map_value",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_http_call_response",
    "proxy_on_memory_allocate",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_headers",
    "proxy_on_response_trailers",
    "proxy_on_tick",
    "proxy_on_vm_start",
    "proxy_record_metric",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_set_effective_context",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    "random_get",
];

/// The bootstrap with the filter's capabilities restricted, where this Envoy has the setting: with the
/// VM, or beside it (before 1.40).
fn restricted(bootstrap: &str, with_vm: bool) -> Result<String> {
    let mut bootstrap: Value = serde_json::from_str(bootstrap)?;
    let allowed: Map<_, _> =
        CAPABILITIES.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    for place in [
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0",
        "/static_resources/clusters/0/typed_extension_protocol_options/\
         envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters/0",
    ] {
        let place =
            format!("{place}/typed_config/config{}", if with_vm { "/vm_config" } else { "" });
        let config = bootstrap.pointer_mut(&place).context("the filter's configuration")?;
        config["capability_restriction_config"] = json!({"allowed_capabilities": allowed});
    }
    Ok(bootstrap.to_string())
}

#[tokio::test]
async fn a_trap_frees_the_places_of_the_requests_that_ended_with_it() -> Result<()> {
    let limited = ClientKey { concurrency: 1, ..key("alice", ALICE)? };
    let plan = Plan { limited_keys: vec![limited], workers: 1, ..Plan::default() };
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let bootstrap = stack.bootstrap()?;
    if stack.start_envoy_with(&restricted(&bootstrap, true)?).await.is_err() {
        stack.start_envoy_with(&restricted(&bootstrap, false)?).await?;
    }
    let held = open(&stack, ALICE).await?;
    assert_eq!(held.status(), 200);
    let traps = async || Some(stack.envoy().ok()?.log().matches("torchbearer: panic at").count());
    assert_eq!(traps().await, Some(0));
    // A refusal cannot be sent.
    let refused = stack.client.get(stack.url("/v1/models")).send().await;
    ensure!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 503));
    assert_eq!(traps().await, Some(1), "the filter has trapped");
    drop(held);
    let watch = Stopwatch::start();
    let free = eventually(Duration::from_secs(30), async || {
        // Each one that is refused meanwhile traps as well.
        tokio::time::sleep(Duration::from_millis(500)).await;
        open(&stack, ALICE).await.ok().filter(|answer| answer.status() == 200)
    });
    free.await.context("the place is not freed")?;
    println!("freed after {:?}, {:?} traps", watch.elapsed(), traps().await);
    ensure!(watch.elapsed() < Duration::from_secs(20));
    Ok(())
}
