//! `install.sh`, from an unpacked release.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::{Process, envoy_binary, filter_module, refresher_binary};
use tokio::process::Command;

use super::{Machine, SOON};

/// The script with the two files beside it, as in a release.
fn release(dir: &Path) -> Result<PathBuf> {
    let folder = dir.join("release");
    fs::create_dir(&folder)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh");
    for (from, name) in [
        (script, "install.sh"),
        (refresher_binary()?, "refresher"),
        (filter_module()?, "filter.wasm"),
    ] {
        fs::copy(&from, folder.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(folder.join("install.sh"))
}

/// Installs twice on a machine that has nothing yet, and shows what is there then.
const TWICE: &str = r#"
set -e
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /etc/systemd/system
"$@"
"$@"
stat --format '%U %a %n' /var/lib/torchbearer /var/lib/torchbearer/grants/*.json
cat /etc/systemd/system/torchbearer.service
"#;

struct Installation {
    machine: Machine,
    script: PathBuf,
    prefix: PathBuf,
}

impl Installation {
    async fn run(&self, arguments: &[&str]) -> Result<(Output, String)> {
        self.run_with(Process::command(&self.script), arguments).await
    }

    async fn run_with(&self, mut command: Command, arguments: &[&str]) -> Result<(Output, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("HOME", &self.machine.home)
            .env("PATH", format!("{}:{path}", self.machine.stack.dir().join("tools").display()))
            .env("CALLS", &self.machine.calls)
            .arg("--prefix")
            .arg(&self.prefix)
            .args(arguments);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(SOON, output).await??;
        let said = [output.stdout.clone(), output.stderr.clone()].concat();
        Ok((output, String::from_utf8_lossy(&said).into_owned()))
    }

    async fn good(&self, arguments: &[&str]) -> Result<String> {
        let (output, said) = self.run(arguments).await?;
        ensure!(output.status.success(), "{arguments:?}: {}: {said}", output.status);
        Ok(said)
    }
}

#[tokio::test]
async fn an_unpacked_release_installs_logs_in_serves_and_goes() -> Result<()> {
    let machine = Machine::new().await?;
    let dir = machine.stack.dir();
    // Where the refresher looks for its settings when nobody says.
    let settings = machine.home.join(".config/torchbearer");
    fs::create_dir_all(&settings)?;
    fs::copy(dir.join("config.toml"), settings.join("config.toml"))?;
    let (script, prefix) = (release(dir)?, machine.home.join("pre fix"));
    let it = Installation { machine, script, prefix };
    let envoy = envoy_binary()?.display().to_string();
    let options = ["--envoy", &envoy, "--headless", "--enable-service=user"];

    it.good(&[&options[..], &["--dry-run"]].concat()).await?;
    ensure!(!it.prefix.exists() && it.machine.calls().is_empty(), "a dry run does something");
    let said = it.good(&options).await?;
    ensure!(said.contains("logged in to simulated"), "{said}");
    let program = it.prefix.join("bin/refresher");
    ensure!(program.is_file() && it.prefix.join("lib/torchbearer/filter.wasm").is_file());
    let calls = it.machine.calls();
    ensure!(
        calls.iter().any(|call| call.contains("enable --now torchbearer.service")),
        "{calls:?}"
    );
    let unit = fs::read_to_string(it.machine.unit())?;
    ensure!(unit.contains("pre fix/lib/torchbearer/refresher\" \"up\""), "{unit}");

    let again = it.good(&options).await?;
    ensure!(again.contains("there is a login already"), "{again}");
    ensure!(again.matches("is up to date").count() == 2, "{again}");
    ensure!(again.contains("is as it should be"), "{again}");

    // With nothing but what the installation has.
    let mut command = Command::new(&program);
    command.env_clear().env("HOME", &it.machine.home).env("PROXY_PORT", "0").arg("up");
    let mut up = Process::start("installed", it.machine.stack.dir(), &mut command)?;
    let base =
        |line: &str| Some(line.split_once("listening on ")?.1.split_once("/v1")?.0.to_owned());
    let base = up.printed(SOON, base).await.with_context(|| up.log())?;
    let answer = it.machine.stack.client.get(format!("{base}/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    ensure!(up.stop().await?.success());

    it.machine.calls();
    // Besides the login of this test, one where it is without settings.
    let usual = it.machine.home.join(".local/state/torchbearer/grants/xai.default.json");
    fs::create_dir_all(usual.parent().context("a folder")?)?;
    fs::write(&usual, "{}")?;
    let said = it.good(&["--uninstall"]).await?;
    ensure!(!it.prefix.join("lib/torchbearer").exists() && !program.exists(), "{said}");
    ensure!(!it.machine.unit().exists() && !it.machine.calls().is_empty(), "{said}");
    let grant = it.machine.stack.state_dir().join("grants/simulated.default.json");
    ensure!(grant.is_file() && usual.is_file(), "a login is gone");
    ensure!(settings.join("config.toml").is_file(), "the settings are gone");
    it.good(&["--uninstall"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_service_of_the_machine_has_its_users_login() -> Result<()> {
    let machine = Machine::new().await?;
    let dir = machine.stack.dir();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    let settings = machine.home.join(".config/torchbearer");
    fs::create_dir_all(&settings)?;
    let text = fs::read_to_string(dir.join("config.toml"))?;
    // The state is where the service keeps it.
    let usual: Vec<_> = text.lines().filter(|line| !line.starts_with("state_dir")).collect();
    fs::write(settings.join("config.toml"), usual.join("\n"))?;
    let (script, prefix) = (release(dir)?, machine.home.join("pre fix"));
    let it = Installation { machine, script, prefix };
    let envoy = envoy_binary()?.display().to_string();
    let mut command = Process::command("unshare");
    command.args(["--mount", "bash", "-c", TWICE, "bash"]).arg(&it.script);
    let options = ["--envoy", &envoy, "--headless", "--enable-service", "--run-as", "daemon"];
    let (output, said) = it.run_with(command, &options).await?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.matches("logged in to simulated").count() == 1, "{said}");
    ensure!(said.contains("there is a login already"), "{said}");
    ensure!(said.contains("daemon 700 /var/lib/torchbearer\n"), "{said}");
    let grant = "daemon 600 /var/lib/torchbearer/grants/simulated.default.json\n";
    ensure!(said.contains(grant), "{said}");
    ensure!(said.contains("\nUser=daemon\n"), "{said}");
    ensure!(
        said.contains("Environment=\"TORCHBEARER_STATE_DIR=/var/lib/torchbearer\"\n"),
        "{said}"
    );
    let calls = it.machine.calls();
    let started = |call: &String| call == "systemctl enable --now torchbearer.service";
    ensure!(calls.iter().any(started), "{calls:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_installed_is_said_before_anything_is_done() -> Result<()> {
    let machine = Machine::new().await?;
    let dir = machine.stack.dir();
    let (script, prefix) = (release(dir)?, dir.join("prefix"));
    let mut it = Installation { machine, script, prefix };
    for (arguments, code, says) in [
        (&["--prefixx"][..], 2, "--prefixx: not accepted"),
        (&["--envoy"], 2, "--envoy needs a value"),
        (&["--envoy", "/nowhere/envoy"], 2, "not a program"),
        (&["--enable-service=system"], 2, "accepted: --run-as USER"),
        (&["--enable-service=system", "--run-as", "nobody-of-here"], 2, "no such user"),
        (&["--run-as", "daemon"], 2, "--run-as goes with"),
    ] {
        let (output, said) = it.run(arguments).await?;
        ensure!(output.status.code() == Some(code) && said.contains(says), "{arguments:?}: {said}");
        ensure!(!it.prefix.exists(), "{arguments:?} does something");
    }
    fs::write(&it.prefix, "a file")?;
    it.prefix.push("below");
    let (output, said) = it.run(&[]).await?;
    ensure!(output.status.code() == Some(1) && said.contains("cannot be written to"), "{said}");
    Ok(())
}
