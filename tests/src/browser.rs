//! A headless Chromium behind its WebDriver (W3C WebDriver, sections 8 to 14).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use serde_json::{Value, json};

use crate::artefacts::webdriver;
use crate::clock::eventually;
use crate::process::Process;
use crate::raw::http_client;

/// How long a driver may take to start, and something on a page to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// What WebDriver calls a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one session.
#[derive(Debug)]
pub struct Browser {
    driver: Process,
    client: Client,
    session: String,
}

impl Browser {
    /// Starts driver and browser. The profile is in `dir`, in a folder that may hold secrets.
    ///
    /// # Errors
    ///
    /// When one of them does not start.
    pub async fn start(dir: &Path) -> Result<Self> {
        let mut command = Process::command(webdriver()?);
        command.arg("--port=0").env("HOME", dir);
        let mut driver = Process::start("chromedriver", dir, &mut command)?;
        let port = |line: &str| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        };
        let url = format!("http://127.0.0.1:{}/session", driver.printed(PATIENCE, port).await?);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--hide-scrollbars",
            "--lang=en-US",
            &format!("--user-data-dir={}", dir.join("chromium").display()),
        ];
        let always = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let client = http_client()?;
        let body = json!({"capabilities": {"alwaysMatch": always}});
        let value = value(client.post(&url).json(&body)).await;
        let value = value.with_context(|| driver.log())?;
        let id = value.get("sessionId").and_then(Value::as_str).context("no session")?;
        let session = format!("{url}/{id}");
        Ok(Self { driver, client, session })
    }

    async fn get(&self, path: &str) -> Result<Value> {
        value(self.client.get(format!("{}{path}", self.session))).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        value(self.client.post(format!("{}{path}", self.session)).json(&body)).await
    }

    /// Opens an address.
    ///
    /// # Errors
    ///
    /// When it cannot be loaded. So may the following.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("/url", json!({"url": url})).await.map(drop)
    }

    /// Loads the page again.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn reload(&self) -> Result<()> {
        self.post("/refresh", json!({})).await.map(drop)
    }

    /// The address of the page.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn address(&self) -> Result<String> {
        Ok(self.get("/url").await?.as_str().unwrap_or_default().to_owned())
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.post("/element", body).await?;
        let id = found.get(ELEMENT).and_then(Value::as_str).context("no element")?;
        Ok(format!("/element/{id}"))
    }

    /// Clicks on an element, once there is one that can be clicked on.
    ///
    /// # Errors
    ///
    /// When there is none for a while.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let clicked = eventually(PATIENCE, async || {
            let element = self.element(selector).await.ok()?;
            self.post(&format!("{element}/click"), json!({})).await.ok()
        });
        clicked.await.map(drop).with_context(|| format!("{selector} cannot be clicked on"))
    }

    /// Types into a field.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn write(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.element(selector).await?;
        self.post(&format!("{element}/value"), json!({"text": text})).await.map(drop)
    }

    /// The text of an element as a user sees it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector).await?;
        let text = self.get(&format!("{element}/text")).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an element shows a text.
    ///
    /// # Errors
    ///
    /// When it does not for a while.
    pub async fn shows(&self, selector: &str, text: &str) -> Result<String> {
        let shown = eventually(PATIENCE, async || {
            let shown = self.text(selector).await.ok()?;
            shown.contains(text).then_some(shown)
        });
        match shown.await {
            Some(shown) => Ok(shown),
            None => {
                let found = self.text(selector).await;
                let body = self.text("body").await.unwrap_or_default();
                anyhow::bail!("{selector} shows {found:?}, not {text:?}; the page: {body}")
            }
        }
    }

    /// Runs a function body on the page.
    ///
    /// # Errors
    ///
    /// When it throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Sends a command of the DevTools protocol.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Shows pages as in a window of this size and colour scheme.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await?;
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await.map(drop)
    }

    /// Writes a picture, PNG, of the whole page or of what a window has of it, and says how large it
    /// is, in bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub async fn picture(&self, path: &Path, whole: bool) -> Result<usize> {
        let parameters = json!({"format": "png", "captureBeyondViewport": whole});
        let shot = self.devtools("Page.captureScreenshot", parameters).await?;
        let data = shot.get("data").and_then(Value::as_str).context("no picture")?;
        let png = STANDARD.decode(data)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, &png)?;
        Ok(png.len())
    }

    /// The windows and tabs.
    ///
    /// # Errors
    ///
    /// When the browser does not answer.
    pub async fn windows(&self) -> Result<Vec<String>> {
        let handles = self.get("/window/handles").await?;
        let handles = handles.as_array().into_iter().flatten();
        Ok(handles.filter_map(|handle| handle.as_str().map(str::to_owned)).collect())
    }

    /// Waits for a tab besides these.
    ///
    /// # Errors
    ///
    /// When none opens.
    pub async fn other_window(&self, known: &[String]) -> Result<String> {
        let other = eventually(PATIENCE, async || {
            let windows = self.windows().await.ok()?;
            windows.into_iter().find(|window| !known.contains(window))
        });
        other.await.context("no tab was opened")
    }

    /// Turns to another window or tab.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn turn_to(&self, window: &str) -> Result<()> {
        self.post("/window", json!({"handle": window})).await.map(drop)
    }

    /// Closes the present tab and turns to another.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn close(&self, next: &str) -> Result<()> {
        value(self.client.delete(format!("{}/window", self.session))).await?;
        self.turn_to(next).await
    }

    /// What the browser logged since it was last asked: `browser` for the console and what was
    /// refused, `performance` for events of the network.
    ///
    /// # Errors
    ///
    /// When it does not tell.
    pub async fn log(&self, kind: &str) -> Result<Vec<String>> {
        let entries = self.post("/se/log", json!({"type": kind})).await?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let text = |entry: &Value| entry.get("message").and_then(Value::as_str).map(str::to_owned);
        Ok(entries.iter().filter_map(text).collect())
    }

    /// The addresses that pages have asked for since this or the performance log was last asked.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn requested(&self) -> Result<Vec<String>> {
        let sent = |text: &String| {
            let event: Value = serde_json::from_str(text).ok()?;
            let message = event.get("message")?;
            (message.get("method")? == "Network.requestWillBeSent").then_some(())?;
            Some(message.pointer("/params/request/url")?.as_str()?.to_owned())
        };
        Ok(self.log("performance").await?.iter().filter_map(sent).collect())
    }

    /// Ends browser and driver.
    ///
    /// # Errors
    ///
    /// When they do not end.
    pub async fn quit(self) -> Result<()> {
        let quit = value(self.client.delete(&self.session)).await;
        self.driver.stop().await?;
        quit.map(drop)
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
