//! A provider that refuses, is down, or is slow.

use std::collections::BTreeMap;
use std::time::Duration;

use filter::bundle::Credential;
use refresher::store::Verdict;
use refresher::{http, status};
use serde_json::{Value, json};
use simulator::{Fault, Target};

use super::harness::World;
use super::{age, join_all, token_fault};

#[tokio::test]
async fn a_dead_grant_is_tried_once_and_latched_over_restarts_until_a_login() {
    let world = World::logged_in(10).await;
    world.control().revoke_all();
    let peer = world.serve().await;
    let before = peer.token().await;
    peer.await_health(|health| {
        health["oauth_refresh"]["last_refresh_error_class"] == "invalid_grant"
    })
    .await;
    // The token is still valid.
    assert_eq!(peer.token().await, before);
    assert_eq!(peer.reject(before.generation).await.0, 409);
    peer.stop().await;
    let peer = world.serve().await;
    assert_eq!(peer.token().await, before);
    let state = peer.await_state(|state| !matches!(state, Credential::Ready(_))).await;
    assert_eq!(state, Credential::LoginRequired { reason: "invalid_grant".to_owned() });
    assert_eq!(world.control().summary().refresh_requests, 1);
    world.log_in().await;
    peer.token_after(before.generation).await;
}

#[tokio::test]
async fn a_dead_grant_whose_token_still_serves_is_told_and_forgotten_after_a_login() {
    let world = World::logged_in(3600).await;
    let config = world.config.clone();
    let dead = Fault {
        status: Some(400),
        body: Some("{\"error\": \"invalid_grant\"}".to_owned()),
        ..token_fault()
    };
    world.control().set_fault(dead);
    let peer = world.serve().await;
    let (_, health) = peer.get("/health").await;
    assert_eq!(health["oauth_reauth_required"], false);
    age().await;
    let generation = peer.token().await.generation;
    assert_eq!(peer.reject(generation).await.0, 409);
    let told = peer.await_health(|health| health["oauth_reauth_required"] == true).await;
    assert_eq!(told["credentials"]["default"]["state"], "ready");
    let report = status::collect(&config).await.unwrap();
    let text = report.lines(0);
    let said = "login will be required when the token expires: refresher login --provider demo";
    assert!(text.contains(said) && text.contains(": failure"), "{text}");
    assert!(report.is_good() && report.credentials[0].oauth_reauth_required);
    world.control().clear_faults(Target::Token);
    world.log_in().await;
    let told = peer.await_health(|health| health["oauth_reauth_required"] == false).await;
    assert_eq!(told["oauth_refresh"]["last_refresh_status"], Value::Null);
    assert_eq!(told["oauth_refresh"]["refresh_failure_count"], 1);
    let text = status::collect(&config).await.unwrap().lines(0);
    assert!(!text.contains("failure") && !text.contains("login will"), "{text}");
    peer.stop().await;
    // Without a refresher the file tells it.
    let mut grant = world.stored();
    grant.verdict = Some(Verdict { reason: "invalid_grant".to_owned(), at: 1 });
    world.store().lock().await.unwrap().save(&grant).unwrap();
    let report = status::collect(&config).await.unwrap();
    assert!(report.login_required() && report.credentials[0].oauth_reauth_required);
}

#[tokio::test]
async fn a_grant_that_could_not_be_read_counts_once_it_can() {
    let world = World::logged_in(3600).await;
    let path = world.store().path().to_owned();
    // As root leaves it, or a restored backup.
    std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
    let peer = world.serve().await;
    assert!(matches!(peer.state().await, Credential::LoginRequired { .. }));
    let owner = rustix::process::getuid().as_raw();
    std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
    peer.await_state(|state| matches!(state, Credential::Ready(_))).await;
}

#[tokio::test]
async fn every_other_failure_is_transient() {
    let page = |status, body: &str| Fault {
        status: Some(status),
        body: Some(body.to_owned()),
        ..token_fault()
    };
    let once = [
        page(400, ""),
        page(400, "{\"error\": {\"code\": \"invalid_grant\"}}"),
        page(200, "not json"),
        page(401, "<html>invalid_grant</html>"),
        page(403, "{\"error\": \"invalid_grant\"}"),
        page(302, ""),
    ];
    // Tried three times in one exchange.
    let thrice = [
        page(500, "{\"error\": \"invalid_grant\"}"),
        page(502, ""),
        page(503, ""),
        page(504, ""),
        Fault { reset: true, ..token_fault() },
    ];
    let once = once.into_iter().map(|fault| (fault, 1));
    let all = once.chain(thrice.into_iter().map(|fault| (fault, 3)));
    join_all(all.map(|(fault, times)| Box::pin(recovers_from(fault, times))).collect()).await;
}

