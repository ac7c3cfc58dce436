//! The token is put in by Envoy's own filter, from a file that the refresher writes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use serde_json::{Value, json};
use simulator::{DeadToken, Fault, Options, Target};
use tests::{Plan, Stack, eventually, unix_request};

const CHAT: &str = "/v1/chat/completions";

const SOON: Duration = Duration::from_secs(20);

fn chat(prompt: &str) -> Value {
    json!({"model": "grok-4", "messages": [{"role": "user", "content": prompt}]})
}

fn plan() -> Plan {
    Plan { sds: true, ..Plan::default() }
}

fn file(stack: &Stack) -> PathBuf {
    stack.dir().join("sds/default.json")
}

/// The secret in the file, and its generation.
fn secret(stack: &Stack) -> Result<(String, u64)> {
    let document: Value = serde_json::from_slice(&std::fs::read(file(stack))?)?;
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let secret = text("/resources/0/generic_secret/secret/inline_string").context("a secret")?;
    Ok((secret.to_owned(), text("/version_info").context("a generation")?.parse()?))
}

async fn refused(stack: &Stack, status: u16, code: &str) -> Result<()> {
    stack.provider().clear();
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    ensure!(answer.status() == status, "{}", answer.status());
    let answer = answer.json::<Value>().await?;
    ensure!(answer["error"]["code"] == code, "{answer}");
    ensure!(stack.provider().requests().is_empty(), "{code}: the API has seen a request");
    Ok(())
}

/// Waits until requests are refused so.
async fn soon_refused(stack: &Stack, status: u16, code: &str) -> Result<()> {
    let refusal = eventually(SOON, async || refused(stack, status, code).await.ok());
    if refusal.await.is_none() {
        refused(stack, status, code).await?;
    }
    Ok(())
}

/// Changes the plugin configuration of the bearer, and of the gate.
fn reconfigured(stack: &Stack, bearer: &Value, gate: Option<&Value>) -> Result<String> {
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let filters = "/static_resources/clusters/0/typed_extension_protocol_options/\
                   envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters";
    let filters = bootstrap.pointer_mut(filters).and_then(Value::as_array_mut);
    let filters = filters.context("the upstream filters")?;
    if bearer.is_null() {
        filters.retain(|filter| filter["name"] != "torchbearer.bearer");
    } else {
        let place = filters.first_mut().context("the bearer")?;
        place["typed_config"]["config"]["configuration"]["value"] = bearer.to_string().into();
    }
    let filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let filters = bootstrap.pointer_mut(filters).and_then(Value::as_array_mut);
    let filters = filters.context("the filters")?;
    match gate {
        None => filters.retain(|filter| filter["name"] != "torchbearer.gate"),
        Some(gate) => {
            let place = filters.first_mut().context("the gate")?;
            place["typed_config"]["config"]["configuration"]["value"] = gate.to_string().into();
        }
    }
    Ok(bootstrap.to_string())
}

async fn start_with(plan: Plan, bearer: Value, gate: Option<Value>) -> Result<Stack> {
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let bootstrap = reconfigured(&stack, &bearer, gate.as_ref())?;
    stack.start_envoy_with(&bootstrap).await?;
    Ok(stack)
}

#[tokio::test]
async fn the_api_gets_the_token_of_the_file_and_the_filter_does_not() -> Result<()> {
    let stack = Stack::start(plan()).await?;
    let post = stack.client.post(stack.url(CHAT)).bearer_auth("client").header("cookie", "a=1");
    assert_eq!(post.json(&chat("hello")).send().await?.status(), 200);
    let arrived = stack.provider().requests().pop().context("a request")?;
    ensure!(arrived.jti.is_some() && arrived.authorization.len() == 1, "{arrived:?}");
    ensure!(arrived.header("cookie").next().is_none(), "{arrived:?}");
    let (value, generation) = secret(&stack)?;
    let token = value.strip_prefix("Bearer ").context("a bearer")?;
    ensure!(stack.provider().secrets().iter().any(|secret| secret == token));
    // What filters are told.
    let bundle = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?;
    ensure!(!bundle.body.contains(token) && !bundle.body.contains("access_token"));
    let known = &bundle.json()["credentials"]["default"];
    ensure!(known["state"] == "ready" && known["generation"] == generation, "{known}");
    // Envoy says which one it has, and not what it is.
    let dump = stack.admin("/config_dump?resource=dynamic_active_secrets").await?;
    ensure!(dump.body.contains(&generation.to_string()), "{}", dump.body);
    ensure!(dump.body.contains("[redacted]"), "{}", dump.body);
    Ok(())
}

