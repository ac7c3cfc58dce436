//! Errors that help: each has a stable code, a sentence, and an id by which its line of the access log
//! is found. Here those of Envoy itself, over both protocols, as far as they have an answer.

mod own;
mod rare;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use simulator::{Fault, Target};
use tests::{Answer, Message, Plan, Protocol, Stack, eventually, raw_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// How long Envoy may take to end.
const LIMIT: Duration = Duration::from_secs(30);

/// A body that is larger than the least that Envoy can be told to hold.
const LARGE: usize = 200_000;

/// What a client was told, and what the operator has to find.
pub(crate) struct Told {
    what: String,
    id: String,
    status: u16,
    /// What the line says besides.
    says: &'static str,
}

/// Checks that an error is of this code and has all that a client needs.
pub(crate) fn told(
    what: &str,
    answer: &Answer,
    (status, code, says): (u16, &str, &'static str),
) -> Result<Told> {
    let error = &answer.json()["error"];
    ensure!(
        answer.status == status && error["code"] == code,
        "{what}: {}, {}",
        answer.status,
        answer.body
    );
    ensure!(answer.header("content-type") == Some("application/json"), "{what}: {answer:?}");
    let id = answer.header("x-request-id").with_context(|| format!("{what}: no id"))?;
    ensure!(id.len() >= 32, "{what}: {id}");
    let sentence = error["message"].as_str().unwrap_or_default();
    ensure!(sentence.len() > 20 && sentence.ends_with('.'), "{what}: {sentence}");
    let kind = error["type"].as_str().unwrap_or_default();
    let right = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        ..500 => "invalid_request_error",
        _ => "server_error",
    };
    ensure!(kind == right, "{what}: {kind}");
    let row = format!("| {status} | `{code}` |");
    let readme = include_str!("../../../README.md");
    ensure!(readme.contains(&row), "{what}: the README's table lacks {row}");
    Ok(Told { what: what.to_owned(), id: id.to_owned(), status, says })
}

/// Ends Envoy, which writes its log to the end, and looks for the line of each error.
pub(crate) async fn logged(stack: &mut Stack, told: &[Told]) -> Result<()> {
    ensure!(!told.is_empty());
    let mut envoy = stack.take_envoy()?;
    envoy.signal(Signal::TERM)?;
    envoy.wait(LIMIT).await?;
    let log = envoy.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> = lines.filter(|line| line["request_id"].is_string()).collect();
    for Told { what, id, status, says } in told {
        let found: Vec<_> = lines.iter().filter(|line| line["request_id"] == **id).collect();
        ensure!(found.len() == 1, "{what}: {} lines of {id}", found.len());
        let line = found.first().context("a line")?;
        ensure!(line["status"] == *status && line.to_string().contains(says), "{what}: {line}");
    }
    Ok(())
}

/// An API that answers each request with these bytes, before it has read its body, and hangs up;
/// or that hangs up at once.
async fn api(answer: &'static [u8]) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = connection.read(&mut head).await;
                let _ = connection.write_all(answer).await;
                // What is still unread would turn the end into a reset.
                while !answer.is_empty() {
                    if connection.read(&mut head).await.map_or(true, |read| read == 0) {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// A stack whose bounds in time are short, with further paths that lead to other APIs.
async fn stack() -> Result<Stack> {
    let mut plan = Plan::default();
    plan.proxy.buffer_bytes = 65_536;
    plan.proxy.max_replay_body_bytes = 65_536;
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let nobody = tests::free_port()?;
    let others = [
        ("closed", SocketAddr::from(([127, 0, 0, 1], nobody)), json!({})),
        ("hangs_up", api(b"").await?, json!({})),
        ("nonsense", api(b"nonsense\r\n\r\n").await?, json!({})),
        (
            "full",
            api(b"").await?,
            json!({"thresholds": [{"max_requests": 0, "max_pending_requests": 0}]}),
        ),
    ];
    let resources = &mut bootstrap["static_resources"];
    for (name, address, limits) in others {
        let mut cluster = resources["clusters"][0].clone();
        cluster["name"] = name.into();
        let socket = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        let socket = cluster.pointer_mut(socket).context("an address")?;
        socket["port_value"] = address.port().into();
        if limits != json!({}) {
            cluster["circuit_breakers"] = limits;
        }
        resources["clusters"].as_array_mut().context("clusters")?.push(cluster);
    }
    let manager = "/listeners/0/filter_chains/0/filters/0/typed_config";
    let manager = resources.pointer_mut(manager).context("the manager")?;
    manager["request_headers_timeout"] = "0.5s".into();
    manager["stream_idle_timeout"] = "2s".into();
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut();
    let routes = routes.context("routes")?;
    for route in routes.iter_mut().filter(|route| route["route"]["cluster"] == "refresher") {
        route["route"]["timeout"] = "0.5s".into();
    }
    let reading = routes.iter().find(|route| route["name"] == "reading").context("a route")?;
    let mut further = Vec::new();
    for name in ["closed", "hangs_up", "nonsense", "full"] {
        let mut route = reading.clone();
        route["match"] = json!({"path": format!("/v1/{name}")});
        route["route"]["cluster"] = name.into();
        let action = route["route"].as_object_mut().context("a route")?;
        action.remove("retry_policy");
        further.push(route);
    }
    routes.splice(0..0, further);
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    Ok(stack)
}

#[tokio::test]
async fn what_envoy_answers_itself_has_a_code_a_sentence_and_an_id_in_the_log() -> Result<()> {
    let mut stack = stack().await?;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        for (message, expected) in [
            (Message::get("/v1/a%2fb"), (400, "ambiguous_path", "path_normalization_failed")),
            (Message::new("OPTIONS", "*"), (404, "no_route", "absolute_path_rejected")),
            (Message::get("/v1/closed"), (503, "upstream_connect_failure", "UF")),
            (Message::post("/v1/closed", "{}"), (503, "upstream_connect_failure", "UF")),
            (Message::get("/v1/hangs_up"), (503, "upstream_reset", "UC")),
            (Message::post("/v1/hangs_up", "{}"), (503, "upstream_reset", "UC")),
            (Message::get("/v1/nonsense"), (502, "upstream_protocol_error", "UPE")),
            (Message::get("/v1/full"), (503, "overloaded", "UO")),
        ] {
            let what = format!("{protocol:?} {message:?}").chars().take(90).collect::<String>();
            let outcome = message.send(protocol, stack.address).await?;
            let answer = outcome.answer().with_context(|| format!("{what}: {outcome}"))?;
            all.push(told(&what, answer, expected)?);
        }
    }
    // Whatever is malformed over HTTP/2 ends its stream, without an answer.
    let upgrade = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let many: String = (0..101).map(|number| format!("x-{number}: x\r\n")).collect();
    for (bytes, expected) in [
        ("GE T / HTTP/1.1\r\n\r\n".to_owned(), (400, "bad_request", "http1.codec_error")),
        ("GET /v1 HTTP/1.1\r\n\r\n".to_owned(), (400, "bad_request", "missing_host_header")),
        (
            "GET /v1 HTTP/1.1\r\nhost: localhost\r\na_b: c\r\n\r\n".to_owned(),
            (400, "bad_request", "underscore"),
        ),
        (upgrade.to_owned(), (403, "upgrade_not_allowed", "upgrade_failed")),
        (
            "GET /v1 HTTP/1.1\r\nhost: localhost\r\n".to_owned(),
            (408, "request_timeout", "request_header_timeout"),
        ),
        ("GET /v1 HTTP/1.0\r\n\r\n".to_owned(), (426, "http_version_not_supported", "low_version")),
        (
            format!("GET /v1 HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
            (431, "headers_too_large", "too_many_headers"),
        ),
    ] {
        let answer = raw_request(stack.address, bytes.as_bytes()).await?;
        all.push(told(&format!("{bytes:.60?}"), &answer, expected)?);
    }
    // The API and the refresher say nothing.
    stack.provider().set_fault(Fault { silence: true, ..Fault::new(Target::Api) });
    stack.refresher()?.signal(Signal::STOP)?;
    for protocol in Protocol::ALL {
        let silent = Message::post("/v1/chat/completions", "{}");
        let (silent, health) = (silent, Message::get("/health"));
        for (message, expected) in [
            (silent, (504, "stream_idle_timeout", "SI")),
            (health, (504, "upstream_timeout", "UT")),
        ] {
            let outcome = message.send(protocol, stack.address).await?;
            let answer = outcome.answer().with_context(|| outcome.to_string())?;
            all.push(told(&format!("{protocol:?} {expected:?}"), answer, expected)?);
        }
    }
    stack.refresher()?.signal(Signal::CONT)?;
    logged(&mut stack, &all).await
}

#[tokio::test]
async fn a_body_that_envoy_cannot_hold_until_a_token_is_there_has_the_same_code_and_an_id()
-> Result<()> {
    let mut plan = Plan { login: false, ..Plan::default() };
    // The larger of the two is what counts.
    plan.proxy.buffer_bytes = 65_536;
    plan.proxy.max_replay_body_bytes = 262_144;
    let mut stack = Stack::prepare(plan).await?;
    stack.start_envoy().await?;
    // The gate does not know yet whether this key will be published.
    let message = |size: usize| {
        let message = Message::post("/v1/chat/completions", "x".repeat(size));
        message.with("x-proxy-api-key", "key-of-alice-0123456789")
    };
    let mut all = Vec::new();
    let waited = (503, "refresher_unavailable", "refresher_unavailable");
    for (protocol, size, expected) in [
        (Protocol::Http1, 270_000, (413, "body_too_large", "request_payload_too_large")),
        (Protocol::Http1, LARGE, waited),
        (Protocol::Http2, 60_000, waited),
    ] {
        let outcome = message(size).send(protocol, stack.address).await?;
        let answer = outcome.answer().with_context(|| outcome.to_string())?;
        all.push(told(&format!("{protocol:?}, {size} bytes without a token"), answer, expected)?);
    }
    logged(&mut stack, &all).await
}

#[tokio::test]
async fn the_id_of_the_apis_own_answer_passes_and_is_logged() -> Result<()> {
    let mut stack = Stack::start(Plan::default()).await?;
    let headers = [("x-request-id".to_owned(), "id-of-the-api".to_owned())].into();
    stack.provider().set_fault(Fault { headers, ..Fault::new(Target::Api) });
    let request = stack.client.get(stack.url("/v1/models")).header("x-request-id", "of-the-client");
    let answer = request.send().await?;
    ensure!(answer.status() == 200);
    ensure!(answer.headers().get("x-request-id").is_some_and(|id| id == "id-of-the-api"));
    let passed = Told {
        what: String::new(),
        id: "id-of-the-api".to_owned(),
        status: 200,
        says: "via_upstream",
    };
    logged(&mut stack, &[passed]).await
}
