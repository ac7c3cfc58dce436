//! `refresher service`: what is written, what the service manager is asked for, and that the
//! written command works.

mod install;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::{Plan, Process, Stack, envoy_binary, eventually, filter_module, python};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

/// A user's machine, with paths that need escaping, and stand-ins for the service managers that
/// write down what they are asked for.
struct Machine {
    stack: Stack,
    home: PathBuf,
    calls: PathBuf,
}

const STAND_IN: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/} $*\" >> \"$CALLS\"\n\
    case \"$*\" in\n\
    --version) echo 'systemd 252 (252.1)' ;;\n\
    *is-enabled*) echo enabled ;;\n\
    *is-active*) echo active ;;\n\
    print*) exit 113 ;;\n\
    esac\n";

impl Machine {
    async fn new() -> Result<Self> {
        let plan = Plan { settings: "[envoy]\nconcurrency = 1\n".to_owned(), ..Plan::default() };
        let stack = Stack::prepare(plan).await?;
        let home = stack.dir().join("home of \"100%\" $me");
        let tools = stack.dir().join("tools");
        fs::create_dir(&home)?;
        fs::create_dir(&tools)?;
        for name in ["systemctl", "launchctl"] {
            let tool = tools.join(name);
            fs::write(&tool, STAND_IN)?;
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
        }
        let calls = stack.dir().join("calls");
        Ok(Self { stack, home, calls })
    }

    fn state(&self) -> PathBuf {
        self.home.join("st ate")
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.stack.refresher_command(&[])?;
        command.arg("--state-dir").arg(self.state()).args(arguments);
        command
            .env("HOME", &self.home)
            .env("PATH", format!("{}:{path}", self.stack.dir().join("tools").display()))
            .env("CALLS", &self.calls)
            .env("PROXY_PORT", "0")
            .env("PROXY_API_KEY", "key-that-is-in-no-file")
            .env("ENVOY_BIN", envoy_binary()?)
            .env("TORCHBEARER_FILTER", filter_module()?);
        Ok(command)
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        Ok(tokio::time::timeout(SOON, output).await??)
    }

    /// Runs a command that ends well; answers what it printed.
    async fn good(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {}: {errors}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the managers were asked for since the last time, versions aside.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.calls).unwrap_or_default();
        let _ = fs::remove_file(&self.calls);
        text.lines().filter(|line| !line.ends_with("--version")).map(str::to_owned).collect()
    }

    fn unit(&self) -> PathBuf {
        self.home.join(".config/systemd/user/torchbearer.service")
    }
}

/// Runs one of systemd's own checks.
fn analyze(dir: &Path, arguments: &[&str], unit: &Path) -> Result<String> {
    let mut command = std::process::Command::new("systemd-analyze");
    command.env("XDG_RUNTIME_DIR", dir).args(arguments).arg(unit);
    let output = command
        .output()
        .context("systemd-analyze is missing; on Debian: apt-get install systemd")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(said)
}

/// The words of a line as systemd reads them: quoted, with `\`, `%%` and, in commands, `$$`.
fn words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(start) = rest.strip_prefix('"') {
        let mut word = String::new();
        let mut characters = start.char_indices();
        let end = loop {
            match characters.next().context("no closing quote")? {
                (at, '"') => break at,
                (_, '\\') => word.push(characters.next().context("an escape")?.1),
                (_, special @ ('%' | '$')) => {
                    let (_, second) = characters.next().context("a specifier")?;
                    ensure!(second == special, "{special} is alone in {line}");
                    word.push(special);
                }
                (_, other) => word.push(other),
            }
        };
        words.push(word);
        rest = start.get(end + 1..).unwrap_or_default().trim_start();
    }
    ensure!(rest.is_empty() && !words.is_empty(), "not quoted: {line}");
    Ok(words)
}

fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let line = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=');
    unit.lines().filter_map(line).collect()
}

