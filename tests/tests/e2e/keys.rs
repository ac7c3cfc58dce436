//! Client keys, over both protocols.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use filter::client::ClientKey;
use serde_json::{Value, json};
use tests::{Answer, Message, Outcome, Plan, Process, Protocol, Stack, envoy_binary, unix_request};

use crate::proof::{arrived, arrived_once, nothing_arrived, send};

const ALICE: &str = "torchbearer-key-of-alice-1";
const BOB: &str = "torchbearer-key-of-bob-22";

async fn with_keys() -> Result<Stack> {
    let client_keys = vec![("alice", ALICE), ("bob", BOB)];
    Stack::start(Plan { client_keys, ..Plan::default() }).await
}

/// A GET with these headers.
fn get(headers: &[(&str, &str)]) -> Message {
    headers
        .iter()
        .fold(Message::get("/v1/models"), |message, (name, value)| message.with(name, value))
}

/// Its answer.
async fn answer(stack: &Stack, protocol: Protocol, message: &Message) -> Result<Answer> {
    match send(stack, protocol, message).await? {
        Outcome::Answered(answer) => Ok(answer),
        other => anyhow::bail!("{protocol:?}: {other}"),
    }
}

/// Both protocols with each of the cases.
fn each<T: Copy>(cases: &[T]) -> impl Iterator<Item = (Protocol, T)> {
    Protocol::ALL
        .into_iter()
        .flat_map(move |protocol| cases.iter().map(move |case| (protocol, *case)))
}

