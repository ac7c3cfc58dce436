//! `envoy/envoy-gateway`: the configuration that Envoy Gateway makes of the manifests.
//!
//! The translation is Envoy Gateway's documented one, for what these manifests use of it.

use anyhow::{Context as _, Result, ensure};
use json_patch::Patch;
use serde_json::{Value, json};
use serde_json_path::JsonPath;

use crate::kubernetes::is_confined;
use crate::proof::{carries, replays, status};
use crate::schema;
use crate::shipped::{kustomize, run, sidecar, valid_for_kubernetes};

const TYPE: &str = "type.googleapis.com/envoy";

/// The API's cluster, as Envoy Gateway names it.
const API: &str = "httproute/torchbearer/torchbearer/rule/0";

fn spec<'a>(manifests: &'a [Value], kind: &str) -> Result<&'a Value> {
    let found = manifests.iter().find(|manifest| manifest["kind"] == kind);
    found.and_then(|manifest| manifest.get("spec")).with_context(|| format!("no {kind}"))
}

/// Namespace and name.
fn identity(manifests: &[Value], kind: &str) -> Result<String> {
    let found = manifests.iter().find(|manifest| manifest["kind"] == kind).context("a manifest")?;
    let text =
        |field: &str| found["metadata"][field].as_str().context("metadata").map(str::to_owned);
    Ok(format!("{}/{}", text("namespace")?, text("name")?))
}

/// The resources of Envoy, by their kind and name.
struct Resources {
    listener: Value,
    routes: Value,
    clusters: Vec<Value>,
}

/// What Envoy Gateway makes of everything but patches.
fn translated(manifests: &[Value]) -> Result<Resources> {
    let gateway = spec(manifests, "Gateway")?;
    let name = format!(
        "{}/{}",
        identity(manifests, "Gateway")?,
        gateway["listeners"][0]["name"].as_str().context("a listener")?
    );
    let rule = &spec(manifests, "HTTPRoute")?["rules"][0];
    let cluster = format!("httproute/{}/rule/0", identity(manifests, "HTTPRoute")?);
    let policy =
        format!("envoyextensionpolicy/{}/wasm/0", identity(manifests, "EnvoyExtensionPolicy")?);
    let wasm = &spec(manifests, "EnvoyExtensionPolicy")?["wasm"][0];
    ensure!(wasm["code"]["type"] == "Image" && wasm["failOpen"] == false, "{wasm}");
    let filter = format!("envoy.filters.http.wasm/{policy}");
    let client = spec(manifests, "ClientTrafficPolicy")?;
    ensure!(client["headers"]["withUnderscoresAction"] == "RejectRequest");
    ensure!(client["path"]["escapedSlashesAction"] == "RejectRequest");
    let manager = json!({
        "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "http2_protocol_options": {"initial_connection_window_size": 1048576,
            "initial_stream_window_size": 65536, "max_concurrent_streams": 100},
        "http_filters": [
            {"name": filter, "disabled": true, "typed_config": {
                "@type": format!("{TYPE}.extensions.filters.http.wasm.v3.Wasm"),
                "config": {
                    "name": wasm["name"],
                    "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue",
                                      "value": wasm["config"].to_string()},
                    // In place of the copy that Envoy Gateway serves.
                    "vm_config": {"vm_id": policy, "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": "/usr/lib/torchbearer/plugin.wasm"}}}
                }}},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{TYPE}.extensions.filters.http.router.v3.Router"),
                "suppress_envoy_headers": true}}
        ],
        "merge_slashes": client["path"]["disableMergeSlashes"] != true,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "server_header_transformation": "PASS_THROUGH",
        "stat_prefix": "http-10080", "use_remote_address": true
    });
    let limit = client["connection"]["bufferLimit"].as_str().context("a limit")?;
    let mebibytes: u32 = limit.strip_suffix("Mi").context("in MiB")?.parse()?;
    let listener = json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 10080}},
        "default_filter_chain": {"name": name, "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]},
        "per_connection_buffer_limit_bytes": mebibytes << 20
    });
    ensure!(rule["matches"][0]["path"] == json!({"type": "PathPrefix", "value": "/"}));
    let target = &rule["backendRefs"][0];
    ensure!(target["kind"] == "Backend" && target["name"] == "torchbearer-api", "{target}");
    let routes = json!({
        "name": name, "ignore_port_in_host_matching": true,
        "virtual_hosts": [{"name": format!("{name}/*"), "domains": ["*"], "routes": [{
            "name": format!("{cluster}/match/0/*"), "match": {"prefix": "/"},
            "route": {"cluster": cluster, "timeout": rule["timeouts"]["request"],
                "host_rewrite_literal": rule["filters"][0]["urlRewrite"]["hostname"],
                "upgrade_configs": [{"upgrade_type": "websocket"}]},
            "typed_per_filter_config": {filter.clone(): {
                "@type": format!("{TYPE}.config.route.v3.FilterConfig"), "config": {}}}
        }]}]
    });
    let api = &spec(manifests, "Backend")?["endpoints"][0]["fqdn"];
    let tls = &spec(manifests, "BackendTLSPolicy")?["validation"];
    ensure!(tls["wellKnownCACertificates"] == "System", "{tls}");
    let socket = format!("{cluster}/tls/0");
    let address =
        json!({"socket_address": {"address": api["hostname"], "port_value": api["port"]}});
    let clusters = vec![json!({
        "name": cluster, "type": "STRICT_DNS", "connect_timeout": "10s",
        "dns_lookup_family": "V4_PREFERRED", "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": address},
            "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"name": socket}}}}]}]},
        "transport_socket_matches": [{"name": socket, "match": {"name": socket},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
                "sni": tls["hostname"],
                "common_tls_context": {"validation_context": {
                    "trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"},
                    "match_typed_subject_alt_names":
                        [{"san_type": "DNS", "matcher": {"exact": tls["hostname"]}}]}}}}}]
    })];
    Ok(Resources { listener, routes, clusters })
}

