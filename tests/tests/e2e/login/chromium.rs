//! A login in a real browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use tests::{Process, eventually, webdriver};
use url::Url;

use super::{Attempt, SOON, assert_serves, provider};

/// A headless Chromium behind its WebDriver (W3C WebDriver, sections 8 to 12).
struct Browser<'a> {
    client: &'a Client,
    session: String,
}

impl Browser<'_> {
    async fn start<'a>(client: &'a Client, driver: &str, profile: &Path) -> Result<Browser<'a>> {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let always = json!({"browserName": "chrome", "goog:chromeOptions": {"args": arguments}});
        let body = json!({"capabilities": {"alwaysMatch": always}});
        let url = format!("{driver}/session");
        let value = value(client.post(&url).json(&body)).await?;
        let id = value.get("sessionId").and_then(Value::as_str).context("no session")?;
        Ok(Browser { client, session: format!("{url}/{id}") })
    }

    async fn open(&self, url: &Url) -> Result<()> {
        let request = self.client.post(format!("{}/url", self.session));
        value(request.json(&json!({"url": url.as_str()}))).await.map(drop)
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let request = self.client.post(format!("{}/element", self.session));
        let found =
            value(request.json(&json!({"using": "css selector", "value": selector}))).await?;
        let id = found.as_object().and_then(|object| object.values().next()?.as_str());
        Ok(format!("{}/element/{}", self.session, id.context("no element")?))
    }

    async fn click(&self, selector: &str) -> Result<()> {
        let element = self.element(selector).await?;
        value(self.client.post(format!("{element}/click")).json(&json!({}))).await.map(drop)
    }

    async fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector).await?;
        let text = value(self.client.get(format!("{element}/text"))).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    async fn address(&self) -> Result<Url> {
        let url = value(self.client.get(format!("{}/url", self.session))).await?;
        Ok(url.as_str().unwrap_or_default().parse()?)
    }

    async fn quit(self) -> Result<()> {
        value(self.client.delete(&self.session)).await.map(drop)
    }
}

/// Sends a WebDriver command; gives its value.
async fn value(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request.timeout(Duration::from_secs(60)).send().await?;
    let status = answer.status();
    let mut body: Value = answer.json().await?;
    let value = body.get_mut("value").map(Value::take).unwrap_or_default();
    ensure!(status.is_success(), "WebDriver: {value}");
    Ok(value)
}

/// Approves on the consent page and reads where that ends.
async fn approve_in(browser: &Browser<'_>, url: &Url) -> Result<(Url, String)> {
    browser.open(url).await?;
    browser.click("#approve").await?;
    let page = eventually(SOON, async || {
        let heading = browser.text("h1").await.ok()?;
        (heading != "Authorize access").then_some(heading)
    });
    let heading = page.await.context("the consent page stays")?;
    Ok((browser.address().await?, format!("{heading}\n{}", browser.text("p").await?)))
}

#[tokio::test]
async fn a_login_in_a_real_browser_ends_on_our_page() -> Result<()> {
    let mut stack = provider(1).await?;
    let mut command = Process::command(webdriver()?);
    command.arg("--port=0").env("HOME", stack.dir());
    let mut driver = Process::start("chromedriver", stack.dir(), &mut command)?;
    let port = |line: &str| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    };
    let url = format!("http://127.0.0.1:{}", driver.printed(SOON, port).await?);
    let attempt = Attempt::start(&stack, "login", &[]).await?;
    let profile = stack.dir().join("chromium");
    let browser = Browser::start(&stack.client, &url, &profile).await;
    let browser = browser.with_context(|| driver.log())?;
    let ended = approve_in(&browser, &attempt.url).await;
    let quit = browser.quit().await;
    driver.stop().await?;
    let (address, text) = ended?;
    quit?;
    ensure!(text == "Logged in\nYou can close this page.", "{text}");
    ensure!(address.path() == "/callback" && address.port() == attempt.callback()?.port());
    attempt.ended(0).await?;
    assert_serves(&mut stack).await
}