#[tokio::test]
async fn k01_every_refusal_is_the_same() -> Result<()> {
    let stack = with_keys().await?;
    let mut bodies: BTreeMap<String, u32> = BTreeMap::new();
    let basic = [("authorization", "Basic dG9yY2hiZWFyZXI6eA==")];
    let as_basic = format!("Basic {ALICE}");
    let as_token = format!("Token {ALICE}");
    let twice = format!("Bearer {ALICE}, Bearer {ALICE}");
    let tab = format!("Bearer\t{ALICE}");
    let cases: &[&[(&str, &str)]] = &[
        &[],
        &[("authorization", "")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Bearer  ")],
        &basic,
        &[("authorization", &as_basic)],
        &[("authorization", &as_token)],
        &[("authorization", &twice)],
        &[("authorization", &tab)],
        &[("authorization", "Bearer unknown")],
        &[("authorization", ALICE)],
        &[("x-proxy-api-key", "")],
        &[("x-proxy-api-key", "unknown")],
        &[("x-api-key", ALICE)],
        &[("api-key", ALICE)],
        &[("cookie", ALICE)],
    ];
    for (protocol, headers) in each(cases) {
        for target in ["/v1/models", "/v1/nothing", "/health", "/ready"] {
            let message = headers
                .iter()
                .fold(Message::get(target), |message, (name, value)| message.with(name, value));
            let answer = answer(&stack, protocol, &message).await?;
            assert_eq!(answer.status, 401, "{protocol:?} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{headers:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{headers:?}");
            *bodies.entry(answer.body).or_default() += 1;
            nothing_arrived(&stack)?;
        }
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let (body, _) = bodies.first_key_value().context("a refusal")?;
    let error: Value = serde_json::from_str(body)?;
    assert_eq!(error["error"]["code"], "invalid_client_key");
    Ok(())
}

#[tokio::test]
async fn k02_a_near_miss_is_a_miss() -> Result<()> {
    let stack = with_keys().await?;
    let shorter = ALICE.strip_suffix('1').context("the last byte")?;
    let first = ALICE.strip_prefix('t').context("the first byte")?;
    let twin = ALICE.split_at(20).0.to_owned() + "......";
    assert_eq!(twin.len(), ALICE.len());
    for key in [
        shorter.to_owned(),
        first.to_owned(),
        format!("{ALICE}1"),
        ALICE.replace("-1", "-2"),
        twin,
        ALICE.to_ascii_uppercase(),
        format!("{ALICE}{ALICE}"),
        format!("{ALICE}\t{BOB}"),
        format!("\"{ALICE}\""),
    ] {
        for protocol in Protocol::ALL {
            let bearer = format!("Bearer {key}");
            for header in [("authorization", bearer.as_str()), ("x-proxy-api-key", &key)] {
                let answer = answer(&stack, protocol, &get(&[header])).await?;
                assert_eq!(answer.status, 401, "{protocol:?} {header:?}");
                nothing_arrived(&stack)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn k03_the_scheme_in_any_case_and_the_key_in_either_header() -> Result<()> {
    let stack = with_keys().await?;
    let bearers = ["bearer", "BEARER", "bEaReR", "Bearer "].map(|it| format!("{it} {ALICE}"));
    let [lower, upper, mixed, spaced] = &bearers;
    let good = format!("Bearer {ALICE}");
    let cases: &[&[(&str, &str)]] = &[
        &[("authorization", lower)],
        &[("authorization", upper)],
        &[("authorization", mixed)],
        &[("authorization", spaced)],
        &[("x-proxy-api-key", ALICE)],
        &[("authorization", &good), ("x-proxy-api-key", ALICE)],
        &[("authorization", "Bearer unused"), ("x-proxy-api-key", BOB)],
        &[("authorization", &good), ("x-proxy-api-key", "unused")],
    ];
    for (protocol, headers) in each(cases) {
        let answer = answer(&stack, protocol, &get(headers)).await?;
        assert_eq!(answer.status, 200, "{protocol:?} {headers:?}: {}", answer.body);
        assert_eq!(arrived_once(&stack)?.header("x-proxy-api-key").count(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn k04_the_access_token_is_no_client_key() -> Result<()> {
    let stack = with_keys().await?;
    let bundle = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?.json();
    let token = bundle["credentials"]["default"]["access_token"].as_str().context("a token")?;
    let bearer = format!("Bearer {token}");
    for (protocol, header) in
        each(&[("authorization", bearer.as_str()), ("x-proxy-api-key", token)])
    {
        let answer = answer(&stack, protocol, &get(&[header])).await?;
        assert_eq!(answer.status, 401, "{protocol:?}");
        nothing_arrived(&stack)?;
    }
    Ok(())
}

#[tokio::test]
async fn k05_logs_and_metrics_name_the_client_and_never_the_key() -> Result<()> {
    let stack = with_keys().await?;
    for (protocol, key) in each(&[ALICE, BOB]) {
        let answer = answer(&stack, protocol, &get(&[("x-proxy-api-key", key)])).await?;
        assert_eq!(answer.status, 200);
        arrived_once(&stack)?;
    }
    let logged = async || {
        let log = stack.envoy().ok()?.log();
        let clients: Vec<_> = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|entry| Some(entry.get("client")?.as_str()?.to_owned()))
            .collect();
        (clients.len() == 4).then_some((clients, log))
    };
    let limit = std::time::Duration::from_secs(20);
    let (clients, log) = tests::eventually(limit, logged).await.context("four log entries")?;
    assert_eq!(clients, ["alice", "bob", "alice", "bob"]);
    let metrics = stack.admin("/stats/prometheus").await?.body;
    for client in ["alice", "bob"] {
        let label = format!("client=\"{client}\"");
        assert!(metrics.lines().any(|line| line.contains(&label)), "{client} has no metric");
    }
    let dump = stack.admin("/config_dump").await?.body;
    for (place, text) in [("log", log), ("metrics", metrics), ("dump", dump)] {
        assert!(!text.contains(ALICE) && !text.contains(BOB), "a key is in the {place}");
    }
    Ok(())
}

/// The bootstrap with a key of alice that is good for these paths only.
fn limited_to(bootstrap: &str, paths: &[&str]) -> Result<String> {
    const GATE: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config\
                        /http_filters/0/typed_config/config/configuration/value";
    let mut key = ClientKey::of_key("alice".parse()?, ALICE.as_bytes());
    key.paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let mut bootstrap: Value = serde_json::from_str(bootstrap)?;
    let gate = json!({"gate": {"client_keys": [key]}}).to_string();
    *bootstrap.pointer_mut(GATE).context("the gate")? = gate.into();
    Ok(bootstrap.to_string())
}

#[tokio::test]
async fn k08_a_key_for_some_paths_is_for_no_other() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let bootstrap = limited_to(&stack.bootstrap()?, &["/v1/echo/", "/v1/models"])?;
    stack.start_envoy_with(&bootstrap).await?;
    for (protocol, (path, status)) in each(&[
        ("/v1/models", 200),
        ("/v1/models/grok-4", 200),
        ("/v1/echo/", 200),
        ("/v1/echo/x?path=/other", 200),
        ("/v1/echo", 403),
        ("/v1/echo?/v1/models", 403),
        ("/v1/chat/completions", 403),
        ("/V1/models", 403),
        ("/v1/%6dodels", 403),
        ("/health", 403),
        ("/ready", 403),
        ("/", 403),
        // What would lead out of what is allowed, for a server that resolves it.
        ("/v1/echo/../status/200", 400),
        ("/v1/echo/..;/status/200", 400),
        ("/v1/echo/%2e%2e/status/200", 400),
        ("/v1/echo/%252e%252e/status/200", 400),
        ("/v1/echo/..%2fstatus/200", 400),
        ("/v1/echo//status/200", 400),
    ]) {
        let message = Message::get(path).with("x-proxy-api-key", ALICE);
        let answer = answer(&stack, protocol, &message).await?;
        assert_eq!(answer.status, status, "{protocol:?} {path}: {}", answer.body);
        if status == 200 {
            assert_eq!(arrived_once(&stack)?.path, path);
        } else {
            nothing_arrived(&stack)?;
        }
        if status == 403 {
            let error = answer.json();
            assert_eq!(error["error"]["code"], "path_not_allowed", "{error}");
            assert_eq!(error["error"]["type"], "permission_error", "{error}");
            assert!(error["error"]["message"].is_string(), "{error}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn k09_off_loopback_without_keys_nobody_is_served() -> Result<()> {
    // The filter, loaded by hand.
    let plan = Plan { host: "0.0.0.0".parse()?, ..Plan::default() };
    let mut stack = Stack::start(plan).await?;
    // It is the connection's own address that counts: through loopback, this one is loopback.
    let port = stack.address.port();
    stack.address = format!("{}:{port}", own_address()?).parse()?;
    for (protocol, host) in each(&["localhost", "127.0.0.1", "[::1]", "elsewhere.example"]) {
        for path in ["/v1/models", "/health", "/ready"] {
            let answer = answer(&stack, protocol, &Message::get(path).to(host)).await?;
            assert_eq!(answer.status, 503, "{protocol:?} {host}: {}", answer.body);
            assert_eq!(answer.json()["error"]["code"], "client_keys_required");
        }
    }
    assert!(arrived(&stack)?.is_empty());

    // The refresher's own Envoy.
    let mut command = stack.refresher_command(&["up"])?;
    command.env("PROXY_HOST", "0.0.0.0").env("ENVOY_BIN", envoy_binary()?);
    let mut up = Process::start("up", stack.dir(), &mut command)?;
    let status = up.wait(std::time::Duration::from_secs(20)).await?;
    assert!(!status.success());
    assert!(up.log().contains("client_keys"), "{}", up.log());
    Ok(())
}

/// An address of this machine that is not loopback: the one that it would use to go elsewhere.
/// Nothing is sent.
fn own_address() -> Result<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9").context("this machine needs an address besides loopback")?;
    Ok(socket.local_addr()?.ip())
}
