//! Logging in: by a browser that comes back to a port of this machine, and by a device code.

mod browser;
mod chromium;
mod device;
mod running;
mod terminal;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use serde_json::Value;
use simulator::Options;
use tests::{Plan, Process, Stack};
use url::Url;

/// How long a login may take that waits for nobody.
const SOON: Duration = Duration::from_secs(20);

/// A provider with a consent page and this many callback ports; nobody has logged in.
async fn provider(callbacks: usize) -> Result<Stack> {
    Stack::prepare(Plan { login: false, callbacks, ..Plan::default() }).await
}

/// A `refresher login` that waits for its browser.
struct Attempt {
    process: Process,
    url: Url,
}

impl Attempt {
    async fn start(stack: &Stack, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = stack.refresher_command(&["login", "--no-browser"])?;
        command.args(arguments);
        let mut process = Process::start(name, stack.dir(), &mut command)?;
        let address = |line: &str| line.split(' ').find_map(|word| Url::parse(word).ok());
        let url = process.printed(SOON, address).await?;
        Ok(Self { process, url })
    }

    fn parameter(&self, name: &str) -> Result<String> {
        let mut pairs = self.url.query_pairs();
        let value = pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
        value.with_context(|| format!("{} has no {name}", self.url))
    }

    /// The address to which the provider sends the browser.
    fn callback(&self) -> Result<Url> {
        Ok(self.parameter("redirect_uri")?.parse()?)
    }

    /// Asks for a page of the callback's port.
    async fn visit(&self, client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Response> {
        let mut url = self.callback()?;
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(client.get(url).send().await?)
    }

    /// Waits for its end; gives its output.
    async fn ended(mut self, code: i32) -> Result<String> {
        let status = self.process.wait(SOON).await?;
        let output = self.process.log();
        ensure!(status.code() == Some(code), "ended with {status} instead of {code}: {output}");
        Ok(output)
    }
}

/// Opens an authorization URL and answers the consent page; follows where that leads.
pub(super) async fn decide(client: &Client, url: &Url, decision: &str) -> Result<Response> {
    let page = client.get(url.clone()).send().await?.error_for_status()?;
    let (base, html) = (page.url().clone(), page.text().await?);
    let attribute = |start: &str| {
        let (_, rest) = html.split_once(start)?;
        rest.split('"').next().map(str::to_owned)
    };
    let action = attribute("action=\"").context("the page has no form")?;
    let consent = attribute("name=\"consent\" value=\"").context("the form has no consent")?;
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("consent", consent.as_str()), ("decision", decision)])
        .finish();
    let request = client.post(base.join(&action)?).body(form);
    Ok(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").send().await?)
}

fn grant_file(stack: &Stack) -> PathBuf {
    stack.state_dir().join("grants/simulated.default.json")
}

fn grant(stack: &Stack) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(grant_file(stack))?)?)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o7777)
}

/// Starts refresher and Envoy on what a login stored, and sends a request.
async fn assert_serves(stack: &mut Stack) -> Result<()> {
    stack.start_refresher().await?;
    stack.start_envoy().await?;
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(())
}

fn codes_presented(stack: &Stack) -> usize {
    let ledger = stack.provider().ledger();
    ledger.iter().filter(|entry| entry.grant == "authorization_code").count()
}

/// A `refresher login --device` that has shown its code.
async fn device_login(stack: &Stack) -> Result<(Process, String)> {
    let mut command = stack.refresher_command(&["login", "--device"])?;
    let mut login = Process::start("login", stack.dir(), &mut command)?;
    let line = login.printed(SOON, |line| line.contains("/device").then(|| line.to_owned()));
    let line = line.await?;
    let code = stack.provider().pending_device().context("no device waits")?;
    ensure!(line.contains(&code), "{code} is not in {line:?}");
    Ok((login, line))
}

fn waiting_device() -> Plan {
    let provider = Options { device_interval: 1, ..Options::default() };
    Plan { provider, login: false, ..Plan::default() }
}

async fn ended(mut login: Process, code: i32) -> Result<String> {
    let (status, output) = (login.wait(SOON).await?, login.log());
    ensure!(status.code() == Some(code), "ended with {status} instead of {code}: {output}");
    Ok(output)
}
