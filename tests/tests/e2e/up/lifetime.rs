//! What `up` starts, and what becomes of it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{Process, envoy_binary, eventually, filter_module, own_port, unix_request};

use super::{END, SMALL, START, Up, finished, is_free, lives, machine, up_command};

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
async fn envoy_accepts_the_bootstrap_as_shipped_and_as_rendered() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no root")?;
    // Named in the shipped file, by a path from the project's root.
    filter_module()?;
    let stack = machine(false, "").await?;
    let rendered = stack.dir().join("rendered.json");
    fs::write(&rendered, stack.bootstrap()?)?;
    for file in [Path::new("envoy/standalone/bootstrap.yaml"), &rendered] {
        let mut command = Process::command(envoy_binary()?);
        command.current_dir(root).args(["--mode", "validate", "--use-dynamic-base-id", "-c"]);
        let output = finished(command.arg(file)).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {errors}", file.display());
        ensure!(!errors.contains("deprecated"), "{}: {errors}", file.display());
    }
    Ok(())
}