async fn recovers_from(fault: Fault, times: u32) {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    world.control().set_fault(Fault { count: Some(times), ..fault.clone() });
    age().await;
    let (status, refusal) = peer.reject(token.generation).await;
    assert_eq!((status, &refusal["error"]), (503, &json!("unavailable")), "{fault:?}");
    assert!(world.control().summary().refresh_requests >= u64::from(times), "{fault:?}");
    assert!(refusal["retry_after"].as_u64().unwrap() >= 1);
    // Kept meanwhile, and replaced without a restart.
    peer.token_after(token.generation).await;
    world.assert_honest();
}

#[tokio::test]
async fn what_passes_within_seconds_costs_one_exchange_and_no_failure() {
    for fault in [
        Fault { status: Some(503), ..token_fault() },
        Fault { status: Some(502), body: Some("<html>".to_owned()), ..token_fault() },
        Fault { reset: true, ..token_fault() },
    ] {
        let world = World::logged_in(3600).await;
        let peer = world.serve().await;
        let token = peer.token().await;
        world.control().set_fault(Fault { count: Some(2), ..fault.clone() });
        age().await;
        assert_eq!(peer.reject(token.generation).await.0, 200, "{fault:?}");
        assert_eq!(world.control().summary().refresh_requests, 3);
        let health = peer.get("/health").await.1;
        assert_eq!(health["oauth_refresh"]["refresh_failure_count"], 0);
        // The note of the exchange is gone.
        assert_eq!(world.store().intent(&world.stored()).unwrap(), None);
        world.assert_honest();
    }
}

#[tokio::test]
async fn a_refresh_token_follows_no_redirect() {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = format!("http://{}/token", elsewhere.local_addr().unwrap());
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    let headers = BTreeMap::from([("location".to_owned(), location)]);
    world.control().set_fault(Fault { status: Some(307), headers, ..token_fault() });
    age().await;
    assert_eq!(peer.reject(token.generation).await.0, 503);
    let health = peer.get("/health").await.1;
    assert_eq!(health["oauth_refresh"]["last_refresh_error_class"], "http_307");
    assert!(elsewhere.accept().is_err(), "nobody was sent there");
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_not_shortened_by_another_try() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    let headers = BTreeMap::from([("retry-after".to_owned(), "40".to_owned())]);
    world.control().set_fault(Fault { status: Some(503), headers, ..token_fault() });
    age().await;
    assert_eq!(peer.reject(token.generation).await.1["retry_after"], 40);
    assert_eq!(world.control().summary().refresh_requests, 1);
}

#[tokio::test]
async fn retry_after_of_the_provider_is_passed_on() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    let headers = BTreeMap::from([("retry-after".to_owned(), "40".to_owned())]);
    world.control().set_fault(Fault { status: Some(429), headers, ..token_fault() });
    age().await;
    assert_eq!(peer.reject(token.generation).await.1["retry_after"], 40);
    assert_eq!(peer.reject(token.generation).await.0, 503);
    assert_eq!(world.control().summary().refresh_requests, 1);
}

#[tokio::test]
async fn silence_and_a_trickle_end_at_the_deadline() {
    let faults = [
        Fault { silence: true, count: Some(1), ..token_fault() },
        Fault { drip_ms: Some(1000), count: Some(1), ..token_fault() },
    ];
    join_all(faults.into_iter().map(|fault| Box::pin(gives_up_on(fault))).collect()).await;
}

async fn gives_up_on(fault: Fault) {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    world.control().set_fault(fault);
    age().await;
    let limit = http::DEADLINE + Duration::from_secs(2);
    let rejection = tokio::time::timeout(limit, peer.reject(token.generation));
    assert_eq!(rejection.await.unwrap().0, 503);
    let health = peer.get("/health").await.1;
    assert_eq!(health["oauth_refresh"]["last_refresh_error_class"], "timeout");
    assert_eq!(peer.token().await, token);
}
