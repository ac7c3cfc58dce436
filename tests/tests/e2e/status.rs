//! `refresher status` on a terminal, in a pipe, and as something to wait for.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::{Canaries, Plan, Process, Stack, eventually, unix_request};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(20);

/// A provider and a refresher that is ready, or none.
async fn machine(serving: bool) -> Result<Stack> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    if serving {
        stack.start_refresher().await?;
        let ready = eventually(SOON, async || {
            let answer = unix_request(&stack.socket(), "GET", "/ready", "").await.ok()?;
            (answer.status == 200).then_some(())
        });
        ready.await.context("the refresher is not ready")?;
    }
    Ok(stack)
}

async fn finished(command: &mut Command) -> Result<(Option<i32>, String, String)> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(SOON, running).await.context("it goes on running")??;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    Ok((output.status.code(), out, err))
}

/// What a terminal of so many columns shows.
async fn shown(stack: &Stack, name: &str, columns: u16, variable: (&str, &str)) -> Result<String> {
    let mut command = stack.refresher_command(&["status", "--watch", "1"])?;
    command.env("TERM", "xterm").env(variable.0, variable.1);
    let (mut process, keyboard) = Process::start_on_terminal(name, stack.dir(), command)?;
    // It may have asked for the size before: the next frame has it.
    keyboard.resize(columns, 60)?;
    let frames =
        eventually(SOON, async || (process.log().matches("provider ").count() >= 3).then_some(()));
    frames.await.context("it is not drawn again")?;
    process.signal(Signal::INT)?;
    ensure!(process.wait(SOON).await?.code() == Some(0));
    Ok(process.log())
}

/// The last whole frame.
fn last_frame(log: &str) -> &str {
    let start = log.rfind("provider ").unwrap_or_default();
    log.get(start..).unwrap_or_default()
}

/// A text without the sequences that colour and clear.
fn bare(text: &str) -> Result<String> {
    let mut bare = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        bare.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).context("an unknown sequence")?;
        let (sequence, text) = after.split_at_checked(end + 1).context("half a sequence")?;
        ensure!(sequence.starts_with('[') && sequence.ends_with(['m', 'K', 'J', 'A', 'H']));
        rest = text;
    }
    Ok(bare + rest)
}

