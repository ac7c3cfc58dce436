//! Pages of other origins, in the same browser, that try to read the status page and to write.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Stack, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Caller, SOON, open, plan};

/// Serves this page to everybody, on a port of its own: of another origin, but the same site.
async fn foreign(html: String) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let html = html.clone();
            tokio::spawn(async move {
                let mut head = [0; 8192];
                let _ = stream.read(&mut head).await;
                let length = html.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n{html}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(url)
}

/// What the page of another origin tries, with a session that it should not have.
const ATTEMPTS: &str = r##"<!doctype html><title>Foreign</title>
<iframe id="frame" src="BASE/"></iframe>
<form id="form" method="post" action="BASE/api/keys/add" enctype="text/plain">
<input name='{"name":"mallory","credential":"default","x":"' value='"}'></form>
<script>
const key = JSON.stringify({ name: "mallory", credential: "default" });
const session = { "x-torchbearer-session": "SESSION" };
const json = { "content-type": "application/json" };
async function attempt(path, options) {
  try {
    const answer = await fetch("BASE" + path, options);
    return answer.type === "opaque" ? "opaque" : "read " + answer.status;
  } catch (error) {
    return "refused";
  }
}
async function load(tag, attributes) {
  const element = Object.assign(document.createElement(tag), attributes);
  return new Promise((done) => {
    element.onload = () => done("loaded");
    element.onerror = () => done("refused");
    document.body.append(element);
  });
}
(async () => {
  const results = {
    read: await attempt("/api/state"),
    read_with_session: await attempt("/api/state", { headers: session }),
    read_opaque: await attempt("/api/state", { mode: "no-cors" }),
    page: await attempt("/"),
    write: await attempt("/api/keys/add", { method: "POST", body: key, headers: { ...json, ...session } }),
    write_simple: await attempt("/api/keys/add", { method: "POST", body: key, mode: "no-cors" }),
    write_login: await attempt("/api/logins", { method: "POST", mode: "no-cors",
      body: JSON.stringify({ credential: "default", kind: "device" }) }),
    script: await load("script", { src: "BASE/api/state" }),
    image: await load("img", { src: "BASE/api/state" }),
  };
  document.title = JSON.stringify(results);
})();
</script>"##;

async fn keys_and_logins(stack: &Stack) -> Result<(Caller<'_>, Value)> {
    let caller = Caller::new(stack).await?;
    let state = caller.state().await?;
    Ok((caller, json!([state["client_keys"]["rows"], state["logins"]])))
}

#[tokio::test]
async fn a_page_of_another_origin_can_neither_read_nor_write() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let (browser, base) = open(&stack).await?;
    browser.shows("#summary", "All is well").await?;
    // The page itself can: what follows is refused for its origin alone.
    let session = browser.run("return localStorage.getItem('torchbearer-session')").await?;
    let session = session.as_str().context("no session")?.to_owned();
    let own = "return fetch('/api/state', {headers: {'x-torchbearer-session': \
               localStorage.getItem('torchbearer-session')}}).then((answer) => answer.status)";
    ensure!(browser.run(own).await? == 200);
    let _ = browser.log("browser").await?;

    let html = ATTEMPTS.replace("BASE", &base).replace("SESSION", &session);
    let url = foreign(html).await?;
    browser.open(&url).await?;
    let results = eventually(SOON, async || {
        let title = browser.run("return document.title").await.ok()?;
        serde_json::from_str::<Value>(title.as_str()?).ok()
    });
    let results = results.await.context("the foreign page does not come to an end")?;
    // What the browser calls opaque it has let out, and nothing of the answer in.
    let expected = json!({
        "read": "refused", "read_with_session": "refused", "page": "refused", "write": "refused",
        "script": "refused", "image": "refused", "read_opaque": "refused",
        "write_simple": "refused", "write_login": "refused",
    });
    ensure!(results == expected, "{results:#}");
    // Its storage is not that of another port.
    let stored = browser.run("return localStorage.getItem('torchbearer-session')").await?;
    ensure!(stored.is_null(), "the session is in the storage of another origin");
    let console = browser.log("browser").await?;
    let framed = |line: &String| line.contains(&base) && line.contains("frame");
    ensure!(console.iter().any(framed), "the frame was not refused: {console:#?}");
    let (caller, state) = keys_and_logins(&stack).await?;
    ensure!(state == json!([[], []]), "{state}");

    // A form is not bound to ask first, and what it sends is refused here.
    browser.run("document.querySelector('#form').submit()").await?;
    browser.shows("body", "cross_site_request").await?;
    ensure!(keys_and_logins(&stack).await?.1 == json!([[], []]));
    // Of another site altogether, and by another name.
    let other = url.replace("127.0.0.1", "localhost");
    browser.open(&other).await?;
    let title = "return document.title.startsWith('{') && JSON.parse(document.title).read";
    let refused =
        eventually(SOON, async || (browser.run(title).await.ok()? == "refused").then_some(()));
    refused.await.context("another site can read")?;
    browser.run("document.querySelector('#form').submit()").await?;
    browser.shows("body", "cross_site_request").await?;
    ensure!(caller.state().await?["client_keys"]["rows"] == json!([]));
    browser.quit().await
}
