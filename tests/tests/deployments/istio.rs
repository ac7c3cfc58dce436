//! `envoy/istio`: the configuration that Istio makes of the manifests for a gateway's Envoy.
//!
//! The translation is Istio's documented one, for what these manifests use of it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{Stack, eventually};

use crate::kubernetes::{has_one_login, is_confined};
use crate::merge::merge;
use crate::proof::{carries, chat, recovers, replays, status};
use crate::schema;
use crate::shipped::{kustomize, run, sidecar, valid_for_kubernetes};

/// The API's cluster, as Istio names it.
const API: &str = "outbound|443||api.x.ai";

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(20);

const TYPE: &str = "type.googleapis.com/envoy";

fn of_kind<'a>(manifests: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    manifests.iter().filter(move |manifest| manifest["kind"] == kind)
}

fn spec<'a>(manifests: &'a [Value], kind: &'a str) -> Result<&'a Value> {
    let found = of_kind(manifests, kind).next().with_context(|| format!("no {kind}"))?;
    found.get("spec").context("no spec")
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no string"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The cluster of a `ServiceEntry`, with the TLS of its `DestinationRule`.
fn cluster(manifests: &[Value]) -> Result<Value> {
    let (entry, rule) = (spec(manifests, "ServiceEntry")?, spec(manifests, "DestinationRule")?);
    ensure!(entry["resolution"] == "DNS" && entry["hosts"][0] == rule["host"]);
    let (host, port) = (text(&entry["hosts"][0])?, &entry["ports"][0]["number"]);
    let tls = &rule["trafficPolicy"]["tls"];
    ensure!(tls["mode"] == "SIMPLE", "{tls}");
    let names = list(&tls["subjectAltNames"]);
    let names = names.map(|name| json!({"san_type": "DNS", "matcher": {"exact": name}}));
    let name = format!("outbound|{port}||{host}");
    let address = json!({"socket_address": {"address": host, "port_value": port}});
    Ok(json!({
        "name": name, "type": "STRICT_DNS", "connect_timeout": "10s",
        "dns_lookup_family": "V4_ONLY",
        "circuit_breakers": {"thresholds": [{"max_connections": 4294967295_u32, "max_pending_requests": 4294967295_u32,
            "max_requests": 4294967295_u32, "max_retries": 4294967295_u32}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": tls["sni"],
            "common_tls_context": {"validation_context": {
                "trusted_ca": {"filename": tls["caCertificates"]},
                "match_typed_subject_alt_names": names.collect::<Vec<_>>()}}}}
    }))
}

/// The virtual host of a `VirtualService`.
fn virtual_host(manifests: &[Value]) -> Result<Value> {
    let service = spec(manifests, "VirtualService")?;
    let mut routes = Vec::new();
    for http in list(&service["http"]) {
        let target = &http["route"][0]["destination"];
        ensure!(http["retries"]["attempts"] == 0, "Istio would repeat it: {http}");
        routes.push(json!({
            "name": http["name"], "match": http["match"][0]["uri"],
            "request_headers_to_remove": http["headers"]["request"]["remove"],
            "route": {
                "cluster": format!("outbound|{}||{}", target["port"]["number"], text(&target["host"])?),
                "host_rewrite_literal": http["rewrite"]["authority"], "timeout": http["timeout"]
            }
        }));
    }
    Ok(json!({"name": "*:8080", "domains": service["hosts"], "routes": routes}))
}

/// The filter of a `WasmPlugin`, after the agent has fetched the image.
fn wasm(plugin: &Value) -> Result<Value> {
    let name = format!("istio-ingress.{}", text(&plugin["metadata"]["name"])?);
    let plugin = &plugin["spec"];
    ensure!(text(&plugin["url"])?.starts_with("oci://"), "{plugin}");
    let policy = match text(&plugin["failStrategy"])? {
        "FAIL_CLOSE" => "FAIL_CLOSED",
        other => other,
    };
    Ok(json!({
        "name": format!("extenstions.istio.io/wasmplugin/{name}"),
        "typed_config": {"@type": format!("{TYPE}.extensions.filters.http.wasm.v3.Wasm"), "config": {
            "name": name, "failure_policy": policy,
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue",
                              "value": plugin["pluginConfig"].to_string()},
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": "/usr/lib/torchbearer/plugin.wasm"}},
                "environment_variables": {"key_values": {
                    "ISTIO_META_WASM_IMAGE_PULL_POLICY": plugin["imagePullPolicy"],
                    "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"}}}
        }}
    }))
}

