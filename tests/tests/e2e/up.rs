//! `refresher up` as a user starts it: what it refuses, what it serves, how it ends. And `status`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{RequestBuilder, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{
    Plan, Process, Stack, envoy_binary, eventually, filter_module, own_port, refresher_binary,
    unix_request,
};
use tokio::process::Command;

/// How long `up` may take until it serves, with an Envoy that compiles the filter.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end.
const END: Duration = Duration::from_secs(15);

const KEY: &str = "key-of-alice-0123456789";

/// A provider, and a login if asked for.
async fn machine(login: bool, settings: &str) -> Result<Stack> {
    let plan = Plan { login, settings: settings.to_owned(), ..Plan::default() };
    let stack = Stack::prepare(plan).await?;
    if login {
        stack.login().await?;
    }
    Ok(stack)
}

/// One worker each, since every test here has an Envoy of its own.
const SMALL: &str = "[envoy]\nconcurrency = 1\n";

/// `refresher up` with the real Envoy and filter, on a port that the kernel chooses unless said.
fn up_command(stack: &Stack, arguments: &[&str]) -> Result<Command> {
    let mut command = stack.refresher_command(&["up", "--port", "0"])?;
    if arguments.contains(&"--port") {
        command = stack.refresher_command(&["up"])?;
    }
    command.env("ENVOY_BIN", envoy_binary()?).env("TORCHBEARER_FILTER", filter_module()?);
    command.args(arguments);
    Ok(command)
}

/// Runs a command to its end.
async fn finished(command: &mut Command) -> Result<Output> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(tokio::time::timeout(END, running).await.context("it goes on running")??)
}

/// The lines on standard error of a command that ends with this code, and prints nothing else.
async fn refused(command: &mut Command, code: i32) -> Result<Vec<String>> {
    let output = finished(command).await?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(code), "{} instead of {code}: {errors}", output.status);
    let said = String::from_utf8(output.stdout)?;
    ensure!(said.is_empty(), "{said}");
    Ok(errors.lines().map(str::to_owned).collect())
}

/// A `refresher up` that serves.
struct Up {
    process: Process,
    address: SocketAddr,
}

impl Up {
    async fn start(stack: &Stack, command: &mut Command) -> Result<Self> {
        Self::start_as("up", stack, command).await
    }

    /// The same with a log of its own, where it is not the first.
    async fn start_as(name: &str, stack: &Stack, command: &mut Command) -> Result<Self> {
        let mut process = Process::start(name, stack.dir(), command)?;
        let base = |line: &str| {
            let (_, rest) = line.split_once("listening on http://")?;
            rest.split_once("/v1")?.0.parse().ok()
        };
        let address = process.printed(START, base).await;
        let address = address.with_context(|| process.log())?;
        Ok(Self { process, address })
    }

    fn get(&self, stack: &Stack, path: &str) -> RequestBuilder {
        let request = stack.client.get(format!("http://127.0.0.1:{}{path}", self.address.port()));
        request.timeout(Duration::from_secs(10))
    }

    async fn status(&self, stack: &Stack) -> Result<StatusCode> {
        Ok(self.get(stack, "/v1/models").send().await?.status())
    }

    /// Its Envoy's process id.
    fn envoy(&self) -> Option<i32> {
        let parent = i32::try_from(self.process.id()?).ok()?;
        processes().into_iter().find(|it| it.parent == parent && it.is("envoy")).map(|it| it.id)
    }
}

/// A process of this machine.
struct Running {
    id: i32,
    parent: i32,
    name: String,
}

impl Running {
    fn is(&self, name: &str) -> bool {
        self.name.starts_with(name)
    }
}

/// What the kernel says of every process, except those that have ended (proc_pid_stat(5)).
fn processes() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| running(&entry.path())).collect()
}

fn running(process: &Path) -> Option<Running> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (start, rest) = stat.rsplit_once(") ")?;
    let (id, name) = start.split_once(" (")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let alive = !matches!(state, "Z" | "X");
    alive.then_some(Running { id: id.parse().ok()?, parent, name: name.to_owned() })
}