/// Applies one patch. One that finds nothing is an error.
fn apply(resources: &mut Resources, patch: &Value) -> Result<()> {
    let operation = &patch["operation"];
    let path = operation["path"].as_str().context("a path")?;
    let kind = patch["type"].as_str().context("a type")?;
    if kind.ends_with("cluster.v3.Cluster") && operation["op"] == "add" && path.is_empty() {
        ensure!(operation["value"]["name"] == patch["name"], "{patch}");
        resources.clusters.push(operation["value"].clone());
        return Ok(());
    }
    let resource = match kind.rsplit('.').next() {
        Some("Listener") => Some(&mut resources.listener),
        Some("RouteConfiguration") => Some(&mut resources.routes),
        _ => resources.clusters.iter_mut().find(|cluster| cluster["name"] == patch["name"]),
    };
    let resource = resource.filter(|resource| resource["name"] == patch["name"]);
    let resource = resource.with_context(|| format!("no {}", patch["name"]))?;
    let prefixes = match operation["jsonPath"].as_str() {
        None => vec![String::new()],
        Some(expression) => {
            let found = JsonPath::parse(expression)?.query_located(resource).all();
            found.iter().map(|node| node.location().to_json_pointer()).collect()
        }
    };
    ensure!(!prefixes.is_empty(), "{} finds nothing", operation["jsonPath"]);
    for prefix in prefixes {
        let operation = json!([{"op": operation["op"], "path": format!("{prefix}{path}"),
                                "value": operation["value"]}]);
        let operation: Patch = serde_json::from_value(operation)?;
        json_patch::patch(resource, &operation)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_gateway_serves_and_replays_a_refused_token() -> Result<()> {
    let manifests = kustomize("envoy-gateway").await?;
    schema::hold(&manifests)?;
    let mut resources = translated(&manifests)?;
    for patch in
        spec(&manifests, "EnvoyPatchPolicy")?["jsonPatches"].as_array().context("patches")?
    {
        apply(&mut resources, patch).with_context(|| patch.to_string())?;
    }
    let Resources { mut listener, routes, clusters } = resources;
    let manager = listener.pointer_mut("/default_filter_chain/filters/0/typed_config");
    manager.context("the manager")?["route_config"] = routes;
    let configuration = json!({
        "node": {"id": "proxy", "cluster": "torchbearer"},
        "admin": {"address": {"pipe": {"path": "/run/torchbearer/envoy-admin.sock", "mode": 384}}},
        "static_resources": {"listeners": [listener], "clusters": clusters}
    });
    let mut stack = sidecar().await?;
    valid_for_kubernetes(&stack, &manifests).await?;
    run(&mut stack, &configuration, API).await?;
    carries(&stack, "unused").await?;
    replays(&stack, "unused").await?;
    assert_eq!(status(&stack, "/ready").await?, 200);
    Ok(())
}

#[tokio::test]
async fn the_proxys_pod_has_the_refresher_and_the_filter() -> Result<()> {
    let manifests = kustomize("envoy-gateway").await?;
    let deployment = &spec(&manifests, "EnvoyProxy")?["provider"]["kubernetes"]["envoyDeployment"];
    ensure!(deployment["replicas"] == 1 && deployment["strategy"]["type"] == "Recreate");
    let pod = &deployment["patch"]["value"]["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().context("containers")?;
    let refresher = containers.iter().find(|container| container["name"] == "refresher");
    let refresher = refresher.context("the refresher")?;
    is_confined(pod, refresher)?;
    let image = refresher["image"].as_str().unwrap_or_default();
    ensure!(image.starts_with("registry.example.com/"), "kustomize does not find {image}");
    for container in containers {
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = pod["volumes"].as_array().into_iter().flatten();
            let mut named = volumes.filter(|volume| volume["name"] == mount["name"]);
            ensure!(named.next().is_some(), "{mount} mounts nothing");
        }
    }
    for (kind, volume) in
        [("ConfigMap", "configMap"), ("PersistentVolumeClaim", "persistentVolumeClaim")]
    {
        let manifest = manifests.iter().find(|manifest| manifest["kind"] == kind).context(kind)?;
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        let mut names = volumes.filter_map(|known| {
            let source = known.get(volume)?;
            source.get("name").or_else(|| source.get("claimName"))
        });
        ensure!(
            names.any(|name| *name == manifest["metadata"]["name"]),
            "no volume has the {kind}"
        );
    }
    Ok(())
}
