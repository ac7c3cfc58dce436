//! `envoy/kubernetes`: what kustomize makes of the overlays, run as a node would run the pod.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, envoy_binary, eventually, filter_module, refresher_binary};
use tokio::process::Command;

use crate::proof::{carries, replays, status};
use crate::shipped::{kustomize, valid_for_kubernetes};

/// How long a program may take to start.
const START: Duration = Duration::from_secs(30);

/// The one manifest of a kind.
fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().with_context(|| format!("no {kind}"))?;
    ensure!(found.next().is_none(), "two of {kind}");
    Ok(first)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What holds for every container that this project brings.
pub fn is_confined(pod: &Value, container: &Value) -> Result<()> {
    let name = &container["name"];
    let context = |setting: &str| match &container["securityContext"][setting] {
        Value::Null => pod["securityContext"][setting].clone(),
        own => own.clone(),
    };
    ensure!(context("runAsNonRoot") == true, "{name} may run as root");
    ensure!(context("readOnlyRootFilesystem") == true, "{name} can write to its image");
    ensure!(context("allowPrivilegeEscalation") == false, "{name} can get privileges");
    ensure!(context("capabilities") == json!({"drop": ["ALL"]}), "{name} has capabilities");
    ensure!(context("seccompProfile") == json!({"type": "RuntimeDefault"}), "{name}: seccomp");
    for resource in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
        ensure!(container["resources"].pointer(resource).is_some(), "{name} has no {resource}");
    }
    Ok(())
}

/// What holds for every Deployment with a refresher.
pub fn has_one_login(deployment: &Value) -> Result<()> {
    ensure!(deployment["spec"]["replicas"] == 1, "two refreshers would end each other's login");
    ensure!(deployment["spec"]["strategy"] == json!({"type": "Recreate"}), "two for a while");
    Ok(())
}

/// A pod, with the mount paths in a folder of this machine.
struct Pod {
    stack: Stack,
    spec: Value,
    folder: PathBuf,
    processes: Vec<Process>,
}

impl Pod {
    /// Lays its volumes out; the settings are the shipped ones with another provider.
    async fn lay(manifests: &[Value]) -> Result<Self> {
        let stack = Stack::prepare(Plan::default()).await?;
        let spec = of_kind(manifests, "Deployment")?["spec"]["template"]["spec"].clone();
        let folder = stack.dir().join("pod");
        for mount in ["etc/torchbearer", "run/torchbearer", "var/lib/torchbearer"] {
            let mount = folder.join(mount);
            fs::create_dir_all(&mount)?;
            // As Kubernetes leaves a volume of a group.
            fs::set_permissions(mount, fs::Permissions::from_mode(0o2777))?;
        }
        let pod = Self { stack, spec, folder, processes: Vec::new() };
        let settings = of_kind(manifests, "ConfigMap")?;
        let volume = list(&pod.spec["volumes"])
            .find(|volume| volume["configMap"]["name"] == settings["metadata"]["name"]);
        ensure!(volume.is_some(), "no volume has the settings");
        let shipped = settings["data"]["config.toml"].as_str().context("the settings")?;
        let provider = fs::read_to_string(pod.stack.dir().join("config.toml"))?;
        let (_, provider) = provider.split_once("[providers.").context("the simulator")?;
        let text = shipped.replace("provider = \"xai\"", "provider = \"simulated\"");
        ensure!(text != shipped, "the provider is not set where it says");
        let text = format!("{}\n[providers.{provider}", pod.here(&text));
        fs::write(pod.folder.join("etc/torchbearer/config.toml"), text)?;
        Ok(pod)
    }

    /// A text with the paths of this machine, and a port of the kernel's choice.
    fn here(&self, text: &str) -> String {
        let mounts = ["/etc/torchbearer", "/run/torchbearer", "/var/lib/torchbearer"];
        let text = mounts.iter().fold(text.to_owned(), |text, mount| {
            text.replace(mount, &format!("{}{mount}", self.folder.display()))
        });
        text.replace(":9996", ":0")
    }

    /// A program in a container: the image's own with its arguments, or another.
    fn command(&self, container: &str, line: Option<&Value>) -> Result<Command> {
        let all = list(&self.spec["initContainers"]).chain(list(&self.spec["containers"]));
        let container = all.into_iter().find(|known| known["name"] == container);
        let container = container.context("the container")?;
        let image = container["image"].as_str().context("an image")?;
        let program = match image.split(':').next().unwrap_or_default() {
            "registry.example.com/torchbearer/refresher" => refresher_binary()?,
            "envoyproxy/envoy" => envoy_binary()?,
            other => anyhow::bail!("{other} is no image that the README names"),
        };
        let mut command = Process::command(program);
        // What the image sets itself; the filter is beside the program there.
        command.env("TORCHBEARER_FILTER", filter_module()?);
        command.env("TORCHBEARER_STATE_DIR", self.here("/var/lib/torchbearer"));
        for variable in list(&container["env"]) {
            let (name, value) = (variable["name"].as_str(), variable["value"].as_str());
            command.env(name.context("a name")?, self.here(value.context("a value")?));
        }
        let arguments = line.unwrap_or(&container["args"]);
        let skipped = match line {
            Some(line) => usize::from(line[0] == "refresher"),
            None => 0,
        };
        for argument in list(arguments).skip(skipped) {
            command.arg(self.here(argument.as_str().context("an argument")?));
        }
        Ok(command)
    }

