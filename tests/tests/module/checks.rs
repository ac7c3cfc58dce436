//! What holds in every history. The lists are the documented promises, not the filter's own tables.

use anyhow::{Context as _, Result, ensure};

use super::history::Place;
use super::host::{Headers, Host};
use super::traffic::Flow;

/// In every key and token of these tests.
const SECRET: &[u8] = b"s3cret";

/// Request headers that no gate lets through.
const STRIPPED: &[&str] = &[
    "accept-encoding",
    "api-key",
    "cookie",
    "forwarded",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "via",
    "x-api-key",
    "x-forwarded-for",
    "x-proxy-api-key",
    "x-real-ip",
];

const STRIPPED_PREFIXES: &[&str] = &["x-envoy-", "x-torchbearer-", "cf-"];

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a [u8]> {
    let named = headers.iter().filter(|(known, _)| known == name);
    named.map(|(_, value)| value.as_slice()).collect()
}

/// A request that a gate lets through carries nothing of what must not leave.
pub fn gate(flow: &Flow, headers: &Headers) -> Result<()> {
    let websocket = is_websocket(&flow.sent);
    let nominated: Vec<Vec<u8>> = values(&flow.sent, "connection")
        .into_iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect();
    for (name, value) in headers {
        let plain = name.replace('_', "-");
        let stripped = STRIPPED.contains(&plain.as_str())
            || STRIPPED_PREFIXES.iter().any(|prefix| plain.starts_with(prefix));
        ensure!(!stripped, "{name} is let through");
        let handshake = ["connection", "upgrade"].contains(&name.as_str());
        ensure!(!handshake || websocket, "{name} is let through without a handshake");
        ensure!(name != "connection" || value == b"upgrade", "connection is let through as it was");
        if name == "authorization" {
            ensure!(flow.place == Place::Both, "authorization is let through");
            continue;
        }
        let key = contains(value, b"openai-insecure-api-key.");
        ensure!(!key || name != "sec-websocket-protocol", "a key is let through in {name}");
        let hop_by_hop = nominated.contains(&name.clone().into_bytes());
        let routed = name.starts_with(':') || name == "x-forwarded-proto" || handshake;
        ensure!(!hop_by_hop || routed, "{name} is let through, which connection names");
    }
    Ok(())
}

fn is_websocket(headers: &Headers) -> bool {
    let upgrade = values(headers, "connection").into_iter().any(|value| {
        value.split(|byte| *byte == b',').any(|o| o.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let last = |name| values(headers, name).last().copied();
    upgrade
        && last("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        && last(":method") == Some(b"GET")
}

/// A request that a bearer lets through carries exactly one `authorization`, the current bearer.
pub fn bearer(headers: &Headers, (token, expires_at): &(String, u64), now: u64) -> Result<()> {
    let found = values(headers, "authorization");
    ensure!(found.len() == 1, "{} authorization headers are let through", found.len());
    ensure!(found == [format!("Bearer {token}").as_bytes()], "not the current bearer");
    ensure!(now < *expires_at, "let through with a token that has expired");
    Ok(())
}

/// An answer that a gate lets through carries nothing that is not for the client.
pub fn response(headers: &Headers, handshake: bool) -> Result<()> {
    for (name, _) in headers {
        let allowed = handshake && ["connection", "upgrade"].contains(&name.as_str());
        let stripped = ["connection", "keep-alive", "set-cookie", "te", "upgrade"];
        ensure!(allowed || !stripped.contains(&name.as_str()), "{name} reaches the client");
        let own = name.starts_with("x-torchbearer-") || name.starts_with("x-envoy-");
        ensure!(!own, "{name} reaches the client");
    }
    Ok(())
}

/// A local reply is an error of the API's shape, and tells no secret.
pub fn reply(code: u32, headers: &Headers, body: &[u8]) -> Result<()> {
    ensure!((400..=599).contains(&code), "a local reply of {code}");
    let error: serde_json::Value = serde_json::from_slice(body).context("a local reply's body")?;
    ensure!(error["error"]["code"].is_string(), "a local reply without a code");
    ensure!(!contains(body, SECRET), "a local reply's body tells a secret");
    let told = headers.iter().any(|(_, value)| contains(value, SECRET));
    ensure!(!told, "a local reply's headers tell a secret");
    Ok(())
}

/// No secret is in a log line, a call, a metric or the filter state.
pub fn no_secret(host: &mut Host) -> Result<()> {
    for line in host.log.drain(..) {
        ensure!(!contains(line.as_bytes(), SECRET), "a log line tells a secret");
        ensure!(!line.contains("panic"), "{line}");
    }
    for call in host.calls.values() {
        let told = call.headers.iter().any(|(_, value)| contains(value, SECRET));
        ensure!(!told && !contains(&call.body, SECRET), "a call tells a secret");
        ensure!(call.cluster == "refresher", "a call to {}", call.cluster);
    }
    let metric = host.metrics.iter().find(|(_, name)| contains(name.as_bytes(), SECRET));
    ensure!(metric.is_none(), "a metric tells a secret: {metric:?}");
    let state = host.filter_state.iter().find(|(_, value)| contains(value, SECRET));
    ensure!(state.is_none(), "the filter state tells a secret: {state:?}");
    Ok(())
}