#[tokio::test]
async fn a_service_is_installed_runs_what_it_says_and_goes_without_the_login() -> Result<()> {
    let machine = Machine::new().await?;
    machine.good(&["login", "--device"]).await?;
    let printed = machine.good(&["service", "install", "--user", "--dry-run"]).await?;
    ensure!(machine.calls().is_empty() && !machine.unit().exists(), "a dry run does something");
    ensure!(!printed.contains("key-that-is-in-no-file"), "{printed}");

    let said = machine.good(&["service", "install", "--user"]).await?;
    let enabled =
        ["systemctl --user daemon-reload", "systemctl --user enable --now torchbearer.service"];
    ensure!(machine.calls() == enabled, "{said}");
    let unit = fs::read_to_string(machine.unit())?;
    ensure!(unit == printed, "{unit}");
    machine.good(&["service", "install", "--user"]).await?;
    ensure!(machine.calls() == enabled, "a second installation is another one");
    machine.good(&["service", "install", "--user", "--serve"]).await?;
    let restarted = [enabled[0], enabled[1], "systemctl --user restart torchbearer.service"];
    ensure!(machine.calls() == restarted, "a changed service is not restarted");
    machine.good(&["service", "install", "--user"]).await?;
    machine.calls();
    let status = machine.good(&["service", "status", "--user"]).await?;
    machine.calls();
    ensure!(status.contains("installed: yes (") && status.contains("running: active"), "{status}");

    // The command is run as the manager would, with its environment and nothing else.
    let manager = UnixDatagram::bind(machine.stack.dir().join("notify.sock"))?;
    manager.set_nonblocking(true)?;
    let [exec] = settings(&unit, "ExecStart")[..] else { bail!("not one command: {unit}") };
    let exec = words(exec)?;
    let (program, arguments) = exec.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.env_clear().args(arguments).current_dir("/").env("HOME", &machine.home);
    command.env("NOTIFY_SOCKET", machine.stack.dir().join("notify.sock"));
    for pair in settings(&unit, "Environment") {
        // No variable begins in a setting, so a dollar sign stands for itself there.
        let [pair] = &words(&pair.replace('$', "$$"))?[..] else { bail!("not one: {pair}") };
        let (name, value) = pair.split_once('=').context("a variable")?;
        command.env(name, value);
    }
    let mut up = Process::start("service", machine.stack.dir(), &mut command)?;
    let base =
        |line: &str| Some(line.split_once("listening on ")?.1.split_once("/v1")?.0.to_owned());
    let base = up.printed(SOON, base).await.with_context(|| up.log())?;
    let answer = machine.stack.client.get(format!("{base}/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    let ready = eventually(SOON, async || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).ok()?;
        buffer.get(..length)?.starts_with(b"READY=1").then_some(())
    });
    ready.await.context("the manager does not hear that it is ready")?;
    ensure!(up.stop().await?.success());

    let grant = machine.state().join("grants/simulated.default.json");
    let before = fs::read(&grant)?;
    machine.good(&["service", "uninstall", "--user"]).await?;
    let gone =
        ["systemctl --user disable --now torchbearer.service", "systemctl --user daemon-reload"];
    ensure!(machine.calls() == gone && !machine.unit().exists());
    ensure!(fs::read(&grant)? == before, "the login is touched");
    let said = machine.good(&["service", "uninstall", "--user"]).await?;
    ensure!(said.contains("nothing to remove") && machine.calls().is_empty(), "{said}");
    Ok(())
}

#[tokio::test]
async fn systemd_accepts_the_units_and_finds_them_hardened() -> Result<()> {
    let machine = Machine::new().await?;
    let dir = machine.stack.dir();
    // In tenths; 100 is without any protection. What is left is the network, which it is for.
    for (scope, threshold) in [("--user", "45"), ("--system", "25")] {
        for role in [&[][..], &["--serve"]] {
            let arguments = ["service", "install", "--print", scope, "--run-as", "daemon"];
            let text = machine.good(&[&arguments, role].concat()).await?;
            let unit = dir.join("torchbearer.service");
            fs::write(&unit, &text)?;
            let manager = scope.to_owned();
            let said = analyze(dir, &["verify", &manager, "--man=no"], &unit)?;
            ensure!(said.trim().is_empty(), "{said}");
            if scope == "--user" && !text.contains("PrivateUsers=yes") {
                // Without namespaces there is less that can be had.
                ensure!(text.contains("This kernel gives users no namespaces"), "{text}");
                continue;
            }
            analyze(dir, &["security", "--offline=true", "--threshold", threshold], &unit)?;
            let writable = settings(&text, "ReadWritePaths");
            let [writable] = writable[..] else { bail!("not one place: {text}") };
            let state = machine.state().display().to_string();
            ensure!(words(&writable.replace('$', "$$"))? == [state], "{writable}");
        }
    }
    let refused = machine.run(&["service", "install", "--print", "--system"]).await?;
    ensure!(refused.status.code() == Some(2), "{}", refused.status);
    Ok(())
}

#[tokio::test]
async fn a_launch_agent_is_a_property_list_that_python_reads() -> Result<()> {
    let machine = Machine::new().await?;
    let agent = ["service", "install", "--user", "--manager", "launchd"];
    machine.good(&agent).await?;
    let file = machine.home.join("Library/LaunchAgents/torchbearer.refresher.plist");
    let domain = format!("gui/{}", rustix::process::getuid().as_raw());
    let service = format!("{domain}/torchbearer.refresher");
    let calls = [
        format!("launchctl print {service}"),
        format!("launchctl enable {service}"),
        format!("launchctl bootstrap {domain} {}", file.display()),
    ];
    ensure!(machine.calls() == calls);
    let script =
        "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new(python()?).args(["-c", script]).arg(&file).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let words = list["ProgramArguments"].as_array().context("no arguments")?;
    ensure!(words.last() == Some(&"up".into()), "{list}");
    ensure!(words.contains(&machine.state().display().to_string().into()), "{list}");
    ensure!(list["Umask"] == 0o077 && list["RunAtLoad"] == true, "{list}");
    ensure!(list["EnvironmentVariables"]["PROXY_PORT"] == "0", "{list}");
    ensure!(!list.to_string().contains("key-that-is-in-no-file"));
    Ok(())
}
