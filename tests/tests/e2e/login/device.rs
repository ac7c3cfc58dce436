//! Logins by a device code.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use simulator::{Fault, Target};
use tests::{Process, Stack};

use super::{SOON, assert_serves, device_login, ended, grant_file, mode, waiting_device};

/// Most of its 42 s are pauses that RFC 8628, section 3.5, asks for.
#[tokio::test]
async fn l07_a_device_login_survives_what_polls_can_meet() -> Result<()> {
    let mut stack = Stack::prepare(waiting_device()).await?;
    let (login, line) = device_login(&stack).await?;
    ensure!(line.contains(&format!("{}/device", stack.provider_url())), "{line}");
    let control = stack.provider();
    let (html, slow_down) = ("<html>Bad gateway</html>", r#"{"error": "slow_down"}"#);
    // What a poll meets, and how long the pause after it has to be, in seconds.
    let polls = [
        (None, 1),
        (Some((502, html)), 1),
        (Some((400, slow_down)), 6),
        (Some((200, html)), 6),
        (Some((400, slow_down)), 11),
        (Some((400, slow_down)), 16),
    ];
    for (count, (answer, _)) in polls.into_iter().enumerate() {
        if let Some((status, body)) = answer {
            let (status, body) = (Some(status), Some(body.to_owned()));
            control.set_fault(Fault { count: Some(1), status, body, ..Fault::new(Target::Token) });
        }
        let wait = control.wait_until(|control| control.ledger().len() > count);
        let polled = tokio::time::timeout(SOON, wait).await;
        polled.with_context(|| format!("poll {count} does not come: {:?}", control.ledger()))?;
    }
    ensure!(control.approve_device(None), "no device waits");
    let output = ended(login, 0).await?;
    ensure!(output.contains("logged in"), "{output}");
    let ledger = control.ledger();
    let outcomes: Vec<_> = ledger.iter().map(|entry| entry.outcome).collect();
    let met = ["authorization_pending", "fault", "fault", "fault", "fault", "fault", "ok"];
    ensure!(outcomes == met, "{ledger:?}");
    for ((_, pause_s), poll) in polls.into_iter().zip(ledger.windows(2)) {
        let [one, next] = poll else { bail!("{poll:?}") };
        // Both times are rounded, and of a clock that may be set.
        let least = pause_s * 1000 - 100;
        ensure!(next.time_ms - one.time_ms >= least, "polled within {pause_s} s: {ledger:?}");
    }
    ensure!(mode(&grant_file(&stack))? == 0o600);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l07_a_denied_or_expired_device_login_says_so() -> Result<()> {
    let stack = Stack::prepare(waiting_device()).await?;
    let (login, _) = device_login(&stack).await?;
    ensure!(stack.provider().deny_device(None), "no device waits");
    let output = ended(login, 4).await?;
    ensure!(output.contains("the login was denied"), "{output}");
    ensure!(!grant_file(&stack).exists());

    let mut plan = waiting_device();
    plan.provider.device_life = 2;
    let stack = Stack::prepare(plan).await?;
    let (login, _) = device_login(&stack).await?;
    let output = ended(login, 5).await?;
    ensure!(output.contains("not completed in time"), "{output}");

    // The provider's word counts, also where it comes earlier than announced.
    let stack = Stack::prepare(waiting_device()).await?;
    let body = Some(r#"{"error": "expired_token"}"#.to_owned());
    stack.provider().set_fault(Fault { status: Some(400), body, ..Fault::new(Target::Token) });
    let (login, _) = device_login(&stack).await?;
    ended(login, 5).await?;
    Ok(())
}

#[tokio::test]
async fn l08_a_device_answer_that_could_deceive_is_refused_unseen() -> Result<()> {
    for (field, value) in [
        ("user_code", "AB\u{1b}[2JCD"),
        ("user_code", "AB\nCD"),
        ("verification_uri", "http://login.example/device"),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri_complete", "http://login.example/device?user_code=AB"),
        ("verification_uri_complete", "https://login.example/\u{7}device"),
    ] {
        let stack = Stack::prepare(waiting_device()).await?;
        let patch = json!({field: value}).as_object().cloned().unwrap_or_default();
        stack.provider().set_fault(Fault { patch, ..Fault::new(Target::Device) });
        let mut command = stack.refresher_command(&["login", "--device"])?;
        let login = Process::start("login", stack.dir(), &mut command)?;
        let output = ended(login, 1).await.with_context(|| format!("{field}: {value:?}"))?;
        let named = field.trim_end_matches("_complete");
        ensure!(output.contains(named) && !output.contains(value), "{output:?}");
        ensure!(stack.provider().summary().token_requests == 0);
    }
    let stack = Stack::prepare(waiting_device()).await?;
    stack.provider().set_fault(Fault { status: Some(404), ..Fault::new(Target::Device) });
    let mut command = stack.refresher_command(&["login", "--device"])?;
    let output = ended(Process::start("login", stack.dir(), &mut command)?, 1).await?;
    ensure!(output.contains("does not offer the device flow"), "{output}");
    Ok(())
}
