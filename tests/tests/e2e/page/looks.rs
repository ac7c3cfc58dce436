//! How pages look, light and dark, narrow and wide; pictures are in `target/screenshots`. What is
//! shown is a document that the test makes, so that there is something of everything.

use anyhow::{Context as _, Result, ensure};
use refresher::page::qr;
use serde_json::{Value, json};
use simulator::Options;
use tests::{Browser, Plan, Stack, eventually, screenshots, unix_now};

use super::{Caller, SOON, open, plan, quit};

/// Widths of a telephone and of a desktop's window.
const WIDTHS: [(&str, u32); 2] = [("narrow", 360), ("wide", 1100)];

const HOSTILE: &str = "<img src=x onerror=window.injected=1>\"'><script>window.injected=1</script>";

/// Everything in order, with something in each list.
fn well() -> Value {
    let at = unix_now();
    let generation = at * 1000 - 1_260_000;
    let refresh = json!({
        "last_refresh_at": at - 1260, "last_refresh_status": "success",
        "last_refresh_error_class": null, "refresh_token_rotated": true,
        "refresh_success_count": 31, "refresh_failure_count": 0,
    });
    let credential = |life: u64, rest: u64| {
        json!({
            "state": "ready", "generation": generation, "issued_at": at + rest - life,
            "expires_at": at + rest, "next_refresh_at": at + rest - life / 2,
            "token_endpoint": "https://auth.x.ai/oauth2/token", "oauth_reauth_required": false,
            "oauth_refresh": refresh,
        })
    };
    let worker = |id: &str, lag: u64, ago: u64| {
        json!({
            "id": id, "generation": generation, "lag_ms": lag, "seen_at": at - ago,
        })
    };
    let key = |name: &str, rest: Value| {
        let mut row = json!({
            "name": name, "state": "valid", "place": "store", "sha256_prefix": "ba7816bf8f01",
            "made_at": at - 86_400 * 3, "not_before": null, "not_after": null,
            "credential": "default", "paths": [], "models": [], "requests_per_minute": null,
            "concurrency": null,
        });
        for (name, value) in rest.as_object().into_iter().flatten() {
            row[name] = value.clone();
        }
        row
    };
    json!({
        "overview": {
            "version": "0.1.0", "started_at": at - 183_840, "at": at,
            "health": {
                "status": "ok", "provider": "xai", "api_base": "https://api.x.ai",
                "token_expires_at": at + 20_340, "token_seconds_to_expiry": 20_340,
                "token_endpoint": "https://auth.x.ai/oauth2/token", "oauth_refresh": refresh,
                "generation": generation,
                "credentials": {"default": credential(21_600, 20_340), "work": credential(21_600, 13_200)},
            },
            "workers": [worker("4f1c09ab77de", 4, 2), worker("91d2e3c05b1a", 6, 11), worker("e07a5512cc48", 5, 19)],
            "envoy": {
                "version": "1.40.0", "state": "LIVE", "uptime_seconds": 183_800,
                "requests": {
                    "alice": {"2xx": 18_204, "4xx": 12, "5xx": 1},
                    "ci": {"2xx": 2_310, "4xx": 140},
                    "notebook": {"2xx": 96},
                },
                "refusals": {"invalid_client_key": 7, "model_not_allowed": 12, "rate_limit_exceeded": 133},
                "tokens": {
                    "alice": {"grok-4": {"prompt": 4_812_022, "completion": 911_430}},
                    "ci": {"grok-4-fast": {"prompt": 790_112, "completion": 80_221}},
                },
                "active_requests": 3,
            },
        },
        "client_keys": {"required": true, "problem": null, "rows": [
            key("alice", json!({"models": ["grok-4*"], "not_after": at + 86_400 * 27})),
            key("ci", json!({"paths": ["/v1/chat/"], "requests_per_minute": 60, "concurrency": 4, "credential": "work"})),
            key("notebook", json!({"place": "configuration", "made_at": null})),
        ]},
        "logins": [],
    })
}

