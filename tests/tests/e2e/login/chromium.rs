//! A login in a real browser.

use anyhow::{Context as _, Result, ensure};
use tests::{Browser, eventually};
use url::Url;

use super::{Attempt, SOON, assert_serves, provider};

/// Approves on the consent page and reads where that ends.
async fn approve_in(browser: &Browser, url: &Url) -> Result<(Url, String)> {
    browser.open(url.as_str()).await?;
    browser.click("#approve").await?;
    let page = eventually(SOON, async || {
        let heading = browser.text("h1").await.ok()?;
        (heading != "Authorize access").then_some(heading)
    });
    let heading = page.await.context("the consent page stays")?;
    Ok((browser.address().await?.parse()?, format!("{heading}\n{}", browser.text("p").await?)))
}

#[tokio::test]
async fn a_login_in_a_real_browser_ends_on_our_page() -> Result<()> {
    let mut stack = provider(1).await?;
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let browser = Browser::start(stack.dir()).await?;
    let ended = approve_in(&browser, &attempt.url).await;
    browser.quit().await?;
    let (address, text) = ended?;
    ensure!(text == "Logged in\nYou can close this page.", "{text}");
    ensure!(address.path() == "/callback" && address.port() == attempt.callback()?.port());
    attempt.ended(0).await?;
    assert_serves(&mut stack).await
}