    /// Runs a command in a container, as `kubectl exec` does.
    async fn exec(&self, container: &str, line: &Value) -> Result<String> {
        let mut command = self.command(container, Some(line))?;
        let running = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(START, running).await??;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}: {} {errors}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts its containers in their order.
    async fn start(&mut self) -> Result<()> {
        for container in list(&self.spec["initContainers"].clone()) {
            let name = container["name"].as_str().context("a name")?;
            let mut init = Process::start(name, self.stack.dir(), &mut self.command(name, None)?)?;
            let status = init.wait(START).await?;
            ensure!(status.success(), "{name}: {status} {}", init.log());
        }
        for name in ["refresher", "envoy"] {
            let mut command = self.command(name, None)?;
            if name == "envoy" {
                command.arg("--use-dynamic-base-id");
            }
            self.processes.push(Process::start(name, self.stack.dir(), &mut command)?);
        }
        let admin = self.folder.join("run/torchbearer/envoy-admin.sock");
        let listening = eventually(START, async || {
            let answer =
                tests::unix_request(&admin, "GET", "/listeners?format=json", "").await.ok()?;
            let answer = answer.json();
            let address = answer.pointer("/listener_statuses/0/local_address/socket_address")?;
            Some((address["address"].as_str()?.to_owned(), address["port_value"].as_u64()?))
        });
        let (host, port) = listening.await.context("Envoy does not listen")?;
        let wanted = if self.is_gateway() { "0.0.0.0" } else { "127.0.0.1" };
        ensure!(host == wanted, "it listens on {host}");
        self.stack.address = format!("127.0.0.1:{port}").parse()?;
        Ok(())
    }

    fn is_gateway(&self) -> bool {
        self.probe("envoy", "readinessProbe").is_some()
    }

    fn probe(&self, container: &str, probe: &str) -> Option<&Value> {
        let container = list(&self.spec["containers"]).find(|known| known["name"] == container)?;
        container.get(probe)
    }

    /// Whether the refresher's container is ready.
    async fn is_ready(&self) -> Result<()> {
        let probe = self.probe("refresher", "readinessProbe").context("a probe")?;
        self.exec("refresher", &probe["exec"]["command"]).await.map(drop)
    }
}

async fn started(overlay: &str) -> Result<(Vec<Value>, Pod)> {
    let manifests = kustomize(overlay).await?;
    let mut pod = Pod::lay(&manifests).await?;
    valid_for_kubernetes(&pod.stack, &manifests).await?;
    let deployment = of_kind(&manifests, "Deployment")?;
    has_one_login(deployment)?;
    ensure!(pod.spec["automountServiceAccountToken"] == false, "it has Kubernetes' token");
    for container in list(&pod.spec["initContainers"]).chain(list(&pod.spec["containers"])) {
        is_confined(&pod.spec, container)?;
    }
    pod.start().await?;
    Ok((manifests, pod))
}

const LOGIN: [&str; 3] = ["refresher", "login", "--device"];

#[tokio::test]
async fn the_gateway_serves_clients_with_keys() -> Result<()> {
    let (manifests, pod) = started("kubernetes/gateway").await?;
    // The Service leads to the port, and the policy lets clients reach it.
    let service = of_kind(&manifests, "Service")?;
    let port = |value: &Value| {
        list(value).any(|port| port["name"] == "http" && port["containerPort"] == 9996)
    };
    ensure!(service["spec"]["ports"][0]["targetPort"] == "http");
    ensure!(list(&pod.spec["containers"]).any(|container| port(&container["ports"])));
    let labels = &of_kind(&manifests, "Deployment")?["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &service["spec"]["selector"],
        &of_kind(&manifests, "NetworkPolicy")?["spec"]["podSelector"]["matchLabels"],
    ] {
        for (name, value) in selector.as_object().context("labels")? {
            ensure!(labels[name] == *value, "{name} selects nothing");
        }
    }
    // Ready without a login: what is missing is told to the clients.
    pod.is_ready().await?;
    let probe = pod.probe("envoy", "readinessProbe").context("a probe")?;
    let path = probe["httpGet"]["path"].as_str().context("a path")?;
    let key = pod.exec("refresher", &json!(["refresher", "keys", "add", "alice"])).await?;
    let required = eventually(START, async || {
        (status(&pod.stack, "/v1/models").await.ok()? == 401).then_some(())
    });
    required.await.context("no key is asked for")?;
    assert_eq!(status(&pod.stack, path).await?, 200);
    assert_eq!(status(&pod.stack, "/ready").await?, 503);
    pod.exec("refresher", &json!(LOGIN)).await?;
    carries(&pod.stack, key.trim()).await?;
    replays(&pod.stack, key.trim()).await?;
    assert_eq!(status(&pod.stack, "/ready").await?, 200);
    // Envoy's part of the metrics shows that the refresher finds its admin interface.
    let metrics = pod.stack.client.get(pod.stack.url("/metrics")).bearer_auth(key.trim());
    let metrics = metrics.send().await?.text().await?;
    ensure!(metrics.contains("torchbearer_envoy_up 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn the_sidecar_serves_its_own_pod_without_a_key() -> Result<()> {
    let (_, pod) = started("kubernetes/sidecar").await?;
    pod.is_ready().await?;
    let app = list(&pod.spec["containers"]).find(|container| container["name"] == "app");
    let app = app.context("the app")?;
    let address = json!({"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:9996/v1"});
    ensure!(list(&app["env"]).any(|variable| *variable == address), "{app}");
    pod.exec("refresher", &json!(LOGIN)).await?;
    // Below the claim: its own folder belongs to root, and is the group's.
    let grants = pod.folder.join("var/lib/torchbearer/state/grants");
    ensure!(grants.is_dir(), "the login is not in {}", grants.display());
    carries(&pod.stack, "unused").await?;
    replays(&pod.stack, "unused").await
}