fn lives(id: i32) -> bool {
    running(&PathBuf::from(format!("/proc/{id}"))).is_some()
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[tokio::test]
async fn without_a_login_up_names_the_remedy_in_one_line() -> Result<()> {
    let stack = machine(false, "").await?;
    let lines = refused(&mut up_command(&stack, &[])?, 3).await?;
    let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
    ensure!(line.contains("refresher login"), "{line}");
    ensure!(!stack.socket().exists() && !stack.state_dir().join("envoy").exists());
    ensure!(stack.provider().summary() == simulator::Summary::default());

    // The same for the provider that needs no configuration, on a machine that knows nothing.
    let home = tempfile::tempdir()?;
    let mut command = Process::command(refresher_binary()?);
    command.env("HOME", home.path()).args(["up", "--provider", "xai"]);
    let lines = refused(&mut command, 3).await?;
    let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
    ensure!(line.contains("refresher login --provider xai"), "{line}");
    ensure!(!home.path().join(".local/state/torchbearer/refresher.sock").exists());
    Ok(())
}

#[tokio::test]
async fn every_bad_setting_is_named_with_what_is_accepted() -> Result<()> {
    let stack = machine(false, "colour = 1\n[listener]\nprot = 9\n").await?;
    let mut command = up_command(&stack, &[])?;
    command.env("PROXY_HOST", "nowhere").env("TOKEN_REFRESH_WINDOW", "5");
    let lines = refused(&mut command, 2).await?;
    for (setting, accepted) in [
        ("colour: unknown setting", "accepted: provider, state_dir"),
        ("listener.prot: unknown setting", "accepted: host, port"),
        ("PROXY_HOST: \"nowhere\"", "an IP address or localhost"),
        ("TOKEN_REFRESH_WINDOW: \"5\"", "at least 30"),
    ] {
        let named = lines.iter().any(|line| line.contains(setting) && line.contains(accepted));
        ensure!(named, "{setting}: {lines:#?}");
    }
    ensure!(lines.len() == 4, "{lines:#?}");

    let stack = machine(false, "").await?;
    for (variable, value, accepted) in [
        ("PROXY_PORT", "abc", "a port from 0 to 65535"),
        ("PROXY_PORT", "65536", "a port from 0 to 65535"),
        ("TOKEN_REFRESH_WINDOW", "5", "at least 30"),
        ("TORCHBEARER_PROVIDER", "acme", "demo, simulated, xai"),
        ("LOG_LEVEL", "loud", "trace, debug, info"),
    ] {
        let mut command = stack.refresher_command(&["up"])?;
        let lines = refused(command.env(variable, value), 2).await?;
        let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
        ensure!(line.contains(accepted) && line.contains(value), "{line}");
        let setting = if variable == "TORCHBEARER_PROVIDER" { "provider" } else { variable };
        ensure!(line.contains(setting), "{line}");
    }
    for arguments in [["up", "--prot"], ["upp", "--help"]] {
        let output = finished(&mut stack.refresher_command(&arguments)?).await?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {}", output.status);
    }
    Ok(())
}

#[tokio::test]
async fn up_serves_without_a_key_and_ends_with_all_it_started() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    ensure!(up.address.ip() == Ipv4Addr::LOCALHOST, "{}", up.address);
    ensure!(up.status(&stack).await? == 200);
    let log = up.process.log();
    ensure!(log.contains(&format!("http://{}/v1", up.address)), "{log}");
    ensure!(log.contains(stack.provider_url()), "{log}");
    let health: Value = up.get(&stack, "/health").send().await?.json().await?;
    ensure!(health["status"] == "ok", "{health}");
    ensure!(up.get(&stack, "/ready").send().await?.status() == 200);
    for file in ["bootstrap.json", "envoy.log"] {
        let mode = fs::metadata(stack.state_dir().join("envoy").join(file))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{file}: {mode:o}");
    }

    let envoy = up.envoy().context("no Envoy runs")?;
    let address = up.address;
    let status = up.process.stop().await?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(!lives(envoy), "Envoy still runs");
    ensure!(is_free(address), "the port is still taken");
    ensure!(
        !stack.socket().exists()
            || unix_request(&stack.socket(), "GET", "/ready", "").await.is_err()
    );

    // And again, on what the first run left.
    let up = Up::start_as("again", &stack, &mut up_command(&stack, &[])?).await?;
    ensure!(up.status(&stack).await? == 200);
    up.process.signal(Signal::INT)?;
    let mut process = up.process;
    ensure!(process.wait(END).await?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn a_taken_port_leads_to_the_next_free_one() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let taken = own_port()?;
    let port = taken.local_addr()?.port();
    let mut command = up_command(&stack, &["--port", &port.to_string()])?;
    let up = Up::start(&stack, &mut command).await?;
    let found = up.address.port();
    ensure!(found > port && found < port + 20, "{found} after {port}");
    ensure!(up.status(&stack).await? == 200);
    Ok(())
}

#[tokio::test]
async fn with_no_free_port_up_says_which_it_tried() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    // The last port there is: nothing comes after it.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::MAX));
    let _taken = TcpListener::bind(address);
    let mut command = up_command(&stack, &["--port", "65535"])?;
    let output = finished(&mut command).await?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{}: {errors}", output.status);
    ensure!(errors.contains("no free port") && errors.contains("65535"), "{errors}");
    ensure!(errors.contains("--port"), "{errors}");
    Ok(())
}