fn filter(name: &str, kind: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": format!("{TYPE}.extensions.filters.http.{kind}")}})
}

/// What Istio makes of its own resources.
fn translated(manifests: &[Value]) -> Result<Value> {
    let server = &spec(manifests, "Gateway")?["servers"][0]["port"];
    ensure!(server["protocol"] == "HTTP", "{server}");
    let mut filters: Vec<Value> =
        of_kind(manifests, "WasmPlugin").map(wasm).collect::<Result<_>>()?;
    filters.push(filter("envoy.filters.http.fault", "fault.v3.HTTPFault"));
    filters.push(filter("envoy.filters.http.cors", "cors.v3.Cors"));
    filters.push(filter("envoy.filters.http.router", "router.v3.Router"));
    let manager = json!({
        "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": format!("outbound_0.0.0.0_{}", server["number"]),
        "server_name": "istio-envoy", "use_remote_address": true, "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": true, "cert": true, "dns": true, "uri": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"name": format!("http.{}", server["number"]),
                         "virtual_hosts": [virtual_host(manifests)?]},
        "http_filters": filters
    });
    let listener = json!({
        "name": format!("0.0.0.0_{}", server["number"]),
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": server["number"]}},
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]
    });
    Ok(json!({
        "node": {"id": "router", "cluster": "torchbearer"},
        "admin": {"address": {"pipe": {"path": "/run/torchbearer/envoy-admin.sock", "mode": 384}}},
        "static_resources": {"listeners": [listener], "clusters": [cluster(manifests)?]}
    }))
}

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0";

/// Applies one patch of an `EnvoyFilter`. One that matches nothing is an error here, though not to
/// Istio.
fn apply(configuration: &mut Value, patch: &Value) -> Result<()> {
    let (target, with) = (&patch["match"], &patch["patch"]);
    ensure!(target["context"] == "GATEWAY", "{target}");
    let at = |configuration: &mut Value, path: &str| {
        configuration.pointer_mut(path).map(Value::take).with_context(|| path.to_owned())
    };
    let filters = format!("{MANAGER}/typed_config/http_filters");
    let host = format!("{MANAGER}/typed_config/route_config/virtual_hosts/0");
    let chosen = &target["listener"]["filterChain"]["filter"];
    let network = "envoy.filters.network.http_connection_manager";
    let path = match text(&patch["applyTo"])? {
        "CLUSTER" => "/static_resources/clusters".to_owned(),
        "NETWORK_FILTER" => MANAGER.to_owned(),
        "HTTP_FILTER" => filters,
        "HTTP_ROUTE" => format!("{host}/routes"),
        "VIRTUAL_HOST" => host,
        other => bail!("{other} is not translated here"),
    };
    let mut place = at(configuration, &path)?;
    let value = &with["value"];
    let elements = place.as_array_mut();
    match (text(&patch["applyTo"])?, text(&with["operation"])?, elements) {
        ("CLUSTER", "ADD", Some(clusters)) => clusters.push(value.clone()),
        ("CLUSTER", "MERGE", Some(clusters)) => {
            let target = &target["cluster"];
            let name = format!("outbound|{}||{}", target["portNumber"], text(&target["service"])?);
            let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == name.as_str());
            merge(cluster.with_context(|| format!("no cluster {name}"))?, value);
        }
        ("NETWORK_FILTER", "MERGE", _) if chosen["name"] == network => merge(&mut place, value),
        ("HTTP_FILTER", "INSERT_FIRST", Some(filters)) if chosen["name"] == network => {
            filters.insert(0, value.clone());
        }
        ("HTTP_FILTER", "MERGE", Some(filters)) if chosen["name"] == network => {
            let name = &chosen["subFilter"]["name"];
            let filter = filters.iter_mut().find(|filter| filter["name"] == *name);
            merge(filter.with_context(|| format!("no filter {name}"))?, value);
        }
        ("HTTP_ROUTE", "INSERT_FIRST", Some(routes)) => routes.insert(0, value.clone()),
        ("HTTP_ROUTE", "MERGE", Some(routes)) => {
            let name = &target["routeConfiguration"]["vhost"]["route"]["name"];
            let route = routes.iter_mut().find(|route| route["name"] == *name);
            merge(route.with_context(|| format!("no route {name}"))?, value);
        }
        ("VIRTUAL_HOST", "MERGE", _) => merge(&mut place, value),
        other => bail!("{other:?} is not translated here"),
    }
    *configuration.pointer_mut(&path).context("the place")? = place;
    Ok(())
}

