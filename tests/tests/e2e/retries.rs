//! What is tried again, and what never is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use refresher::config::Proxy;
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{DeadToken, Fault, Target};
use tests::{Plan, Stack, Stopwatch, eventually, free_port};

mod memory;

/// Short pauses, for tests that do not look at them.
const DELAY: Duration = Duration::from_millis(50);

async fn stack(retry_attempts: u32, retry_delay: Duration) -> Result<Stack> {
    let proxy = Proxy { retry_attempts, retry_delay, ..Proxy::default() };
    Stack::start(Plan { proxy, ..Plan::default() }).await
}

fn fault(status: u16, count: u32) -> Fault {
    Fault { status: Some(status), count: Some(count), ..Fault::new(Target::Api) }
}

/// The status of a request to the echo, and how many requests the API saw.
async fn asked(stack: &Stack, method: Method) -> Result<(u16, usize)> {
    stack.provider().clear();
    let request = stack.client.request(method.clone(), stack.url("/v1/echo"));
    let request = if method == Method::POST { request.body("{}") } else { request };
    let status = request.send().await?.status().as_u16();
    Ok((status, stack.provider().requests().len()))
}

#[tokio::test]
async fn what_only_reads_is_tried_again_within_the_attempts() -> Result<()> {
    let stack = stack(2, DELAY).await?;
    for status in [502, 503, 429] {
        for (failures, outcome) in [(1, (200, 2)), (2, (200, 3)), (3, (status, 3))] {
            stack.provider().clear_faults(None);
            stack.provider().set_fault(fault(status, failures));
            let seen = asked(&stack, Method::GET).await?;
            assert_eq!(seen, outcome, "{status}, {failures} times");
        }
    }
    for method in [Method::HEAD, Method::OPTIONS] {
        stack.provider().set_fault(fault(503, 1));
        assert_eq!(asked(&stack, method.clone()).await?, (200, 2), "{method}");
    }
    stack.provider().set_fault(Fault { reset: true, count: Some(2), ..Fault::new(Target::Api) });
    assert_eq!(asked(&stack, Method::GET).await?, (200, 3), "a reset");
    for status in [400, 403, 404, 500, 501, 504] {
        stack.provider().set_fault(fault(status, 1));
        assert_eq!(asked(&stack, Method::GET).await?, (status, 1));
    }
    Ok(())
}

#[tokio::test]
async fn without_attempts_nothing_is_tried_again_but_after_a_dead_token() -> Result<()> {
    let stack = stack(0, DELAY).await?;
    for method in [Method::GET, Method::POST] {
        for status in [502, 503, 429] {
            stack.provider().set_fault(fault(status, 1));
            assert_eq!(asked(&stack, method.clone()).await?, (status, 1));
        }
        stack.provider().set_fault(Fault {
            reset: true,
            count: Some(1),
            ..Fault::new(Target::Api)
        });
        assert_eq!(asked(&stack, method.clone()).await?, (503, 1));
        stack.provider().kill_access_token();
        assert_eq!(asked(&stack, method).await?, (200, 2));
    }
    Ok(())
}