#[tokio::test]
async fn a_killed_envoy_is_back_soon() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let first = up.envoy().context("no Envoy runs")?;
    kill_process(Pid::from_raw(first).context("no process id")?, Signal::KILL)?;
    let back = eventually(Duration::from_secs(20), async || {
        let second = up.envoy().filter(|&id| id != first)?;
        (up.status(&stack).await.ok()? == 200).then_some(second)
    });
    let second = back.await.with_context(|| format!("not back: {}", up.process.log()))?;
    ensure!(!lives(first));
    let address = up.address;
    let status = up.process.stop().await?;
    ensure!(status.code() == Some(0) && !lives(second) && is_free(address), "{status}");
    Ok(())
}

/// Envoy itself asks to end with its parent; what does not is in the test after this one.
#[tokio::test]
async fn a_killed_up_leaves_nothing_in_the_way_of_the_next() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let envoy = up.envoy().context("no Envoy runs")?;
    up.process.kill().await?;
    let gone = eventually(END, async || (!lives(envoy)).then_some(())).await;
    gone.context("Envoy goes on without its refresher")?;
    let up = Up::start_as("again", &stack, &mut up_command(&stack, &[])?).await?;
    ensure!(up.status(&stack).await? == 200);
    Ok(())
}

#[tokio::test]
async fn an_envoy_that_is_still_starting_is_not_left_behind() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    // A real one asks the kernel itself to end with its parent, once it has come that far. This
    // one never does, so that only what `up` has asked for can end it.
    let (program, id) = (stack.dir().join("slow-envoy"), stack.dir().join("id"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n\
         *--version*) echo 'envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL' ;;\n\
         *--config-yaml*) echo envoy.wasm.runtime.v8 ;;\n\
         *) echo $$ > {0}.new && mv {0}.new {0} && exec sleep 60 ;;\nesac\n",
        id.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    for signal in [Signal::KILL, Signal::TERM] {
        let mut command = up_command(&stack, &[])?;
        let mut up = Process::start("up", stack.dir(), command.env("ENVOY_BIN", &program))?;
        let started = eventually(START, async || fs::read_to_string(&id).ok()?.trim().parse().ok());
        let envoy: i32 = started.await.context("no Envoy is started")?;
        up.signal(signal)?;
        let status = up.wait(END).await?;
        ensure!(signal == Signal::KILL || status.code() == Some(0), "{status}");
        let gone = eventually(END, async || (!lives(envoy)).then_some(())).await;
        if gone.is_none() {
            let _ = kill_process(Pid::from_raw(envoy).context("no process id")?, Signal::KILL);
        }
        gone.with_context(|| format!("Envoy goes on after {signal:?}"))?;
        fs::remove_file(&id)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_up_does_not_take_the_socket_of_the_first() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let up = Up::start(&stack, &mut up_command(&stack, &[])?).await?;
    let lines = refused(&mut up_command(&stack, &[])?, 1).await?;
    ensure!(lines.iter().any(|line| line.contains("another refresher")), "{lines:?}");
    ensure!(up.status(&stack).await? == 200);
    Ok(())
}

