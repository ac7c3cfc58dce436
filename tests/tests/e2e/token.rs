//! Rotation, and what happens when the API refuses the token.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::Digest;
use rustix::process::Signal;
use simulator::{DeadToken, Fault, Mode, Options, Target};
use tests::{Plan, Stack, allow_open_files, eventually, unix_request};

const CHAT: &str = "/v1/chat/completions";

fn chat(prompt: &str) -> serde_json::Value {
    serde_json::json!({
        "model": "grok-4", "messages": [{"role": "user", "content": prompt}]
    })
}

async fn generation(stack: &Stack) -> Result<u64> {
    let health = unix_request(&stack.socket(), "GET", "/v1/bundle?generation=0", "").await?;
    health.json()["generation"].as_u64().context("a generation")
}

/// The token that a new connection's request carries.
async fn token_in_use(stack: &Stack) -> Result<String> {
    let request = "GET /v1/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = stack.raw(request.as_bytes()).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.json()["authorization"][0].as_str().context("a token")?.to_owned())
}

#[tokio::test]
async fn t01_a_new_token_is_on_every_worker_within_a_second() -> Result<()> {
    let stack = Stack::start(Plan { workers: 4, ..Plan::default() }).await?;
    let old = token_in_use(&stack).await?;
    stack.provider().kill_access_token();
    let mut rotated = generation(&stack).await?;
    let before = rotated;
    // One refused request has the token replaced.
    assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 200);
    eventually(Duration::from_secs(5), async || {
        rotated = generation(&stack).await.ok()?;
        (rotated > before).then_some(())
    })
    .await
    .context("a new generation")?;
    let second = eventually(Duration::from_secs(1), async || token_in_use(&stack).await.err());
    ensure!(second.await.is_none(), "a request failed");
    stack.provider().clear();
    // From here on, every worker has the new one: of 40 connections none carries the old.
    for _ in 0..40 {
        ensure!(token_in_use(&stack).await? != old, "an old token after a second");
    }
    assert_eq!(stack.provider().summary().refused, 0, "an old token was sent after the new one");
    Ok(())
}

#[tokio::test]
async fn t01_rotation_under_traffic_fails_no_request() -> Result<()> {
    // Half of this life is the time between two rotations.
    let provider = Options { token_life: 4, approve_device: true, ..Options::default() };
    let settings = "[rotation]\nspacing = 1\n".to_owned();
    let stack = Stack::start(Plan { provider, settings, ..Plan::default() }).await?;
    let rotations = async || stack.provider().summary().refreshes;
    let before = rotations().await;
    let mut requests = 0;
    let done = eventually(Duration::from_secs(30), async || {
        for _ in 0..20 {
            let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await;
            match answer {
                Ok(answer) if answer.status() == 200 => requests += 1,
                other => return Some(Err(format!("{other:?}"))),
            }
        }
        (rotations().await >= before + 3).then_some(Ok(()))
    });
    done.await.context("three rotations")?.map_err(anyhow::Error::msg)?;
    assert!(requests > 100, "{requests}");
    assert_eq!(stack.provider().summary().spent_twice, 0);
    Ok(())
}

#[tokio::test]
async fn t02_a_provider_that_does_not_rotate_keeps_the_grant_good() -> Result<()> {
    for fault in [
        Fault { same_refresh_token: true, ..Fault::new(Target::Token) },
        Fault {
            patch: [("refresh_token".to_owned(), serde_json::Value::Null)].into_iter().collect(),
            ..Fault::new(Target::Token)
        },
    ] {
        let mut stack = Stack::start(Plan::default()).await?;
        stack.provider().set_fault(fault);
        for round in 1..=2 {
            stack.provider().kill_access_token();
            let answer = stack.client.get(stack.url("/v1/models")).send().await?;
            assert_eq!(answer.status(), 200, "round {round}");
        }
        // The grant on disk is good as well.
        stack.take_refresher()?.stop().await?;
        stack.start_refresher().await?;
        stack.provider().clear_faults(None);
        stack.provider().kill_access_token();
        assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 200);
        assert_eq!(stack.provider().summary().spent_twice, 0);
    }
    Ok(())
}

