//! Limits of clients: requests a minute, and requests at the same time, over all workers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use filter::client::ClientKey;
use refresher::config::Proxy;
use reqwest::Response;
use serde_json::{Value, json};
use simulator::{Fault, Target};
use tests::{Plan, Publisher, Stack, Stopwatch, eventually};

use crate::clients::sdk;

mod composed;
mod trapped;

const ALICE: &str = "torchbearer-key-of-alice-1";
const ALICE_TOO: &str = "torchbearer-key-of-alice-2";
const BOB: &str = "torchbearer-key-of-bob-22";

const LIMIT: Duration = Duration::from_secs(20);

fn key(name: &str, key: &str) -> Result<ClientKey> {
    Ok(ClientKey::of_key(name.parse()?, key.as_bytes()))
}

async fn stack_of(limited_keys: Vec<ClientKey>, workers: u16) -> Result<Stack> {
    Stack::start(Plan { limited_keys, workers, ..Plan::default() }).await
}

/// Sends so many requests at once, each on a connection of its own, with these keys in turn.
async fn at_once(stack: &Stack, keys: &[&str], number: usize) -> Result<Vec<Response>> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
    let requests = keys.iter().cycle().take(number).map(|key| {
        let request = client.get(stack.url("/v1/models")).bearer_auth(key);
        tokio::spawn(request.send())
    });
    let requests: Vec<_> = requests.collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await??);
    }
    Ok(answers)
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

async fn code(answer: Response) -> Result<Value> {
    Ok(answer.json::<Value>().await?["error"]["code"].take())
}

#[tokio::test]
async fn a_minutes_requests_are_counted_exactly_over_all_workers() -> Result<()> {
    for (workers, limit) in [(2, 12_u32), (4, 12), (4, 200)] {
        let limited = |text| {
            Ok::<_, anyhow::Error>(ClientKey { requests_per_minute: limit, ..key("alice", text)? })
        };
        // Two keys of one client have one limit.
        let keys = vec![limited(ALICE)?, limited(ALICE_TOO)?, key("bob", BOB)?];
        let stack = stack_of(keys, workers).await?;
        let number = limit as usize;
        let watch = Stopwatch::start();
        let answers = at_once(&stack, &[ALICE, ALICE_TOO], 3 * number).await?;
        let back = watch.elapsed().as_millis() * u128::from(limit) / 60_000;
        let mut remaining = Vec::new();
        let mut refused = 0;
        for answer in answers {
            assert_eq!(header(&answer, "x-ratelimit-limit-requests"), Some(&*limit.to_string()));
            let left: u32 = header(&answer, "x-ratelimit-remaining-requests")
                .context("what is left")?
                .parse()?;
            let reset = header(&answer, "x-ratelimit-reset-requests").context("a reset")?;
            ensure!(reset.ends_with('s'), "{reset}");
            match answer.status().as_u16() {
                200 => remaining.push(left),
                429 => {
                    refused += 1;
                    assert_eq!(left, 0);
                    let wait: u64 = header(&answer, "retry-after").context("a wait")?.parse()?;
                    ensure!((1..=60 / u64::from(limit) + 1).contains(&wait), "{wait}");
                    assert_eq!(code(answer).await?, "rate_limit_exceeded");
                }
                status => anyhow::bail!("{status}"),
            }
        }
        // Exactly the limit, and what came back meanwhile.
        ensure!(remaining.len() >= number, "{workers} workers: {} of {number}", remaining.len());
        ensure!(
            (remaining.len() - number) as u128 <= back,
            "{workers} workers: {} of {number}, {back} came back",
            remaining.len()
        );
        assert_eq!(refused + remaining.len(), 3 * number);
        assert_eq!(stack.provider().requests().len(), remaining.len());
        if back == 0 {
            // Each was told another number.
            remaining.sort_unstable();
            assert_eq!(remaining, (0..limit).collect::<Vec<_>>());
        }
        let bob = at_once(&stack, &[BOB], 20).await?;
        for answer in bob {
            assert_eq!(answer.status(), 200);
            assert_eq!(header(&answer, "x-ratelimit-limit-requests"), None);
        }
        let refusals = ("torchbearer_refusals_total", [("code", "rate_limit_exceeded")]);
        let counted = stack.metrics().await?.value(refusals.0, &refusals.1);
        assert_eq!(counted, Some(refused as f64));
    }
    Ok(())
}