#[tokio::test]
async fn rotation_under_traffic_fails_no_request() -> Result<()> {
    // Half of this life is the time between two rotations.
    let provider = Options { token_life: 4, approve_device: true, ..Options::default() };
    let settings = "[rotation]\nspacing = 1\n".to_owned();
    let stack = Stack::start(Plan { provider, settings, ..plan() }).await?;
    let mut tokens = std::collections::BTreeSet::new();
    let mut requests = 0;
    let done = eventually(Duration::from_secs(30), async || {
        for _ in 0..20 {
            let answer = stack.client.get(stack.url("/v1/echo")).send().await;
            match answer {
                Ok(answer) if answer.status() == 200 => requests += 1,
                other => return Some(Err(format!("{other:?}"))),
            }
        }
        let arrived = stack.provider().requests();
        tokens.extend(arrived.into_iter().filter_map(|request| request.jti));
        stack.provider().clear();
        (tokens.len() >= 3).then_some(Ok(()))
    });
    done.await.context("three tokens")?.map_err(anyhow::Error::msg)?;
    assert!(requests > 50, "{requests}");
    assert_eq!(stack.provider().summary().spent_twice, 0);
    Ok(())
}

#[tokio::test]
async fn a_dead_token_is_replaced_once_and_the_request_replayed_once() -> Result<()> {
    let stack = Stack::start(plan()).await?;
    // Each round is a race between Envoy's reading of the file and the replay. After five within a
    // minute one would be made to wait.
    for round in 0..4 {
        let shapes = [DeadToken::Unauthorized, DeadToken::Forbidden, DeadToken::ForbiddenOld];
        stack.provider().set_dead_token(shapes[round % shapes.len()]);
        stack.provider().kill_access_token();
        stack.provider().clear();
        let refreshes = stack.provider().summary().refreshes;
        let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
        assert_eq!(answer.status(), 200, "round {round}");
        let requests = stack.provider().requests();
        let [refused, replayed] = requests.as_slice() else {
            panic!("round {round}: {} attempts", requests.len());
        };
        assert!(refused.refused && !replayed.refused, "round {round}");
        assert_eq!(replayed.authorization.len(), 1, "round {round}");
        assert_eq!(stack.provider().summary().refreshes, refreshes + 1, "round {round}");
    }
    // Many at once.
    stack.provider().kill_access_token();
    stack.provider().clear();
    let refreshes = stack.provider().summary().refreshes;
    let requests: Vec<_> = (0..100)
        .map(|_| tokio::spawn(stack.client.post(stack.url(CHAT)).json(&chat("x")).send()))
        .collect();
    for request in requests {
        assert_eq!(request.await??.status(), 200);
    }
    assert_eq!(stack.provider().summary().refreshes, refreshes + 1);
    let served = stack.provider().requests().iter().filter(|request| !request.refused).count();
    assert_eq!(served, 100, "each is served once");
    // A refusal that a new token does not change is not tried again and again.
    stack.provider().clear();
    stack.provider().set_fault(Fault { status: Some(401), ..Fault::new(Target::Api) });
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    ensure!([401, 503].contains(&answer.status().as_u16()), "{}", answer.status());
    ensure!(stack.provider().requests().len() <= 2, "{}", stack.provider().requests().len());
    Ok(())
}