#[tokio::test]
async fn k09_an_open_listener_needs_a_key_that_is_long_enough() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let open = || -> Result<Command> {
        let mut command = up_command(&stack, &[])?;
        command.env("PROXY_HOST", "0.0.0.0");
        Ok(command)
    };
    let lines = refused(&mut open()?, 2).await?;
    let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
    ensure!(line.contains("not on loopback") && line.contains("PROXY_API_KEY"), "{line}");
    let lines = refused(open()?.env("PROXY_API_KEY", "fifteen-letters"), 2).await?;
    let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
    ensure!(line.contains("PROXY_API_KEY") && line.contains("16"), "{line}");
    ensure!(!line.contains("fifteen-letters"), "{line}");

    let up = Up::start(&stack, open()?.env("PROXY_API_KEY", KEY)).await?;
    ensure!(up.address.ip().is_unspecified(), "{}", up.address);
    ensure!(up.status(&stack).await? == 401);
    let wrong = up.get(&stack, "/v1/models").bearer_auth("wrong-but-long-enough").send().await?;
    ensure!(wrong.status() == 401);
    ensure!(up.get(&stack, "/health").send().await?.status() == 401);
    ensure!(stack.provider().requests().is_empty());
    let good = up.get(&stack, "/v1/models").bearer_auth(KEY).send().await?;
    ensure!(good.status() == 200);
    let good = up.get(&stack, "/v1/models").header("x-proxy-api-key", KEY).send().await?;
    ensure!(good.status() == 200);
    // The key is nowhere, the digest of it will do.
    let folder = stack.state_dir().join("envoy");
    for text in [
        up.process.log(),
        fs::read_to_string(folder.join("bootstrap.json"))?,
        fs::read_to_string(folder.join("envoy.log"))?,
    ] {
        ensure!(!text.contains(KEY), "the key is in {text}");
    }
    Ok(())
}

#[tokio::test]
async fn on_loopback_a_key_may_be_short_and_is_required() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let mut command = up_command(&stack, &[])?;
    let up = Up::start(&stack, command.env("PROXY_API_KEY", "short")).await?;
    ensure!(up.status(&stack).await? == 401);
    let good = up.get(&stack, "/v1/models").bearer_auth("short").send().await?;
    ensure!(good.status() == 200);
    Ok(())
}

#[tokio::test]
async fn envoy_accepts_the_bootstrap_as_shipped_and_as_rendered() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root")?;
    // Named in the shipped file, by a path from the project's root.
    filter_module()?;
    let stack = machine(false, "").await?;
    let rendered = stack.dir().join("rendered.json");
    fs::write(&rendered, stack.bootstrap()?)?;
    for file in [Path::new("envoy/bootstrap.yaml"), &rendered] {
        let mut command = Process::command(envoy_binary()?);
        command.current_dir(root).args(["--mode", "validate", "--use-dynamic-base-id", "-c"]);
        let output = finished(command.arg(file)).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {errors}", file.display());
        ensure!(!errors.contains("deprecated"), "{}: {errors}", file.display());
    }
    Ok(())
}