#[tokio::test]
async fn the_openai_sdk_sees_a_rate_limit() -> Result<()> {
    let key = ClientKey { requests_per_minute: 1, ..key("alice", ALICE)? };
    let stack = stack_of(vec![key], 1).await?;
    assert_eq!(sdk(&stack, ALICE, "error").await?, json!({}));
    let seen = sdk(&stack, ALICE, "error").await?;
    ensure!(seen["class"] == "RateLimitError" && seen["status"] == 429, "{seen}");
    ensure!(seen["code"] == "rate_limit_exceeded" && seen["type"] == "rate_limit_error", "{seen}");
    Ok(())
}

#[tokio::test]
async fn the_apis_own_limits_are_shown_where_the_client_has_none_and_in_its_own_429() -> Result<()>
{
    let keys =
        vec![ClientKey { requests_per_minute: 100, ..key("alice", ALICE)? }, key("bob", BOB)?];
    let proxy = Proxy { retry_attempts: 0, ..Proxy::default() };
    let plan = Plan { limited_keys: keys, proxy, ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let headers = [
        ("x-ratelimit-limit-requests", "7"),
        ("x-ratelimit-remaining-requests", "3"),
        ("x-ratelimit-remaining-tokens", "5000"),
    ];
    for (key, status, limit) in [(ALICE, 200, "100"), (BOB, 200, "7"), (ALICE, 429, "7")] {
        stack.provider().set_fault(Fault {
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            status: (status != 200).then_some(status),
            ..Fault::new(Target::Api)
        });
        let answer = stack.client.get(stack.url("/v1/models")).bearer_auth(key).send().await?;
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "x-ratelimit-limit-requests"), Some(limit), "{status}");
        assert_eq!(header(&answer, "x-ratelimit-remaining-tokens"), Some("5000"));
    }
    Ok(())
}

/// An answer of this client that stays open.
async fn open(stack: &Stack, key: &str) -> Result<Response> {
    let body = json!({
        "model": "grok-4", "messages": [{"role": "user", "content": "x"}], "stream": true,
        "x_delay_ms": 600_000
    });
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
    let request = client.post(stack.url("/v1/chat/completions")).bearer_auth(key);
    Ok(tokio::time::timeout(LIMIT, request.json(&body).send()).await??)
}

/// Opens one more as soon as there is room.
async fn reopened(stack: &Stack, key: &str) -> Result<Response> {
    let opened = eventually(LIMIT, async || {
        open(stack, key).await.ok().filter(|answer| answer.status() == 200)
    });
    opened.await.context("no room")
}

#[tokio::test]
async fn requests_at_the_same_time_are_counted_exactly_over_all_workers() -> Result<()> {
    const NUMBER: usize = 8;
    for workers in [2, 4] {
        let limited =
            |text| Ok::<_, anyhow::Error>(ClientKey { concurrency: 8, ..key("alice", text)? });
        let stack = stack_of(vec![limited(ALICE)?, limited(ALICE_TOO)?], workers).await?;
        let requests = (0..3 * NUMBER)
            .map(|number| open(&stack, if number % 2 == 0 { ALICE } else { ALICE_TOO }));
        let mut open = Vec::new();
        for answer in futures_util::future::join_all(requests).await {
            let answer = answer?;
            if answer.status() == 200 {
                open.push(answer);
            } else {
                assert_eq!(answer.status(), 429);
                assert_eq!(header(&answer, "retry-after"), Some("1"));
                assert_eq!(code(answer).await?, "concurrency_limit_exceeded");
            }
        }
        assert_eq!(open.len(), NUMBER, "{workers} workers");
        // Each that goes makes room for one, and not for two.
        for _ in 0..3 {
            open.remove(0);
            open.push(reopened(&stack, ALICE).await?);
            assert_eq!(self::open(&stack, ALICE_TOO).await?.status(), 429);
        }
        // Longer than a worker may be silent before it counts as lost.
        tokio::time::sleep(Duration::from_millis(filter::limit::VM_LOST_MS + 1500)).await;
        assert_eq!(self::open(&stack, ALICE).await?.status(), 429, "a held place was forgotten");
    }
    Ok(())
}

