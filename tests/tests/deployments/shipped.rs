//! The shipped files, and what is to be changed in them for this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, envoy_binary, filter_module, python};
use tokio::process::Command;

/// How long a tool may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The versions of Kubernetes whose schemas the manifests are held against.
const KUBERNETES: [&str; 3] = ["1.35", "1.36", "1.37"];

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The folder `envoy/`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy")
}

/// A shipped file.
pub fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(folder().join(path)).with_context(|| path.to_owned())
}

/// The documents of a text in YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(text)?)
}

/// The one document of a text in YAML.
pub fn document(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

async fn output(command: &mut Command, remedy: &str) -> Result<String> {
    let running = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running).await?.context(remedy.to_owned())?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {said}{errors} ({remedy})", output.status);
    // kubectl tells in this way of fields that will not be read for ever.
    ensure!(!errors.contains("deprecated"), "{errors}");
    Ok(said)
}

/// What kustomize makes of a folder.
pub async fn kustomize(path: &str) -> Result<Vec<Value>> {
    let mut command = Process::command("kubectl");
    command.env("HOME", "/nonexistent").arg("kustomize").arg(folder().join(path));
    let remedy = "needed is kubectl 1.27 or later; run `apt-get install kubernetes-client`, \
                  of Debian 13 or later";
    documents(&output(&mut command, remedy).await?)
}

/// Holds Kubernetes' own manifests among these against its schemas, strictly.
pub async fn valid_for_kubernetes(stack: &Stack, manifests: &[Value]) -> Result<()> {
    let own = |manifest: &&Value| {
        let group = manifest["apiVersion"].as_str().unwrap_or_default();
        !group.contains('.') || group.ends_with(".k8s.io/v1") && !group.starts_with("gateway.")
    };
    let own: Vec<_> = manifests.iter().filter(own).map(Value::to_string).collect();
    let file = stack.dir().join("manifests.yaml");
    std::fs::write(&file, own.join("\n---\n"))?;
    let mut command = Process::command(python()?);
    command.args(["-m", "kubernetes_validate", "--strict"]);
    for version in KUBERNETES {
        command.args(["-k", version]);
    }
    let said = output(command.arg(&file), "run `make python`").await?;
    let passed = said.lines().filter(|line| line.starts_with("INFO")).count();
    ensure!(passed == own.len() * KUBERNETES.len(), "{said}");
    Ok(())
}

/// Has Envoy look at a configuration, as a file in the stack's folder.
pub async fn valid_for_envoy(stack: &Stack, configuration: &Value) -> Result<()> {
    let file = stack.dir().join("looked-at.json");
    std::fs::write(&file, configuration.to_string())?;
    let mut command = Process::command(envoy_binary()?);
    command.args(["--mode", "validate", "--use-dynamic-base-id", "-l", "warning", "-c"]);
    output(command.arg(file), "Envoy does not accept it").await.map(drop)
}

/// A provider that is logged in to, with a refresher and without an Envoy.
pub async fn sidecar() -> Result<Stack> {
    sidecar_as(Plan::default()).await
}

/// The same, otherwise than usual.
pub async fn sidecar_as(plan: Plan) -> Result<Stack> {
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    Ok(stack)
}

/// A configuration with the paths of this machine.
pub fn here(stack: &Stack, configuration: &str) -> Result<String> {
    let module = filter_module()?.display().to_string();
    let modules =
        ["/usr/lib/torchbearer/plugin.wasm", "/etc/envoy/filter.wasm", "target/filter.wasm"];
    let text = modules.iter().fold(configuration.to_owned(), |text, path| {
        text.replace(&format!("\"{path}\""), &format!("\"{module}\""))
    });
    Ok(text.replace("/run/torchbearer", &stack.state_dir().display().to_string()))
}

/// Lets a cluster that leads to the API over TLS lead to the provider's simulator, which has none.
pub fn to_the_simulator(stack: &Stack, cluster: &mut Value) -> Result<()> {
    let (host, port) = simulator(stack)?;
    let socket = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    *cluster.pointer_mut(socket).context("the API's address")? =
        json!({"address": host, "port_value": port});
    let members = cluster.as_object_mut().context("a cluster")?;
    let tls = ["transport_socket", "transport_socket_matches"].map(|name| members.remove(name));
    ensure!(tls.iter().any(Option::is_some), "the API is to be called with TLS");
    // The choice by ALPN needs TLS.
    let options = format!("/typed_extension_protocol_options/{HTTP}");
    if let Some(options) = cluster.pointer_mut(&options).and_then(Value::as_object_mut) {
        options.remove("auto_config");
        let explicit = json!({"http_protocol_options": {}});
        options.insert("explicit_http_config".to_owned(), explicit);
    }
    Ok(())
}

/// The same for the host that routes name. Where they name another, the API's own is missing.
pub fn routed_to_the_simulator(stack: &Stack, configuration: &Value) -> Result<Value> {
    let (host, port) = simulator(stack)?;
    let [from, to] = ["api.x.ai".to_owned(), format!("{host}:{port}")]
        .map(|host| format!("\"host_rewrite_literal\":\"{host}\""));
    document(&configuration.to_string().replace(&from, &to))
}

/// The simulator's host and port.
pub fn simulator(stack: &Stack) -> Result<(String, u16)> {
    let url: url::Url = stack.provider_url().parse()?;
    let (Some(host), Some(port)) = (url.host_str(), url.port()) else { bail!("{url}") };
    Ok((host.to_owned(), port))
}

/// Starts Envoy with the clusters, of which `api` leads to the API, and the one listener, on a port
/// of the kernel's choice.
pub async fn run(stack: &mut Stack, configuration: &Value, api: &str) -> Result<()> {
    let mut configuration = document(&here(stack, &configuration.to_string())?)?;
    valid_for_envoy(stack, &configuration).await?;
    let clusters = configuration.pointer_mut("/static_resources/clusters");
    let clusters = clusters.and_then(Value::as_array_mut).context("clusters")?;
    let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == api);
    to_the_simulator(stack, cluster.context("the API's cluster")?)?;
    let port = "/static_resources/listeners/0/address/socket_address";
    *configuration.pointer_mut(port).context("the listener's address")? =
        json!({"address": "127.0.0.1", "port_value": 0});
    let configuration = routed_to_the_simulator(stack, &configuration)?;
    stack.start_envoy_with(&configuration.to_string()).await
}