/// The manifests of an overlay, and Envoy's configuration.
async fn made(overlay: &str) -> Result<(Vec<Value>, Value)> {
    let manifests = kustomize(overlay).await?;
    schema::hold(&manifests)?;
    let mut configuration = translated(&manifests)?;
    for filter in of_kind(&manifests, "EnvoyFilter") {
        for patch in list(&filter["spec"]["configPatches"]) {
            apply(&mut configuration, patch).with_context(|| patch.to_string())?;
        }
    }
    Ok((manifests, configuration))
}

/// What holds for the pod, and that everything of Istio's selects it.
fn is_selected(manifests: &[Value]) -> Result<()> {
    let deployment = of_kind(manifests, "Deployment").next().context("no Deployment")?;
    has_one_login(deployment)?;
    let template = &deployment["spec"]["template"];
    for container in list(&template["spec"]["containers"]) {
        is_confined(&template["spec"], container)?;
    }
    let label = |selector: &Value| {
        let (name, value) = ("app.kubernetes.io/name", "torchbearer");
        selector[name] == value && template["metadata"]["labels"][name] == value
    };
    for (kind, path) in [
        ("EnvoyFilter", "/spec/workloadSelector/labels"),
        ("WasmPlugin", "/spec/selector/matchLabels"),
        ("Gateway", "/spec/selector"),
        ("Service", "/spec/selector"),
    ] {
        for manifest in of_kind(manifests, kind) {
            ensure!(manifest.pointer(path).is_some_and(label), "{kind} selects nothing");
        }
    }
    Ok(())
}

/// A client key that the running refresher publishes.
async fn key(stack: &Stack, arguments: &[&str]) -> Result<String> {
    let arguments = [&["keys", "add"], arguments].concat();
    let output = stack.refresher_command(&arguments)?.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn one_filter_serves_and_replaces_a_refused_token() -> Result<()> {
    let (manifests, configuration) = made("istio/one-filter").await?;
    is_selected(&manifests)?;
    let mut stack = sidecar().await?;
    valid_for_kubernetes(&stack, &manifests).await?;
    run(&mut stack, &configuration, API).await?;
    carries(&stack, "unused").await?;
    recovers(&stack, "unused").await?;
    assert_eq!(status(&stack, "/ready").await?, 200);
    // As the README says: keys hold, but a request whose body has to be read for its model hangs.
    let limited = key(&stack, &["alice", "--model", "grok-4"]).await?;
    let required = async || (status(&stack, "/v1/models").await.ok()? == 401).then_some(());
    eventually(SOON, required).await.context("no key is asked for")?;
    carries(&stack, &key(&stack, &["bob"]).await?).await?;
    let answer = chat(&stack, &limited).timeout(Duration::from_secs(2)).send().await;
    ensure!(answer.is_err_and(|error| error.is_timeout()), "the README says what it cannot do");
    Ok(())
}

#[tokio::test]
async fn two_filters_serve_and_replay_a_refused_token() -> Result<()> {
    let (manifests, configuration) = made("istio/two-filters").await?;
    is_selected(&manifests)?;
    let mount = "/usr/lib/torchbearer";
    let mounted = manifests.iter().any(|manifest| manifest.to_string().contains(mount));
    ensure!(mounted, "the module is not in the proxy's container");
    let mut stack = sidecar().await?;
    valid_for_kubernetes(&stack, &manifests).await?;
    run(&mut stack, &configuration, API).await?;
    carries(&stack, "unused").await?;
    replays(&stack, "unused").await?;
    assert_eq!(status(&stack, "/ready").await?, 200);
    Ok(())
}