#[tokio::test]
async fn without_a_login_nothing_leaves_and_the_secret_is_empty() -> Result<()> {
    let stack = Stack::start(Plan { login: false, ..plan() }).await?;
    soon_refused(&stack, 503, "login_required").await?;
    assert_eq!(secret(&stack)?, (String::new(), 0));
    stack.login().await?;
    let served = async || {
        (stack.client.get(stack.url("/v1/models")).send().await.ok()?.status() == 200).then_some(())
    };
    eventually(SOON, served).await.context("not served after the login")?;
    stack.provider().revoke_all();
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    assert_eq!(answer.status(), 503);
    refused(&stack, 503, "login_required").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_has_expired_does_not_leave() -> Result<()> {
    let provider = Options { token_life: 4, approve_device: true, ..Options::default() };
    // A gate alone, without what would refuse the request before Envoy's own filter does.
    let gate = Some(json!({"gate": {}}));
    let alone = Plan { provider: provider.clone(), ..plan() };
    let alone = start_with(alone, Value::Null, gate).await?;
    let mut whole = Stack::start(Plan { provider, ..plan() }).await?;
    for stack in [&alone, &whole] {
        stack.provider().set_fault(Fault { status: Some(503), ..Fault::new(Target::Token) });
    }
    soon_refused(&alone, 503, "credential_not_injected").await?;
    assert_eq!(secret(&alone)?.0, "");
    soon_refused(&whole, 503, "token_expired").await?;
    // The same where there is nobody to empty the file.
    whole.provider().clear_faults(None);
    let served = async || {
        (whole.client.get(whole.url("/v1/models")).send().await.ok()?.status() == 200).then_some(())
    };
    eventually(SOON, served).await.context("not served again")?;
    whole.take_refresher()?.kill().await?;
    soon_refused(&whole, 503, "token_expired").await?;
    ensure!(!secret(&whole)?.0.is_empty(), "the test is about a file with a token");
    Ok(())
}

#[tokio::test]
async fn nobody_gets_the_token_of_another_login_or_without_a_gate() -> Result<()> {
    let bearer = json!({"bearer": {"credential_injector": "default"}});
    let mut key = ClientKey::of_key("bob".parse()?, b"torchbearer-key-of-bob-1");
    key.credential = "bob".to_owned();
    let gate = json!({"gate": {"client_keys": [key]}});
    let stack = start_with(plan(), bearer.clone(), Some(gate)).await?;
    let get = stack.client.get(stack.url("/v1/models")).bearer_auth("torchbearer-key-of-bob-1");
    let answer = get.send().await?;
    assert_eq!(answer.status(), 503);
    ensure!(answer.text().await?.contains("unknown_credential"));
    ensure!(stack.provider().requests().is_empty());

    let stack = start_with(plan(), bearer, None).await?;
    refused(&stack, 503, "not_admitted").await?;
    // A bearer that does not know of it: it has no token to put in, and lets nothing pass.
    let stack = start_with(plan(), json!({"bearer": {}}), Some(json!({"gate": {}}))).await?;
    soon_refused(&stack, 503, "credential_not_injected").await
}

#[tokio::test]
async fn a_secret_that_cannot_be_written_shows_and_the_last_one_serves() -> Result<()> {
    let stack = Stack::start(plan()).await?;
    let models = async || {
        Ok::<_, reqwest::Error>(
            stack.client.get(stack.url("/v1/models")).send().await?.status().as_u16(),
        )
    };
    assert_eq!(models().await?, 200);
    // What cannot be replaced by a file.
    let obstacle = stack.dir().join("sds/.default.json.new");
    std::fs::create_dir(&obstacle)?;
    let (_, generation) = secret(&stack)?;
    let rejection = json!({"credential": "default", "generation": generation, "status": 401});
    unix_request(&stack.socket(), "POST", "/v1/rejections", &rejection.to_string()).await?;
    let health = unix_request(&stack.socket(), "GET", "/health", "").await?.json();
    ensure!(health["status"] == "degraded", "{health}");
    let alarm = health["credentials"]["default"]["alarm"].to_string();
    ensure!(alarm.contains("default.json"), "{alarm}");
    assert_eq!(models().await?, 200);
    assert_eq!(secret(&stack)?.1, generation);
    std::fs::remove_dir(&obstacle)?;
    let mended = eventually(SOON, async || {
        let health = unix_request(&stack.socket(), "GET", "/health", "").await.ok()?.json();
        (health["status"] == "ok" && secret(&stack).ok()?.1 > generation).then_some(())
    });
    mended.await.context("the write is not tried again")?;
    assert_eq!(models().await?, 200);
    Ok(())
}