/// The same, where there is something to do.
fn ill() -> Value {
    let mut state = well();
    let at = unix_now();
    let credentials = &mut state["overview"]["health"]["credentials"];
    credentials["default"]["state"] = json!("login_required");
    credentials["default"]["reason"] = json!("invalid_grant");
    credentials["default"]["expires_at"] = json!(at - 340);
    credentials["default"]["next_refresh_at"] = Value::Null;
    credentials["default"]["oauth_refresh"]["last_refresh_status"] = json!("failure");
    credentials["default"]["oauth_refresh"]["last_refresh_error_class"] = json!("invalid_grant");
    credentials["work"]["oauth_reauth_required"] = json!(true);
    credentials["work"]["expires_at"] = json!(at + 1500);
    credentials["work"]["next_refresh_at"] = Value::Null;
    let complete = "https://accounts.x.ai/device?user_code=QCNL-JGXR";
    state["logins"] = json!([{
        "credential": "default", "kind": "device", "begun_at": at - 20, "expires_at": at + 580,
        "stage": "device", "user_code": "QCNL-JGXR", "note": null,
        "verification_uri": "https://accounts.x.ai/device",
        "verification_uri_complete": complete, "qr": qr::draw(complete),
    }]);
    state
}

/// Whatever can be text says something that would run as markup.
fn hostile() -> Value {
    let mut state = well();
    let health = &mut state["overview"]["health"];
    health["provider"] = json!(HOSTILE);
    health["api_base"] = json!(HOSTILE);
    health["client_keys_alarm"] = json!(HOSTILE);
    health["config_alarm"] = json!(HOSTILE);
    let mut status = health["credentials"]["default"].clone();
    status["alarm"] = json!(HOSTILE);
    status["reason"] = json!(HOSTILE);
    status["oauth_refresh"]["last_refresh_error_class"] = json!(HOSTILE);
    health["credentials"] =
        json!({(HOSTILE): status, "other": {"state": HOSTILE, "oauth_refresh": {}}});
    state["overview"]["version"] = json!(HOSTILE);
    state["overview"]["workers"][0]["id"] = json!(HOSTILE);
    let envoy = &mut state["overview"]["envoy"];
    envoy["version"] = json!(HOSTILE);
    envoy["state"] = json!(HOSTILE);
    envoy["requests"] = json!({(HOSTILE): {(HOSTILE): 1}});
    envoy["refusals"] = json!({(HOSTILE): 1});
    envoy["tokens"] = json!({(HOSTILE): {(HOSTILE): {"prompt": 1}}});
    for field in ["name", "subject_alt_name", "credential", "state"] {
        state["client_keys"]["rows"][0][field] = json!(HOSTILE);
    }
    for field in ["paths", "models"] {
        state["client_keys"]["rows"][0][field] = json!([HOSTILE]);
    }
    state["client_keys"]["problem"] = json!(HOSTILE);
    let login = |name: &str, stage: Value| {
        let mut login = json!({"credential": name, "kind": "browser", "begun_at": 1,
            "expires_at": unix_now() + 60, "note": HOSTILE});
        for (field, value) in stage.as_object().into_iter().flatten() {
            login[field] = value.clone();
        }
        login
    };
    let script = "javascript:window.injected=1";
    state["logins"] = json!([
        login("a", json!({"stage": "browser", "url": script})),
        login(
            "b",
            json!({"stage": "device", "user_code": HOSTILE, "verification_uri": script,
            "verification_uri_complete": script, "qr": {"size": HOSTILE, "path": HOSTILE}})
        ),
        login("c", json!({"stage": "failed", "reason": HOSTILE})),
    ]);
    state
}

/// Has the page show this document from now on.
async fn tell(browser: &Browser, state: &Value) -> Result<()> {
    let text = serde_json::to_string(&state.to_string())?;
    let script = format!("window.fetch = async () => new Response({text}); return update()");
    browser.run(&script).await.map(drop)
}

