//! What the page shows, and logging in on it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use simulator::Options;
use tests::{Browser, Plan, Stack, eventually};

use super::{SOON, enter, open, origin, plan, quit};

/// The card of the default credential.
const CARD: &str = "[data-credential=default]";

/// Begins a login in the browser and answers the provider's consent page, which opens in a tab of
/// its own; gives what the callback says.
async fn decide(browser: &Browser, decision: &str) -> Result<String> {
    let known = browser.windows().await?;
    let page = known.first().context("no window")?.clone();
    browser.click(&format!("{CARD} [data-login=browser]")).await?;
    let tab = browser.other_window(&known).await?;
    browser.turn_to(&tab).await?;
    browser.click(&format!("#{decision}")).await?;
    let heading = eventually(SOON, async || {
        let heading = browser.text("h1").await.ok()?;
        (heading != "Authorize access").then_some(heading)
    });
    let heading = heading.await.context("the consent page stays")?;
    browser.close(&page).await?;
    Ok(heading)
}

fn generation(state: &Value) -> Option<u64> {
    state.pointer("/credentials/default/generation")?.as_u64()
}

async fn health(stack: &Stack) -> Result<Value> {
    Ok(tests::unix_request(&stack.socket(), "GET", "/health", "").await?.json())
}

#[tokio::test]
async fn the_page_shows_a_rotation_and_logs_in_by_browser_and_by_code() -> Result<()> {
    let provider = Options { device_interval: 1, ..Options::default() };
    let mut stack = Stack::prepare(Plan { provider, login: false, ..plan() }).await?;
    stack.start_refresher().await?;
    let (browser, base) = open(&stack).await?;
    browser.shows("#summary", "Not serving").await?;
    browser.shows("#alarms", "Nobody has logged in yet.").await?;
    ensure!(!browser.address().await?.contains('#'), "the ticket stays in the address");

    // Denied, then approved, in the provider's own page.
    ensure!(decide(&browser, "deny").await? == "Not logged in");
    browser.shows(&format!("{CARD} [data-stage=denied]"), "The login was denied").await?;
    ensure!(decide(&browser, "approve").await? == "Logged in");
    browser.shows(&format!("{CARD} [data-stage=success]"), "Logged in.").await?;
    browser.shows("#summary", "All is well").await?;
    browser.shows(CARD, "Token expires in").await?;

    // What happens elsewhere is shown without a reload.
    let before = generation(&health(&stack).await?).context("no generation")?;
    browser.shows(CARD, &before.to_string()).await?;
    browser.run("window.loadedOnce = true").await?;
    let rejection = serde_json::json!(
        {"credential": "default", "generation": before, "status": 401}
    );
    let body = rejection.to_string();
    let answer = tests::unix_request(&stack.socket(), "POST", "/v1/rejections", &body).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    let after = generation(&health(&stack).await?).context("no generation")?;
    ensure!(after > before);
    browser.shows(CARD, &after.to_string()).await?;
    browser.shows(CARD, "success").await?;
    ensure!(browser.run("return window.loadedOnce").await? == true, "the page was loaded again");

    // By code: shown with its address and as a drawing, approved elsewhere.
    browser.click(&format!("{CARD} [data-login=device]")).await?;
    let code = browser.shows(&format!("{CARD} .user-code"), "-").await?;
    ensure!(stack.provider().pending_device().as_ref() == Some(&code), "{code}");
    browser
        .shows(&format!("{CARD} [data-stage=device]"), &format!("{}/device", stack.provider_url()))
        .await?;
    let drawn = "return document.querySelector('svg.qr path').getAttribute('d').length";
    ensure!(browser.run(drawn).await?.as_u64() > Some(500));
    ensure!(stack.provider().approve_device(code.as_str()));
    browser.shows(&format!("{CARD} [data-stage=success]"), "Logged in.").await?;

    // Cancelled here, and denied there.
    browser.click(&format!("{CARD} [data-login=device]")).await?;
    browser.shows(&format!("{CARD} .user-code"), "-").await?;
    browser.click(&format!("{CARD} [data-login=cancel]")).await?;
    browser.shows(&format!("{CARD} [data-stage=cancelled]"), "was cancelled").await?;
    browser.click(&format!("{CARD} [data-login=device]")).await?;
    let code = browser.shows(&format!("{CARD} .user-code"), "-").await?;
    ensure!(stack.provider().deny_device(code.as_str()));
    browser.shows(&format!("{CARD} [data-stage=denied]"), "was denied").await?;
    ensure!(stack.provider().summary().spent_twice == 0);
    quit(browser, &[&base, stack.provider_url(), &origin(stack.callbacks[0])]).await
}

#[tokio::test]
async fn a_login_of_the_command_is_not_disturbed_and_a_gone_refresher_is_said() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let (browser, _) = open(&stack).await?;
    browser.shows("#summary", "All is well").await?;
    let mut command = stack.refresher_command(&["login", "--no-browser"])?;
    let mut login = tests::Process::start("login-beside", stack.dir(), &mut command)?;
    let url = |line: &str| line.split(' ').find_map(|word| url::Url::parse(word).ok());
    let url = login.printed(SOON, url).await?;
    browser.click(&format!("{CARD} [data-login=browser]")).await?;
    browser.shows(&format!("{CARD} [data-stage=failed]"), "where another login waits").await?;
    let page = super::super::login::decide(&stack.client, &url, "approve").await?;
    ensure!(page.status() == 200, "{}", page.text().await?);
    ensure!(login.wait(SOON).await?.success(), "{}", login.log());

    // A cancelled login frees the callback's port for the next.
    let known = browser.windows().await?;
    browser.click(&format!("{CARD} [data-login=browser]")).await?;
    browser.shows(&format!("{CARD} [data-stage=browser]"), "Approve the login").await?;
    let tab = browser.other_window(&known).await?;
    browser.click(&format!("{CARD} [data-login=cancel]")).await?;
    browser.shows(&format!("{CARD} [data-stage=cancelled]"), "was cancelled").await?;
    let port = stack.callbacks[0];
    let free = eventually(SOON, async || std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    free.await.context("the callback is still served")?;
    browser.turn_to(&tab).await?;
    browser.close(&known[0]).await?;

    stack.take_refresher()?.kill().await?;
    browser.shows("#lost", "The refresher does not answer.").await?;
    browser.shows(CARD, "default").await?;
    // Another refresher knows nothing of the session; the page closes, and opens with a new address.
    stack.start_refresher().await?;
    enter(&browser, &stack).await?;
    browser.shows("#summary", "All is well").await?;
    browser.quit().await
}