#[tokio::test]
async fn a_terminal_shows_it_again_and_again_in_place() -> Result<()> {
    let stack = machine(true).await?;
    let usual = ("LANG", "C");
    for columns in [40, 120] {
        let log = shown(&stack, &format!("w{columns}"), columns, usual).await?;
        ensure!(log.contains("\u{1b}[32mready\u{1b}[0m"), "no colour: {log:?}");
        // In place: up again and over what is there, on the screen as it was before.
        ensure!(log.contains("A\u{1b}") || log.contains("Aprovider"), "not in place: {log:?}");
        ensure!(!log.contains("?1049") && !log.contains("?25l"), "{log:?}");
        let frame = bare(last_frame(&log))?;
        let widest = frame.lines().map(|line| line.trim_end_matches('\r').chars().count()).max();
        ensure!(widest.is_some_and(|widest| widest <= usize::from(columns)), "{columns}: {frame}");
        ensure!(columns == 40 || widest > Some(70), "{columns}: {frame}");
        for word in ["serving", "ready", "token expires in", "generation", "workers"] {
            ensure!(frame.contains(word), "{word} is missing: {frame}");
        }
        // The terminal is left at the beginning of a line, with nothing below.
        ensure!(log.ends_with("\n\u{1b}[J\r\u{1b}[J"), "{log:?}");
    }
    for (name, variable) in [("no-color", ("NO_COLOR", "1")), ("dumb", ("TERM", "dumb"))] {
        let log = shown(&stack, name, 80, variable).await?;
        ensure!(!log.contains("[32m") && !log.contains("[1m"), "{name}: {log:?}");
        ensure!(name != "dumb" || !log.contains('\u{1b}'), "{log:?}");
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_watch_with_a_clean_terminal() -> Result<()> {
    let stack = machine(false).await?;
    let mut command = stack.refresher_command(&["status", "--watch"])?;
    command.env("TERM", "xterm");
    let (mut process, _keyboard) = Process::start_on_terminal("watch", stack.dir(), command)?;
    process.printed(SOON, |line| line.contains("not serving").then_some(())).await?;
    process.signal(Signal::TERM)?;
    ensure!(process.wait(SOON).await?.code() == Some(0));
    ensure!(process.log().ends_with("\r\u{1b}[J"), "{:?}", process.log());
    Ok(())
}

#[tokio::test]
async fn in_a_pipe_there_are_plain_blocks_or_documents() -> Result<()> {
    let stack = machine(true).await?;
    let mut command = stack.refresher_command(&["status", "--watch", "1"])?;
    let mut process = Process::start("plain", stack.dir(), &mut command)?;
    let blocks = eventually(SOON, async || {
        (process.log().matches("\n\nprovider ").count() >= 1).then_some(())
    });
    blocks.await.context("there is no second block")?;
    process.signal(Signal::TERM)?;
    ensure!(process.wait(SOON).await?.code() == Some(0));
    let log = process.log();
    ensure!(!log.contains(['\u{1b}', '\r']) && log.starts_with("provider "), "{log:?}");

    let mut command = stack.refresher_command(&["status", "--watch", "1", "--json"])?;
    let mut process = Process::start("documents", stack.dir(), &mut command)?;
    let lines = eventually(SOON, async || (process.log().lines().count() >= 2).then_some(()));
    lines.await.context("there is no second document")?;
    process.signal(Signal::INT)?;
    process.wait(SOON).await?;
    for line in process.log().lines() {
        let document: Value = serde_json::from_str(line)?;
        ensure!(
            document["serving"] == true && document["overview"]["workers"].is_array(),
            "{line}"
        );
        ensure!(document["credentials"][0]["state"] == "ready", "{line}");
    }

    // A reader that has seen enough is no error.
    let mut command = stack.refresher_command(&["status", "--watch", "1"])?;
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    drop(child.stdout.take());
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await??;
    ensure!(output.status.code() == Some(0), "{}", output.status);
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn the_documents_of_status_have_no_secret_and_what_helps() -> Result<()> {
    let stack = machine(false).await?;
    let (code, text, _) = finished(&mut stack.refresher_command(&["status", "--json"])?).await?;
    let document: Value = serde_json::from_str(&text)?;
    ensure!(code == Some(0) && document["serving"] == false, "{text}");
    ensure!(document["overview"].is_null(), "{text}");
    ensure!(
        document["remedies"][0].as_str().is_some_and(|it| it.contains("refresher up")),
        "{text}"
    );
    let line = &document["credentials"][0];
    ensure!(line["issued_at"].is_u64() && line["expires_at"].is_u64(), "{text}");
    let (_, lines, _) = finished(&mut stack.refresher_command(&["status"])?).await?;
    let bar = lines.contains("[####") && lines.contains(" % left; token expires in ");
    ensure!(bar && lines.contains("to do") && lines.contains("refresher up"), "{lines}");
    let canaries = Canaries::new(&stack.provider().secrets(), &[])?;
    canaries.clear("status", (text + &lines).as_bytes())?;
    for bad in [["status", "--watch", "0"], ["status", "--wait-generation", "x"]] {
        let (code, _, errors) = finished(&mut stack.refresher_command(&bad)?).await?;
        ensure!(code == Some(2), "{bad:?}: {errors}");
    }
    Ok(())
}

/// As a health check has it: well only with a refresher that answers and has a token.
#[tokio::test]
async fn running_fails_where_no_refresher_answers_or_none_is_ready() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    let code = async |stack: &Stack, arguments: &[&str]| {
        let arguments = [&["status"], arguments].concat();
        finished(&mut stack.refresher_command(&arguments)?).await.map(|(code, ..)| code)
    };
    // Without a login, a refresher that answers is told from none.
    ensure!(code(&stack, &["--running"]).await? == Some(1));
    stack.start_refresher().await?;
    ensure!(code(&stack, &["--running"]).await? == Some(3));
    stack.login().await?;
    let ready = eventually(SOON, async || {
        (code(&stack, &["--running"]).await.ok()? == Some(0)).then_some(())
    });
    ready.await.context("with a login it is not well")?;
    ensure!(code(&stack, &["--running", "--json"]).await? == Some(0));

    // One that does not answer any more is none, and what is stored does not count.
    let refresher = stack.take_refresher()?;
    refresher.signal(Signal::STOP)?;
    ensure!(code(&stack, &["--running"]).await? == Some(1));
    ensure!(code(&stack, &[]).await? == Some(0));
    refresher.signal(Signal::CONT)?;
    ensure!(code(&stack, &["--running"]).await? == Some(0));
    refresher.stop().await?;
    ensure!(code(&stack, &["--running"]).await? == Some(1));
    ensure!(code(&stack, &["--running", "--json"]).await? == Some(1));
    ensure!(code(&stack, &[]).await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn to_wait_for_workers_that_nobody_knows_ends_with_5() -> Result<()> {
    let mut stack = machine(true).await?;
    let wait = |generation: &str| {
        let arguments = ["status", "--wait-generation", generation, "--timeout", "1s"];
        stack.refresher_command(&arguments)
    };
    for generation in ["current", "1"] {
        let (code, out, errors) = finished(&mut wait(generation)?).await?;
        ensure!(code == Some(5) && out.is_empty(), "{code:?} {out}");
        ensure!(errors.contains("not within 1 s: no worker is known"), "{errors}");
    }
    let mut gone = wait("current")?;
    stack.take_refresher()?.stop().await?;
    let (code, _, errors) = finished(&mut gone).await?;
    ensure!(
        code == Some(5) && errors.contains("no refresher of this provider answers"),
        "{errors}"
    );
    Ok(())
}
