//! The status page: in a real browser, from other origins, and by hand.

mod guard;
mod keys;
mod logins;
mod looks;
mod origins;
mod running;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tests::{Browser, Plan, Stack};
use tokio::process::Command;

/// How long what is shown may lag behind what is.
const SOON: Duration = Duration::from_secs(20);

/// A page on a port that the kernel chooses.
const SETTINGS: &str = "[status_page]\nenabled = true\nport = 0\n";

fn plan() -> Plan {
    Plan { settings: SETTINGS.to_owned(), ..Plan::default() }
}

/// Runs `refresher page`; gives its output.
async fn page_command(command: &mut Command) -> Result<std::process::Output> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    Ok(tokio::time::timeout(SOON, running).await.context("it goes on running")??)
}

/// An address of the page that is good for one use.
async fn invitation(stack: &Stack) -> Result<String> {
    let output = page_command(&mut stack.refresher_command(&["page", "--no-browser"])?).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{errors}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A browser with the page open and a session begun.
async fn open(stack: &Stack) -> Result<(Browser, String)> {
    let browser = Browser::start(stack.dir()).await?;
    let base = enter(&browser, stack).await?;
    Ok((browser, base))
}

/// Begins a session in the browser's present tab; gives the page's address.
async fn enter(browser: &Browser, stack: &Stack) -> Result<String> {
    let invitation = invitation(stack).await?;
    browser.open(&invitation).await?;
    let (base, _) = invitation.split_once("/#").context("no ticket")?;
    Ok(base.to_owned())
}

/// What a program sends that has a session and says what a browser on the page would.
struct Caller<'a> {
    stack: &'a Stack,
    base: String,
    session: String,
}

impl<'a> Caller<'a> {
    async fn new(stack: &'a Stack) -> Result<Self> {
        let invitation = invitation(stack).await?;
        let (base, ticket) = invitation.split_once("/#").context("no ticket")?;
        let mut caller = Self { stack, base: base.to_owned(), session: String::new() };
        let answer = caller.post("/api/session", &json!({"ticket": ticket})).send().await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        let answer: Value = answer.json().await?;
        caller.session = answer["session"].as_str().context("no session")?.to_owned();
        Ok(caller)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        let request = self.stack.client.get(format!("{}{path}", self.base));
        request.header("x-torchbearer-session", &self.session).timeout(SOON)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.stack.client.post(format!("{}{path}", self.base)).json(body);
        let request = request.header("origin", &self.base).header("sec-fetch-site", "same-origin");
        request.header("x-torchbearer-session", &self.session).timeout(SOON)
    }

    async fn state(&self) -> Result<Value> {
        let answer = self.get("/api/state").send().await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        Ok(answer.json().await?)
    }
}

/// Ends the browser; nothing was loaded from elsewhere than `own`, and on the page, which is the first
/// of these, nothing was refused by the policy, or went wrong.
async fn quit(browser: Browser, own: &[&str]) -> Result<()> {
    let (console, requested) = (browser.log("browser").await?, browser.requested().await?);
    browser.quit().await?;
    let others = own.get(1..).unwrap_or_default();
    let elsewhere = |line: &&String| others.iter().any(|other| line.starts_with(other));
    let console: Vec<_> = console.iter().filter(|line| !elsewhere(line)).collect();
    ensure!(console.is_empty(), "{console:#?}");
    ensure!(!requested.is_empty(), "the browser tells no requests");
    let ours = |url: &&String| {
        // The browser's own first tab, and what is in the page itself.
        let inner = ["data:", "chrome://", "chrome-untrusted://"];
        inner.iter().any(|scheme| url.starts_with(scheme))
            || own.iter().any(|own| url.starts_with(&format!("{own}/")))
    };
    let foreign: Vec<_> = requested.iter().filter(|url| !ours(url)).collect();
    ensure!(foreign.is_empty(), "{foreign:?}");
    Ok(())
}

fn origin(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