#[tokio::test]
async fn t16_a_refresher_that_is_asked_to_end_finishes_and_persists_its_exchange() -> Result<()> {
    let mut stack = Stack::start(Plan::default()).await?;
    let old = token_in_use(&stack).await?;
    // Granted at once, told late.
    let slow = Fault { delay_ms: 1500, mode: Mode::After, ..Fault::new(Target::Token) };
    stack.provider().set_fault(slow);
    stack.provider().kill_access_token();
    let request = tokio::spawn(stack.client.get(stack.url("/v1/models")).send());
    stack.provider().wait_until(|provider| provider.summary().refreshes == 1).await;
    let mut refresher = stack.take_refresher()?;
    refresher.signal(Signal::TERM)?;
    assert_eq!(refresher.wait(Duration::from_secs(20)).await?.code(), Some(0));
    ensure!(refresher.log().contains("finishing the exchange under way"), "it came too late");
    // Whoever waited for the new token is answered, if only by a refusal.
    request.await??;
    stack.provider().clear_faults(None);
    stack.start_refresher().await?;
    let token = eventually(Duration::from_secs(10), async || token_in_use(&stack).await.ok());
    ensure!(token.await.context("a token")? != old);
    let summary = stack.provider().summary();
    assert_eq!((summary.refresh_requests, summary.spent_twice), (1, 0));
    Ok(())
}

#[tokio::test]
async fn t14_a_dead_token_is_replaced_once_and_the_request_replayed_once() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    for dead in [DeadToken::Unauthorized, DeadToken::Forbidden, DeadToken::ForbiddenOld] {
        stack.provider().set_dead_token(dead);
        stack.provider().kill_access_token();
        stack.provider().clear();
        let refreshes = stack.provider().summary().refreshes;
        let prompt = "x".repeat(900_000);
        let body = serde_json::to_vec(&chat(&prompt))?;
        let sent = Digest::of(&body).to_string();
        let post = stack.client.post(stack.url(CHAT)).header("content-type", "application/json");
        let answer = post.body(body).send().await?;
        assert_eq!(answer.status(), 200, "{dead:?}");
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-torchbearer")));
        let requests = stack.provider().requests();
        let [refused, replayed] = requests.as_slice() else {
            panic!("{dead:?}: {} attempts", requests.len());
        };
        assert!(refused.refused && !replayed.refused, "{dead:?}");
        // The API may refuse before it has read all of it.
        assert_eq!(replayed.body_sha256, sent, "{dead:?}");
        assert_ne!(refused.jti, replayed.jti, "{dead:?}");
        assert_eq!(replayed.authorization.len(), 1, "{dead:?}");
        assert_eq!(stack.provider().summary().refreshes, refreshes + 1, "{dead:?}");
    }
    Ok(())
}

#[tokio::test]
async fn t14_other_refusals_pass_through_and_refresh_nothing() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    let refreshes = stack.provider().summary().refreshes;
    for (status, body) in [
        (403, r#"{"code":"permission-denied:entitlement"}"#),
        (403, "unauthenticated:no-json"),
        (402, r#"{"code":"personal-team-blocked:spending-limit"}"#),
        (429, r#"{"code":"subscription:free-usage-exhausted"}"#),
        (500, "broken"),
    ] {
        stack.provider().clear();
        let url = stack.url(&format!("/v1/status/{status}"));
        let request = stack.client.post(url).query(&[("body", body)]);
        let answer = request.body("{}").send().await?;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.text().await?, body, "{status}");
        assert_eq!(stack.provider().requests().len(), 1, "{status}: a POST was sent twice");
    }
    assert_eq!(stack.provider().summary().refreshes, refreshes);
    Ok(())
}

#[tokio::test]
async fn t14_a_token_that_is_refused_again_is_not_replayed_again() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    stack.provider().set_fault(Fault { status: Some(401), ..Fault::new(Target::Api) });
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    assert_eq!(answer.status(), 401);
    assert_eq!(stack.provider().requests().len(), 2);
    // One request has one token replaced, whatever the API says of it: the second stays in use.
    let refreshes = stack.provider().summary().refreshes;
    stack.provider().clear_faults(None);
    let answer = stack.client.get(stack.url("/v1/models")).send().await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(stack.provider().requests().len(), 3);
    assert_eq!(stack.provider().summary().refreshes, refreshes);
    Ok(())
}

