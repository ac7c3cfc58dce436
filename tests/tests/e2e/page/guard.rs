//! What the page's port answers to those who are not the page.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tests::{Canaries, Stack, eventually, raw_bytes, raw_request};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Caller, SOON, invitation, plan};

#[tokio::test]
async fn nothing_is_told_or_changed_without_a_session_and_the_pages_own_origin() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let caller = Caller::new(&stack).await?;
    let (base, session) = (caller.base.clone(), caller.session.clone());
    let key = json!({"name": "mallory", "credential": "default"});
    let (own, json) = (("origin", base.as_str()), ("content-type", "application/json"));
    let with = ("x-torchbearer-session", session.as_str());
    let send = async |method: &str, path: &str, fields: &[(&str, &str)], body: String| {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let mut request = stack.client.request(method, format!("{base}{path}")).body(body);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Ok::<_, anyhow::Error>(request.send().await?)
    };
    let add = key.to_string();
    let cases = [
        // Of another host, as after DNS rebinding.
        (421, vec![("host", "evil.example"), own, json, with]),
        (421, vec![("host", "127.0.0.1:1"), own, json, with]),
        // Without a session, or with one that is none.
        (401, vec![own, json]),
        (401, vec![own, json, ("x-torchbearer-session", "")]),
        (401, vec![own, json, ("x-torchbearer-session", "AAAA")]),
        (401, vec![own, json, ("cookie", &session)]),
        // With a session that has leaked to a page of another origin.
        (403, vec![("origin", "http://127.0.0.1:1"), json, with]),
        (403, vec![("origin", "null"), json, with]),
        (403, vec![json, with]),
        (403, vec![own, json, with, ("sec-fetch-site", "cross-site")]),
        (403, vec![own, json, with, ("sec-fetch-site", "same-site")]),
        (415, vec![own, with, ("content-type", "text/plain")]),
        (415, vec![own, with]),
    ];
    for (status, fields) in cases {
        let answer = send("POST", "/api/keys/add", &fields, add.clone()).await?;
        ensure!(answer.status() == status, "{fields:?}: {}", answer.status());
        let headers = answer.headers();
        ensure!(!headers.keys().any(|name| name.as_str().starts_with("access-control")));
        ensure!(
            answer.headers()["content-security-policy"].to_str()?.contains("default-src 'none'")
        );
        let body: Value = answer.json().await?;
        ensure!(body["error"]["code"].is_string(), "{body}");
    }
    for (status, method, path, fields) in [
        (401, "GET", "/api/state", vec![]),
        (403, "GET", "/api/state", vec![with, ("sec-fetch-site", "cross-site")]),
        (403, "GET", "/api/state", vec![with, ("sec-fetch-site", "same-site")]),
        (403, "GET", "/api/state", vec![with, ("origin", "http://127.0.0.1:1")]),
        (403, "GET", "/", vec![("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "iframe")]),
        (405, "OPTIONS", "/api/keys/add", vec![own]),
        (405, "GET", "/api/keys/add", vec![with]),
        (405, "PUT", "/api/keys/add", vec![own, json, with]),
        (404, "GET", "/other", vec![]),
    ] {
        let answer = send(method, path, &fields, String::new()).await?;
        ensure!(answer.status() == status, "{method} {path} {fields:?}: {}", answer.status());
        ensure!(answer.headers()["cache-control"] == "no-store", "{method} {path}");
    }
    ensure!(caller.state().await?["client_keys"]["rows"] == json!([]), "a key was made");
    // The same with everything that belongs to it does work.
    let answer = send("POST", "/api/keys/add", &[own, json, with], add).await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    // The new key is in this answer and in no other, nor is any secret.
    let made: Value = answer.json().await?;
    let key = made["key"].as_str().context("no key")?.to_owned();
    let secrets = [stack.provider().secrets(), vec![key, session.clone()]].concat();
    let state = caller.state().await?;
    ensure!(state["client_keys"]["rows"][0]["name"] == "mallory", "{state}");
    Canaries::new(&secrets, &[])?.clear("the state", state.to_string().as_bytes())
}

#[tokio::test]
async fn the_page_is_the_same_for_everybody_and_its_policy_strict() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let invitation = invitation(&stack).await?;
    let (base, ticket) = invitation.split_once('#').context("no ticket")?;
    let page = stack.client.get(base).send().await?;
    let headers = page.headers().clone();
    let policy = headers["content-security-policy"].to_str()?.to_owned();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        ensure!(
            policy.split("; ").any(|directive| directive.starts_with(part)),
            "{part}: {policy}"
        );
    }
    ensure!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-frame-options", "DENY"),
    ] {
        ensure!(headers.get(name).is_some_and(|found| found == value), "{name}");
    }
    ensure!(!headers.contains_key("set-cookie"));
    let html = page.text().await?;
    ensure!(!html.contains(ticket) && !html.contains("simulated"), "the page tells something");
    Ok(())
}

#[tokio::test]
async fn large_slow_and_many_requests_are_bounded() -> Result<()> {
    let mut stack = Stack::prepare(plan()).await?;
    stack.start_refresher().await?;
    let caller = Caller::new(&stack).await?;
    let address: SocketAddr = caller.base.trim_start_matches("http://").parse()?;
    let large = json!({"credential": "x".repeat(20 << 10), "kind": "device"});
    let answer = caller.post("/api/logins", &large).send().await?;
    ensure!(answer.status() == StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.status());
    let head = format!("GET / HTTP/1.1\r\nhost: {address}\r\nx: {}\r\n\r\n", "x".repeat(40 << 10));
    let answer = raw_request(address, head.as_bytes()).await;
    ensure!(answer.map_or(431, |answer| answer.status) == 431);
    let many = "x-y: z\r\n".repeat(200);
    let head = format!("GET / HTTP/1.1\r\nhost: {address}\r\n{many}\r\n");
    let answer = raw_request(address, head.as_bytes()).await;
    ensure!(answer.map_or(431, |answer| answer.status) == 431);
    ensure!(
        !String::from_utf8_lossy(&raw_bytes(address, b"\x16\x03\x01\r\n\r\n").await?)
            .contains("200 OK")
    );

    // Connections that say nothing take all places; they are closed by and by.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await?);
    }
    let head = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let page = async || raw_request(address, head.as_bytes()).await.map(|answer| answer.status);
    let waits = tokio::time::timeout(Duration::from_millis(500), page()).await;
    ensure!(waits.is_err(), "a connection beyond the bound is served");
    let served = eventually(2 * SOON, async || page().await.ok().filter(|&status| status == 200));
    served.await.context("silent connections block the page for ever")?;
    let mut rest = Vec::new();
    let first = silent.first_mut().context("no connection")?;
    tokio::time::timeout(SOON, first.read_to_end(&mut rest)).await.context("still open")??;
    Ok(())
}
