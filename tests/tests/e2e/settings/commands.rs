//! The commands about settings, and what other programs make of our output.

use super::*;

#[tokio::test]
async fn a_configuration_is_checked_with_its_files_and_by_envoy() -> Result<()> {
    let stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let (said, errors) = ends(&mut command(&stack, &["config", "check", "--envoy"])?, 0).await?;
    // That Envoy is waited for is said where it takes long.
    let waits = errors.lines().all(|line| line.ends_with('…'));
    ensure!(said.contains("is good") && waits, "{said}{errors}");

    // Everything that is wrong, at once: a flag, files that are not there, one that others can read.
    let secret = stack.dir().join("secret");
    std::fs::write(&secret, "planted-secret")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let file = stack.dir().join("bad.toml");
    let config = std::fs::read_to_string(stack.dir().join("config.toml"))?;
    let more = format!(
        "client_secret_file = {secret:?}\nca_file = \"/no/ca.pem\"\n[envoy]\nbin = \"/no/envoy\"\n\
         filter = \"/no/filter.wasm\"\ntrusted_ca = \"/no/bundle.pem\"\n[listener]\nhost = \"0.0.0.0\"\n"
    );
    std::fs::write(&file, config + &more)?;
    // The stack's own file is named in its commands already.
    let program = stack.refresher_command(&[])?;
    let mut check = Process::command(program.as_std().get_program());
    check.env("HOME", stack.dir()).arg("--config").arg(&file).args(["config", "check", "--json"]);
    let (said, errors) = ends(check.env_remove("ENVOY_BIN"), 2).await?;
    let found: Value = serde_json::from_str(&said)?;
    let named: Vec<_> = found["problems"].as_array().context("problems")?.iter().collect();
    for setting in [
        "providers.simulated.client_secret_file",
        "providers.simulated.ca_file",
        "envoy.bin",
        "envoy.filter",
        "envoy.trusted_ca",
        "client_keys",
    ] {
        let found = named.iter().find(|problem| problem["setting"] == setting);
        let found = found.with_context(|| format!("{setting}: {said}"))?;
        ensure!(found["accepted"].as_str().is_some_and(|accepted| !accepted.is_empty()));
        ensure!(errors.contains(setting), "{setting}: {errors}");
    }
    ensure!(found["good"] == false && named.len() == 6, "{said}");
    ensure!(!said.contains("planted") && !errors.contains("planted"), "{said}{errors}");
    Ok(())
}

#[tokio::test]
async fn envoy_accepts_the_bootstrap_that_is_printed_and_shown_settings_have_no_secret()
-> Result<()> {
    let stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let arguments = ["envoy-config", "--listen", "127.0.0.1:7777"];
    let (said, _) = ends(&mut command(&stack, &arguments)?, 0).await?;
    let bootstrap: Value = serde_json::from_str(&said)?;
    let port = "/static_resources/listeners/0/address/socket_address/port_value";
    ensure!(bootstrap.pointer(port) == Some(&7777.into()));
    let file = stack.dir().join("printed.json");
    std::fs::write(&file, &said)?;
    let mut validate = Process::command(envoy_binary()?);
    validate.args(["--mode", "validate", "--use-dynamic-base-id", "-c"]).arg(&file);
    ends(&mut validate, 0).await?;

    let digest = "c0ffee".repeat(11).chars().take(64).collect::<String>();
    let config = stack.dir().join("config.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{text}\n[client_keys]\nalice = \"{digest}\"\n"))?;
    let mut show = command(&stack, &["config", "show"])?;
    let (said, _) = ends(show.env("PROXY_API_KEY", "planted-key-0123456789"), 0).await?;
    ensure!(said.contains("alice") && !said.contains(&digest), "{said}");
    ensure!(said.contains("config.toml:") && said.contains("# TORCHBEARER_FILTER"), "{said}");
    ensure!(!said.contains("planted"), "{said}");
    Ok(())
}

/// Runs a script of bash with the refresher as its first argument.
async fn bash(stack: &Stack, script: &str) -> Result<String> {
    let refresher = stack.refresher_command(&[])?;
    let mut bash = Process::command("bash");
    bash.env("HOME", stack.dir()).args(["--norc", "-c", script, "bash"]);
    bash.arg(refresher.as_std().get_program());
    let (said, errors) = ends(&mut bash, 0).await?;
    ensure!(errors.is_empty(), "{errors}");
    Ok(said)
}

#[tokio::test]
async fn bash_completes_commands_groff_reads_the_pages_and_a_closed_pipe_is_no_error() -> Result<()>
{
    let stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let script = "source <(\"$1\" completions bash)\n\
        name=$(complete -p refresher | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
        COMP_WORDS=(refresher envoy-c); COMP_CWORD=1; $name refresher envoy-c refresher; \
        echo \"${COMPREPLY[@]}\"\n\
        COMP_WORDS=(refresher config sc); COMP_CWORD=2; $name refresher sc config; \
        echo \"${COMPREPLY[@]}\"";
    let said = bash(&stack, script).await?;
    ensure!(said.lines().collect::<Vec<_>>() == ["envoy-config", "schema"], "{said}");

    for page in ["", "login", "keys add", "config check", "up", "envoy-config"] {
        let script = format!(
            "command -v groff >/dev/null || {{ echo 'groff is missing; on Debian: apt-get install \
             groff' >&2; exit 1; }}\n\"$1\" man {page} | groff -man -ww -Tutf8 -P-cbu | head -c 100000"
        );
        let said = bash(&stack, &script).await?;
        ensure!(said.contains("SYNOPSIS") && said.contains("--quiet"), "{page}: {said}");
    }

    for command in ["config example", "config schema", "man", "keys list", "completions bash"] {
        let script = format!("set -o pipefail; \"$1\" {command} | :");
        bash(&stack, &script).await.with_context(|| command.to_owned())?;
    }
    Ok(())
}