#[tokio::test]
async fn an_envoy_that_cannot_do_it_is_refused_with_the_reason() -> Result<()> {
    let stack = machine(true, SMALL).await?;
    let says =
        |version: &str| format!("echo 'envoy  version: abc/{version}/Clean/RELEASE/BoringSSL'");
    for (name, script, mode, reasons) in [
        ("old", says("1.36.4"), 0o755, ["1.36.4", "1.37 or newer"]),
        ("without-v8", says("1.40.0"), 0o755, ["built without", "envoy.wasm.runtime.v8"]),
        ("other", "echo hello".to_owned(), 0o755, ["did not print", "Envoy version"]),
        ("not-a-program", "echo hello".to_owned(), 0o644, ["cannot be run", "ermission denied"]),
    ] {
        let program = stack.dir().join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(mode))?;
        let mut command = up_command(&stack, &[])?;
        let lines = refused(command.env("ENVOY_BIN", &program), 1).await?;
        let [line] = &lines[..] else { anyhow::bail!("not one line: {lines:?}") };
        ensure!(line.contains(&program.display().to_string()), "{line}");
        ensure!(reasons.iter().all(|reason| line.contains(reason)), "{name}: {line}");
        ensure!(!stack.socket().exists(), "{name}: something was started");
    }
    let mut command = up_command(&stack, &[])?;
    let lines = refused(command.env("ENVOY_BIN", stack.dir().join("missing")), 1).await?;
    ensure!(lines.iter().any(|line| line.contains("missing: cannot be run")), "{lines:?}");
    let mut command = up_command(&stack, &[])?;
    let lines = refused(command.env("TORCHBEARER_FILTER", stack.dir().join("missing")), 1).await?;
    ensure!(lines.iter().any(|line| line.contains("no filter there")), "{lines:?}");
    Ok(())
}

/// `refresher status`, plain and as JSON, ends with this code and shows no secret.
async fn report(stack: &Stack, code: i32, secrets: &[String]) -> Result<(String, Value)> {
    let mut texts = Vec::new();
    for arguments in [&["status"][..], &["status", "--json"]] {
        let output = finished(&mut stack.refresher_command(arguments)?).await?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code), "{}: {text}{errors}", output.status);
        let clean = secrets.iter().all(|it| !text.contains(it) && !errors.contains(it));
        ensure!(clean, "a secret: {text}{errors}");
        texts.push(text);
    }
    let json = serde_json::from_str(&texts.pop().unwrap_or_default())?;
    Ok((texts.pop().unwrap_or_default(), json))
}

#[tokio::test]
async fn status_tells_the_login_and_the_refresher_but_no_secret() -> Result<()> {
    let mut stack = machine(false, "").await?;
    let (text, json) = report(&stack, 3, &[]).await?;
    ensure!(text.contains("login_required") && text.contains("not serving"), "{text}");
    ensure!(json["credentials"][0]["state"] == "login_required", "{json}");
    ensure!(json["credentials"][0]["reason"] == "never_logged_in", "{json}");

    stack.login().await?;
    let grant = fs::read_to_string(stack.state_dir().join("grants/simulated.default.json"))?;
    let grant: Value = serde_json::from_str(&grant)?;
    let secret = |path: &str| grant.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let secrets = [secret("/refresh_token"), secret("/token/access_token")];
    let secrets: Option<Vec<_>> = secrets.into_iter().collect();
    let secrets = secrets.context("no tokens in the grant")?;
    let (text, json) = report(&stack, 0, &secrets).await?;
    ensure!(text.contains("logged_in") && text.contains("expires in"), "{text}");
    ensure!(json["serving"] == false && json["provider"] == "simulated", "{json}");
    ensure!(json["credentials"][0]["state"] == "logged_in", "{json}");
    ensure!(json["credentials"][0]["expires_at"] == grant["token"]["expires_at"], "{json}");

    stack.start_refresher().await?;
    let ready = eventually(END, async || {
        let answer = unix_request(&stack.socket(), "GET", "/ready", "").await.ok()?;
        (answer.status == 200).then_some(())
    });
    ready.await.context("the refresher is not ready")?;
    let (text, json) = report(&stack, 0, &secrets).await?;
    ensure!(text.contains("ready") && !text.contains("not serving"), "{text}");
    ensure!(json["serving"] == true && json["credentials"][0]["state"] == "ready", "{json}");
    Ok(())
}
