//! Client keys that are made and ended on the page, and names that would like to be markup.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::json;
use tests::{Browser, Stack, eventually};

use super::{SOON, open, plan, quit};

/// Would run if it became markup.
const HOSTILE: &str = "<img src=x onerror=\"window.injected=1\"><script>window.injected=1</script>";

async fn status(stack: &Stack, key: &str) -> Option<StatusCode> {
    let chat = json!({"model": "grok-4", "messages": [{"role": "user", "content": "Hello"}]});
    let request = stack.client.post(stack.url("/v1/chat/completions")).json(&chat);
    Some(request.bearer_auth(key).send().await.ok()?.status())
}

/// Waits until a key is answered with this status, on every one of some requests.
async fn answered(stack: &Stack, key: &str, wanted: u16) -> Result<()> {
    let answered = eventually(SOON, async || {
        for _ in 0..4 {
            let status = status(stack, key).await?;
            if status != wanted {
                return None;
            }
        }
        Some(())
    });
    answered.await.with_context(|| format!("not answered with {wanted} within {SOON:?}"))
}

/// The key that the dialog shows.
async fn revealed(browser: &Browser) -> Result<String> {
    browser.shows("#new-key-text", "tb_").await
}

async fn is_in_page(browser: &Browser, text: &str) -> Result<bool> {
    let script = format!("return document.documentElement.outerHTML.includes('{text}')");
    Ok(browser.run(&script).await? == true)
}

#[tokio::test]
async fn a_key_is_made_shown_once_rotated_and_revoked_on_the_page() -> Result<()> {
    let stack = Stack::start(plan()).await?;
    let (browser, base) = open(&stack).await?;
    browser.shows("#keys", "none is needed").await?;
    browser.click("#new-key").await?;
    browser.shows("#dialog", "From the first key on").await?;
    // What is not accepted is said beside its field, and loses nothing.
    browser.write("#field-name", "two words").await?;
    browser.write("#field-expires", "30d").await?;
    browser.write("#field-models", &format!("grok-4*\n{HOSTILE}")).await?;
    browser.write("#field-requests_per_minute", "600").await?;
    browser.click("#dialog button[type=submit]").await?;
    browser.shows("#wrong-name", "1 to 64 of the characters").await?;
    browser.run("document.querySelector('#field-name').value = ''").await?;
    browser.write("#field-name", "alice").await?;
    browser.click("#dialog button[type=submit]").await?;
    let key = revealed(&browser).await?;
    answered(&stack, &key, 200).await?;
    // The first key closes the listener to everybody else.
    answered(&stack, "anything", 401).await?;
    let shown = browser.run("return document.querySelectorAll('#new-key-text').length").await?;
    ensure!(shown == 1 && is_in_page(&browser, &key).await?);
    browser.click("#dialog .actions button").await?;
    let gone = eventually(SOON, async || (!is_in_page(&browser, &key).await.ok()?).then_some(()));
    gone.await.context("the key stays in the page")?;

    // A hostile model is text, and so it is in a document of Envoy's.
    browser.shows("#keys", HOSTILE).await?;
    browser.reload().await?;
    browser.shows("#keys", HOSTILE).await?;
    ensure!(!is_in_page(&browser, &key).await?, "the key is shown after a reload");
    let markup = "return document.querySelectorAll('img, #shown script').length";
    ensure!(
        browser.run(markup).await? == 0 && browser.run("return window.injected").await?.is_null()
    );

    browser.click("[data-name=alice] [data-key=rotate]").await?;
    browser.run("document.querySelector('#field-overlap').value = '0'").await?;
    browser.click("#dialog button[type=submit]").await?;
    let next = revealed(&browser).await?;
    ensure!(next != key);
    answered(&stack, &next, 200).await?;
    answered(&stack, &key, 401).await?;
    browser.click("#dialog .actions button").await?;

    // Nothing happens before it is confirmed.
    browser.click("[data-key=revoke]").await?;
    browser.shows("#dialog", "Revoke alice?").await?;
    browser.click("#dialog .actions button[type=button]").await?;
    ensure!(status(&stack, &next).await == Some(StatusCode::OK), "revoked without a word");
    browser.click("[data-key=revoke]").await?;
    browser.click("#dialog button[type=submit]").await?;
    browser.shows("#keys", "one is required").await?;
    answered(&stack, &next, 401).await?;
    // The one complaint of the browser's is about the name that was not accepted.
    let console = browser.log("browser").await?;
    let refused = |line: &String| line.contains("/api/keys/add") && line.contains("status of 400");
    ensure!(console.len() == 1 && console.iter().all(refused), "{console:#?}");
    quit(browser, &[&base]).await
}