#[tokio::test]
async fn what_generates_is_never_sent_twice() -> Result<()> {
    let stack = stack(10, DELAY).await?;
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for status in [429, 502, 503, 504] {
            stack.provider().set_fault(fault(status, 1));
            assert_eq!(asked(&stack, method.clone()).await?, (status, 1), "{method}");
        }
        stack.provider().set_fault(Fault {
            reset: true,
            count: Some(1),
            ..Fault::new(Target::Api)
        });
        assert_eq!(asked(&stack, method.clone()).await?, (503, 1), "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_never_opened_has_carried_nothing() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    // Of the API's two addresses, one has no listener.
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let cluster = bootstrap.pointer_mut("/static_resources/clusters/0").context("a cluster")?;
    cluster["type"] = "STATIC".into();
    let mut closed = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0].clone();
    closed["endpoint"]["address"]["socket_address"]["port_value"] = free_port()?.into();
    let endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array_mut();
    endpoints.context("endpoints")?.push(closed);
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    for method in [Method::GET, Method::POST] {
        let before = stack.stat("cluster.upstream.upstream_rq_retry").await?;
        for _ in 0..20 {
            assert_eq!(asked(&stack, method.clone()).await?, (200, 1), "{method}");
        }
        ensure!(stack.stat("cluster.upstream.upstream_rq_retry").await? > before, "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn the_pause_is_what_the_api_asks_for_if_that_is_not_too_long() -> Result<()> {
    let stack = stack(1, DELAY).await?;
    let headers = |seconds: &str| [("retry-after".to_owned(), seconds.to_owned())].into();
    for (seconds, least, most) in [("2", 1.9, 10.0), ("3600", 0.0, 1.9)] {
        stack.provider().set_fault(Fault { headers: headers(seconds), ..fault(429, 1) });
        let watch = Stopwatch::start();
        assert_eq!(asked(&stack, Method::GET).await?, (200, 2), "{seconds}");
        let elapsed = watch.elapsed().as_secs_f64();
        ensure!((least..most).contains(&elapsed), "{seconds}: {elapsed}");
    }
    // What is passed back says it, too.
    stack.provider().set_fault(Fault { headers: headers("3600"), ..fault(429, 2) });
    let answer = stack.client.get(stack.url("/v1/echo")).send().await?;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "3600");
    Ok(())
}

#[tokio::test]
async fn the_replay_happens_once_whatever_attempts_are_left() -> Result<()> {
    let stack = stack(10, DELAY).await?;
    for method in [Method::GET, Method::POST] {
        stack.provider().set_fault(Fault { count: None, ..fault(401, 0) });
        assert_eq!(asked(&stack, method.clone()).await?, (401, 2), "{method}");
        stack.provider().clear_faults(None);
        stack.provider().kill_access_token();
        assert_eq!(asked(&stack, method.clone()).await?, (200, 2), "{method}");
    }
    // A failure and a dead token, one after the other.
    stack.provider().kill_access_token();
    stack.provider().set_fault(fault(503, 1));
    assert_eq!(asked(&stack, Method::GET).await?, (200, 3));
    Ok(())
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_not_replayed_and_its_answer_passes() -> Result<()> {
    let proxy = Proxy { max_replay_body_bytes: 1 << 20, ..Proxy::default() };
    let stack = Stack::start(Plan { proxy, workers: 1, ..Plan::default() }).await?;
    assert_eq!(asked(&stack, Method::GET).await?, (200, 1), "the token is there");
    for (dead, status) in [(DeadToken::Unauthorized, 401), (DeadToken::Forbidden, 403)] {
        stack.provider().set_dead_token(dead);
        stack.provider().kill_access_token();
        stack.provider().clear();
        let refreshes = stack.provider().summary().refreshes;
        let body = Bytes::from(vec![b'x'; 3 << 20]);
        let answer = stack.client.post(stack.url("/v1/echo")).body(body.clone()).send().await?;
        assert_eq!(answer.status(), status);
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-torchbearer")));
        let said = answer.text().await?;
        ensure!(said.contains("missing, expired or revoked"), "{said}");
        assert_eq!(stack.provider().requests().len(), 1);
        // The token is replaced all the same.
        let replaced = eventually(Duration::from_secs(10), async || {
            (stack.provider().summary().refreshes == refreshes + 1).then_some(())
        });
        replaced.await.context("the token is not replaced")?;
        assert_eq!(asked(&stack, Method::GET).await?, (200, 1), "it is there");
        let answer = stack.client.post(stack.url("/v1/echo")).body(body).send().await?;
        assert_eq!(answer.json::<Value>().await?["body_bytes"], json!(3 << 20));
        assert_eq!(stack.provider().requests().len(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_up_to_the_bound_is_replayed_whole() -> Result<()> {
    let stack = stack(2, DELAY).await?;
    for size in [(1 << 20) + 1, (4 << 20) - 65_536] {
        assert_eq!(asked(&stack, Method::GET).await?.0, 200, "the token is there");
        stack.provider().kill_access_token();
        stack.provider().clear();
        let body = Bytes::from(vec![b'x'; size]);
        let answer = stack.client.post(stack.url("/v1/echo")).body(body).send().await?;
        assert_eq!(answer.status(), 200, "{size}");
        let [first, second] = stack.provider().requests().try_into().ok().context("a replay")?;
        assert_eq!((first.body_bytes, second.body_bytes), (size, size));
        assert_eq!(first.body_sha256, second.body_sha256);
    }
    Ok(())
}