/// Takes a picture of each look; nothing may be wider than the screen.
async fn pictures(browser: &Browser, name: &str) -> Result<()> {
    // What lies over the page is seen in a window only.
    let whole =
        browser.run("return document.querySelector('dialog[open]') === null").await? == true;
    for (width_name, width) in WIDTHS {
        for scheme in ["light", "dark"] {
            browser.look(width, 900, scheme).await?;
            let path = screenshots().join(format!("{name}-{width_name}-{scheme}.png"));
            browser.picture(&path, whole).await?;
            let wide = browser.run("return document.documentElement.scrollWidth").await?;
            ensure!(wide.as_u64() <= Some(width.into()), "{name}: {wide} instead of {width}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_page_fits_every_screen_and_hostile_text_stays_text() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let browser = Browser::start(stack.dir()).await?;
    let caller = Caller::new(&stack).await?;
    let base = caller.base.clone();
    browser.open(&base).await?;
    browser.shows("#locked", "refresher page").await?;
    pictures(&browser, "locked").await?;
    super::enter(&browser, &stack).await?;
    browser.shows("#summary", "All is well").await?;
    pictures(&browser, "real").await?;

    tell(&browser, &well()).await?;
    browser.shows("#keys", "notebook").await?;
    browser.shows("#traffic", "18\u{202f}204").await?;
    pictures(&browser, "page").await?;
    // The picture in the README is made of this.
    browser.look(860, 808, "light").await?;
    let size = browser.picture(&screenshots().join("readme.png"), false).await?;
    ensure!(size < 120_000, "{size} bytes are too many for a picture in the README");
    let bar = "const bar = document.querySelector('[role=progressbar]'); \
               return [bar.getAttribute('aria-valuetext'), bar.firstElementChild.style.width]";
    let bar = browser.run(bar).await?;
    ensure!(bar[0].as_str().is_some_and(|text| text.starts_with("5 h 3")), "{bar}");
    ensure!(bar[1].as_str().is_some_and(|width| width.starts_with("94")), "{bar}");
    // Everything that can be pressed has a name, and is reached by the keyboard.
    let nameless = "return [...document.querySelectorAll('button, a, input, select, textarea')].filter(\
        (element) => !(element.getAttribute('aria-label') || element.textContent.trim() || \
        element.labels?.length) || element.tabIndex < 0).length";
    browser.click("#new-key").await?;
    browser.shows("#dialog", "Make a client key").await?;
    ensure!(browser.run(nameless).await? == 0, "something has no name");
    pictures(&browser, "new-key").await?;
    browser.run("closeDialog()").await?;

    tell(&browser, &ill()).await?;
    browser.shows("#alarms", "The provider has ended the login.").await?;
    browser.shows("[data-stage=device]", "QCNL-JGXR").await?;
    pictures(&browser, "to-do").await?;

    tell(&browser, &hostile()).await?;
    browser.shows("#keys", HOSTILE).await?;
    browser.shows("#traffic", HOSTILE).await?;
    browser.shows("#envoy", "<img").await?;
    pictures(&browser, "hostile").await?;
    let markup =
        "return document.querySelectorAll('img, main script, a[href^=\"javascript\"]').length";
    ensure!(browser.run(markup).await? == 0, "text became markup");
    ensure!(browser.run("return window.injected").await?.is_null(), "text was run");
    // That the drawing is none is all that the browser has to complain of.
    let console = browser.log("browser").await?;
    let drawing =
        |line: &String| line.contains("attribute viewBox") || line.contains("attribute d");
    ensure!(console.iter().all(drawing), "{console:#?}");
    quit(browser, &[&base]).await
}

#[tokio::test]
async fn the_pages_at_the_end_of_a_login_look_well() -> Result<()> {
    let provider = Options { device_interval: 1, ..Options::default() };
    let mut stack = Stack::prepare(Plan { provider, login: false, ..plan() }).await?;
    stack.start_refresher().await?;
    let (browser, _) = open(&stack).await?;
    let caller = Caller::new(&stack).await?;
    for (decision, heading) in [("deny", "Not logged in"), ("approve", "Logged in")] {
        let body = json!({"credential": "default", "kind": "browser"});
        ensure!(caller.post("/api/logins", &body).send().await?.status() == 200);
        let url = eventually(SOON, async || {
            let state = caller.state().await.ok()?;
            state.pointer("/logins/0/url")?.as_str().map(str::to_owned)
        });
        let url = url.await.context("the login does not begin")?;
        browser
            .open(&format!("{}/callback?code=c&state=s", super::origin(stack.callbacks[0])))
            .await?;
        browser.shows("h1", "Not this login").await?;
        pictures(&browser, "callback-other").await?;
        browser.open(&url).await?;
        browser.click(&format!("#{decision}")).await?;
        browser.shows("h1", heading).await?;
        pictures(&browser, &format!("callback-{decision}")).await?;
    }
    browser.quit().await
}
