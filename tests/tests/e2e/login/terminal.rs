//! Logins on a terminal.

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;
use reqwest::header::LOCATION;
use tests::{Process, Stack};
use url::Url;

use super::{
    Attempt, SOON, assert_serves, codes_presented, decide, device_login, ended, grant, provider,
    waiting_device,
};

#[tokio::test]
async fn l04_on_a_terminal_the_address_is_pasted_and_another_logins_is_refused() -> Result<()> {
    let mut stack = provider(1).await?;
    let command = stack.refresher_command(&["login", "--no-browser"])?;
    let (mut login, mut keyboard) = Process::start_on_terminal("login", stack.dir(), command)?;
    let address = |line: &str| line.split(' ').find_map(|word| Url::parse(word).ok());
    let url = login.printed(SOON, address).await?;
    login.printed(SOON, |line| line.contains("paste the code").then_some(())).await?;
    // The browser runs elsewhere: it ends on an address that nobody there answers.
    let client =
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let sent = decide(&client, &url, "approve").await?;
    let location = sent.headers().get(LOCATION).context("no redirect")?;
    let callback = Url::parse(location.to_str()?)?;
    let mut other = callback.clone();
    let foreign = callback.query_pairs().into_owned().map(|(name, value)| {
        let value = if name == "state" { "another".to_owned() } else { value };
        (name, value)
    });
    other.query_pairs_mut().clear().extend_pairs(foreign.collect::<Vec<_>>());
    keyboard.line(other.as_str())?;
    let refused = |line: &str| line.contains("of another login").then_some(());
    login.printed(SOON, refused).await?;
    ensure!(login.ended().is_none() && codes_presented(&stack) == 0);

    keyboard.line(callback.as_str())?;
    let done = |line: &str| line.contains("logged in to simulated").then_some(());
    login.printed(SOON, done).await?;
    ended(login, 0).await?;
    ensure!(codes_presented(&stack) == 1);
    assert_serves(&mut stack).await
}

#[tokio::test]
async fn l04_without_a_terminal_nothing_is_asked_to_be_pasted() -> Result<()> {
    let stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    decide(&stack.client, &attempt.url, "approve").await?;
    let output = attempt.ended(0).await?;
    ensure!(!output.contains("paste"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_device_login_draws_a_code_on_a_terminal_and_nowhere_else() -> Result<()> {
    let stack = Stack::prepare(waiting_device()).await?;
    let command = stack.refresher_command(&["login", "--device"])?;
    let (mut login, _keyboard) = Process::start_on_terminal("terminal", stack.dir(), command)?;
    // Both are drawn after the code.
    let left = |line: &str| line.contains("waiting for your approval: ").then_some(());
    login.printed(SOON, left).await?;
    let shown = login.log();
    let drawn = |line: &&str| line.chars().all(|c| "█▀▄ \r".contains(c)) && line.contains('█');
    ensure!(shown.lines().filter(drawn).count() > 15, "{shown}");
    ensure!(stack.provider().approve_device(None), "no device waits");
    login.printed(SOON, |line| line.contains("logged in to simulated").then_some(())).await?;
    ended(login, 0).await?;

    let (login, _) = device_login(&stack).await?;
    ensure!(stack.provider().approve_device(None), "no device waits");
    let output = ended(login, 0).await?;
    ensure!(!output.contains(['█', '\r', '\u{1b}']), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn an_export_is_not_shown_on_a_terminal_unless_forced() -> Result<()> {
    let stack = provider(1).await?;
    stack.login().await?;
    let secret = grant(&stack)?["refresh_token"].as_str().context("no refresh token")?.to_owned();
    let accepted = "accepted: a file or a pipe, or --force";
    for (arguments, code, told) in
        [(&["export"][..], 2, accepted), (&["export", "--force"], 0, secret.as_str())]
    {
        let command = stack.refresher_command(arguments)?;
        let (mut export, _keyboard) = Process::start_on_terminal("export", stack.dir(), command)?;
        export.printed(SOON, |line| line.contains(told).then_some(())).await?;
        let output = ended(export, code).await?;
        ensure!(code == 0 || !output.contains(&secret), "the secret is on the screen");
    }
    Ok(())
}
