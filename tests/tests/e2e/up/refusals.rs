//! What `up` does not start with.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use tests::{Process, refresher_binary};
use tokio::process::Command;

use super::{SMALL, Up, finished, machine, refused, up_command};

const KEY: &str = "key-of-alice-0123456789";

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