#[tokio::test]
async fn t15_two_thousand_requests_on_a_dead_token_make_one_refresh() -> Result<()> {
    const REQUESTS: usize = 2000;
    // A connection of each has two ends, here and in Envoy, and so has its second half.
    allow_open_files(5 * REQUESTS as u64)?;
    let stack = Stack::start(Plan::default()).await?;
    assert_eq!(stack.client.get(stack.url("/v1/models")).send().await?.status(), 200);
    stack.provider().kill_access_token();
    stack.provider().clear();
    let refreshes = stack.provider().summary().refreshes;
    let requests = (0..REQUESTS).map(|number| {
        let request = stack.client.post(stack.url(CHAT)).json(&chat(&number.to_string()));
        tokio::spawn(request.send())
    });
    let requests: Vec<_> = requests.collect();
    for request in requests {
        assert_eq!(request.await??.status(), 200);
    }
    assert_eq!(stack.provider().summary().refreshes, refreshes + 1);
    assert_eq!(stack.provider().summary().spent_twice, 0);
    let attempts = stack.provider().requests();
    let served = attempts.iter().filter(|attempt| !attempt.refused).count();
    assert_eq!(served, REQUESTS, "each is served once");
    assert!(attempts.len() <= 2 * REQUESTS, "{} attempts", attempts.len());
    Ok(())
}

#[tokio::test]
async fn a_refused_token_without_a_successor_is_not_sent_again() -> Result<()> {
    let stack = Stack::start(Plan::default()).await?;
    stack.provider().revoke_all();
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await?.contains("login_required"));
    stack.provider().clear();
    let answer = stack.client.post(stack.url(CHAT)).json(&chat("hello")).send().await?;
    assert_eq!(answer.status(), 503);
    assert!(stack.provider().requests().is_empty());
    assert_eq!(stack.provider().summary().token_requests, 0, "a dead grant is not tried again");
    Ok(())
}

/// The bootstrap as a mesh without upstream filters would have it: both jobs in one place.
fn in_one_place(bootstrap: &str) -> Result<String> {
    let mut bootstrap: serde_json::Value = serde_json::from_str(bootstrap)?;
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let gate = format!("{manager}/http_filters/0/typed_config/config/configuration/value");
    *bootstrap.pointer_mut(&gate).context("the gate")? = r#"{"gate": {}, "bearer": {}}"#.into();
    let upstream = "/static_resources/clusters/0/typed_extension_protocol_options/\
                    envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters";
    let filters = bootstrap.pointer_mut(upstream).and_then(serde_json::Value::as_array_mut);
    filters
        .context("the upstream filters")?
        .retain(|filter| filter["name"] != "torchbearer.bearer");
    let host = format!("{manager}/route_config/virtual_hosts/0");
    let host = bootstrap.pointer_mut(&host).context("the virtual host")?;
    host["request_headers_to_remove"] = serde_json::json!(["x-forwarded-proto"]);
    Ok(bootstrap.to_string())
}

#[tokio::test]
async fn in_one_place_a_dead_token_is_replaced_for_the_next_request() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    stack.start_envoy_with(&in_one_place(&stack.bootstrap()?)?).await?;
    let url = stack.url(CHAT);
    let post = async || {
        let request = stack.client.post(&url).bearer_auth("unused").header("cookie", "a=1");
        request.json(&chat("hello")).send().await
    };
    for (dead, status) in [
        (DeadToken::Unauthorized, 401),
        (DeadToken::Forbidden, 403),
        (DeadToken::ForbiddenOld, 403),
    ] {
        assert_eq!(post().await?.status(), 200, "{dead:?}");
        let arrived = stack.provider().requests().pop().context("a request")?;
        assert_eq!(arrived.authorization.len(), 1);
        for name in ["cookie", "x-forwarded-proto", "x-forwarded-for"] {
            assert_eq!(arrived.header(name).count(), 0, "{name}");
        }
        stack.provider().set_dead_token(dead);
        stack.provider().kill_access_token();
        let refreshes = stack.provider().summary().refreshes;
        let answer = post().await?;
        assert_eq!(answer.status(), status, "{dead:?}: passed back");
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-torchbearer")));
        assert!(!answer.text().await?.is_empty(), "{dead:?}: with its body");
        // The next one is served, and waited for no more than the refresh.
        assert_eq!(post().await?.status(), 200, "{dead:?}");
        assert_eq!(stack.provider().summary().refreshes, refreshes + 1, "{dead:?}");
    }
    Ok(())
}