#[tokio::test]
async fn every_end_of_a_request_makes_room() -> Result<()> {
    let alice =
        ClientKey { concurrency: 1, models: vec!["grok-4".to_owned()], ..key("alice", ALICE)? };
    let stack = stack_of(vec![alice], 2).await?;
    let get = async || {
        let request = stack.client.get(stack.url("/v1/models")).bearer_auth(ALICE).send();
        anyhow::Ok(request.await?.status().as_u16())
    };
    let free = async |after: &str| {
        let free = eventually(LIMIT, async || (get().await.ok()? != 429).then_some(()));
        free.await.with_context(|| format!("no room after {after}"))
    };
    for round in 0..20 {
        assert_eq!(get().await?, 200, "round {round}: an answer is over when it is read");
    }
    // The model is refused by the body, after the request was counted in.
    for _ in 0..3 {
        let request = stack.client.post(stack.url("/v1/chat/completions")).bearer_auth(ALICE);
        assert_eq!(request.json(&json!({"model": "other"})).send().await?.status(), 403);
        free("a refused model").await?;
    }
    // The client goes away: amid the answer, and amid its own body.
    drop(open(&stack, ALICE).await?);
    free("a client's reset").await?;
    let half = stack.client.post(stack.url("/v1/echo")).bearer_auth(ALICE);
    let half = half.header("content-length", "100").body("x").timeout(Duration::from_millis(300));
    ensure!(half.send().await.is_err());
    free("half a body").await?;
    // The API resets the connection; Envoy answers itself.
    stack.provider().set_fault(Fault { reset: true, ..Fault::new(Target::Api) });
    let request = stack.client.post(stack.url("/v1/chat/completions")).bearer_auth(ALICE);
    assert_eq!(request.json(&json!({"model": "grok-4"})).send().await?.status(), 503);
    stack.provider().clear_faults(None);
    free("the API's reset").await?;
    // The bearer answers itself.
    stack.provider().revoke_all();
    for _ in 0..3 {
        let status = get().await?;
        ensure!(status == 503, "{status}");
        free("an answer of the bearer").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_published_limit_is_changed_while_requests_run() -> Result<()> {
    let mut stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    let publisher = Publisher::start(&stack.socket())?;
    let limited =
        |number| Ok::<_, anyhow::Error>(ClientKey { concurrency: number, ..key("alice", ALICE)? });
    publisher.publish_for(stack.provider(), &[limited(1)?]);
    stack.start_envoy().await?;
    let mut held = vec![reopened(&stack, ALICE).await?];
    assert_eq!(open(&stack, ALICE).await?.status(), 429);
    publisher.publish_for(stack.provider(), &[limited(3)?]);
    held.push(reopened(&stack, ALICE).await?);
    held.push(reopened(&stack, ALICE).await?);
    assert_eq!(open(&stack, ALICE).await?.status(), 429);
    // A smaller one ends nothing, and refuses what is new until there is room.
    publisher.publish_for(stack.provider(), &[limited(2)?]);
    held.pop();
    for _ in 0..20 {
        let refused = eventually(LIMIT, async || {
            let status = open(&stack, ALICE).await.ok()?.status();
            (status == 429).then_some(())
        });
        refused.await.context("the smaller limit does not hold")?;
    }
    // None at all.
    publisher.publish_for(stack.provider(), &[key("alice", ALICE)?]);
    for _ in 0..5 {
        held.push(reopened(&stack, ALICE).await?);
    }
    assert_eq!(held.len(), 7);
    // And one a minute.
    let once = ClientKey { requests_per_minute: 1, ..key("alice", ALICE)? };
    publisher.publish_for(stack.provider(), &[once]);
    let refused = eventually(LIMIT, async || {
        let answer = open(&stack, ALICE).await.ok()?;
        (answer.status() == 429).then_some(answer)
    });
    let refused = refused.await.context("no limit")?;
    assert_eq!(code(refused).await?, "rate_limit_exceeded");
    Ok(())
}
