//! Tokens that are rotated, rejected and published.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use filter::bundle::Credential;
use refresher::config::Config;
use refresher::login::device;
use refresher::login::terminal::Display;
use refresher::reload;
use serde_json::json;
use simulator::{Fault, Options};

use super::harness::{Peer, SOON, World};
use super::{age, join_all, token_fault};

#[tokio::test]
async fn without_a_login_it_says_so_and_a_login_is_effective_at_once() {
    let world = World::new(Options { approve_device: true, ..Options::default() }).await;
    let peer = world.serve().await;
    let Credential::LoginRequired { reason } = peer.state().await else {
        panic!("a login is required");
    };
    assert_eq!(reason, "never_logged_in");
    let (status, ready) = peer.get("/ready").await;
    assert_eq!((status, &ready["reason"]), (503, &json!("never_logged_in")));
    assert_eq!(peer.reject(1).await, (409, json!({"error": "login_required"})));
    world.log_in().await;
    peer.await_state(|state| matches!(state, Credential::Ready(_))).await;
    assert_eq!(peer.get("/ready").await.0, 200);
    assert_eq!(world.control().summary().refreshes, 0);
}

#[tokio::test]
async fn a_token_is_rotated_before_it_expires() {
    let world = World::logged_in(6).await;
    let peer = world.serve().await;
    let first = peer.token().await;
    let second = peer.token_after(first.generation).await;
    let third = peer.token_after(second.generation).await;
    assert_ne!(first.access_token, second.access_token);
    assert_eq!(world.stored().token.unwrap().generation, third.generation);
    let (_, health) = peer.get("/health").await;
    assert_eq!(health["status"], "ok");
    assert_eq!(health["oauth_refresh"]["refresh_token_rotated"], true);
    assert_eq!(health["oauth_refresh"]["last_refresh_status"], "success");
    world.assert_honest();
}

#[tokio::test]
async fn a_poll_waits_for_news_and_no_longer_than_asked() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let known = peer.poll(0, 5).await.unwrap().generation;
    assert_eq!(peer.poll(known, 0).await, None);
    assert_eq!(peer.poll(known, 1).await, None);
    assert!(peer.poll(known + 5, 0).await.is_some());
    age().await;
    let news = peer.poll(known, 20);
    let (news, rejected) = tokio::join!(news, peer.reject(known));
    assert_eq!(rejected.0, 200);
    assert!(news.unwrap().generation > known);
}

#[tokio::test]
async fn any_number_of_rejections_cause_one_refresh() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let dead = peer.token().await;
    let rejections = (0..200).map(|_| peer.reject(dead.generation));
    let mut tasks = Vec::new();
    for rejection in rejections {
        tasks.push(Box::pin(rejection));
    }
    for (status, bundle) in join_all(tasks).await {
        assert_eq!(status, 200);
        assert!(bundle["credentials"]["default"]["generation"].as_u64().unwrap() > dead.generation);
    }
    assert_eq!(world.control().summary().refreshes, 1);
    // One that comes late is told at once.
    assert_eq!(peer.reject(dead.generation).await.0, 200);
    assert_eq!(world.control().summary().refreshes, 1);
    world.assert_honest();
}

#[tokio::test]
async fn a_malformed_or_foreign_rejection_refreshes_nothing() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    for body in ["", "{}", "[]", "{\"credential\": 1}"] {
        assert_eq!(peer.post("/v1/rejections", body.to_owned()).await.0, 400, "{body}");
    }
    let unknown = json!({"credential": "bob", "generation": 1, "status": 401});
    assert_eq!(peer.post("/v1/rejections", unknown.to_string()).await.0, 404);
    assert_eq!(peer.post("/v1/rejections", "x".repeat(70_000)).await.0, 413);
    assert_eq!(world.control().summary().refreshes, 0);
}

/// What is published of a credential.
async fn published(peer: &Peer, name: &str) -> Option<Credential> {
    peer.poll(0, 5).await?.credentials.get(name).cloned()
}

async fn generation(peer: &Peer, name: &str) -> Option<u64> {
    match published(peer, name).await {
        Some(Credential::Ready(token)) => Some(token.generation),
        _ => None,
    }
}

async fn log_in_as(world: &World, name: &str) {
    let out = &mut std::io::sink();
    device::login(&world.config, name, Display::Plain, out).await.unwrap();
}

#[tokio::test]
async fn every_credential_has_a_machine_of_its_own() {
    let world = World::logged_in(3600).await;
    log_in_as(&world, "bob").await;
    let peer = world.serve().await;
    let (ours, bobs) = (generation(&peer, "default").await, generation(&peer, "bob").await);
    assert!(ours.is_some() && bobs.is_some() && ours != bobs);
    let reject = async |name: &str, generation: Option<u64>| {
        let body = json!({"credential": name, "generation": generation, "status": 401});
        peer.post("/v1/rejections", body.to_string()).await.0
    };
    age().await;
    assert_eq!(reject("bob", bobs).await, 200);
    assert!(generation(&peer, "bob").await > bobs);
    assert_eq!(generation(&peer, "default").await, ours);
    assert_eq!(world.control().summary().refreshes, 1);
    // One login's end is not the other's.
    let dead = Fault {
        status: Some(400),
        body: Some("{\"error\": \"invalid_grant\"}".to_owned()),
        count: Some(1),
        ..token_fault()
    };
    world.control().set_fault(dead);
    age().await;
    let bobs = generation(&peer, "bob").await;
    assert_eq!(reject("bob", bobs).await, 409);
    assert_eq!(reject("default", ours).await, 200);
    assert!(generation(&peer, "default").await > ours);
    let health = peer.get("/health").await.1;
    assert_eq!(health["credentials"]["bob"]["oauth_reauth_required"], true);
    assert_eq!(health["credentials"]["default"]["oauth_reauth_required"], false);
    // A new name is served without a restart.
    assert_eq!(published(&peer, "carol").await, None);
    log_in_as(&world, "carol").await;
    let search = async {
        while generation(&peer, "carol").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, search).await.expect("carol is served soon");
    world.assert_honest();
}

fn sharing(world: &World, number: usize) -> Arc<Config> {
    let socket = world.directory.path().join(format!("{number}.sock"));
    Arc::new(Config { socket, ..(*world.config).clone() })
}

#[tokio::test]
async fn many_refreshers_of_one_grant_make_one_call() {
    let world = World::logged_in(16).await;
    let first = world.stored().generation;
    let mut peers = Vec::new();
    for number in 0..20 {
        peers.push(Peer::start(sharing(&world, number)).await);
    }
    let mut tokens = Vec::new();
    for peer in &peers {
        tokens.push(peer.token_after(first).await);
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.control().summary().refresh_requests, 1);
    world.assert_honest();
}

#[tokio::test]
async fn a_grant_of_another_provider_is_never_sent_to_this_one() {
    let world = World::logged_in(3600).await;
    let mut grant = world.stored();
    grant.issuer = Some("https://id.example".to_owned());
    world.store().lock().await.unwrap().save(&grant).unwrap();
    let peer = world.serve().await;
    let reason = "other_provider".to_owned();
    assert_eq!(peer.state().await, Credential::LoginRequired { reason });
    assert_eq!(world.control().summary().refresh_requests, 0);
}

#[tokio::test]
async fn settings_that_are_mended_make_a_grant_good_again() {
    let world = World::logged_in(3600).await;
    let mut wrong = Config::clone(&world.config);
    wrong.provider.client_id = "another".to_owned();
    let peer = Peer::start(Arc::new(wrong)).await;
    let reason = "other_provider".to_owned();
    assert_eq!(peer.state().await, Credential::LoginRequired { reason });
    peer.reconfigure(Config::clone(&world.config));
    peer.await_state(|state| matches!(state, Credential::Ready(_))).await;
    assert_eq!(world.control().summary().refresh_requests, 0);
}

#[tokio::test]
async fn a_grant_in_a_file_of_its_own_is_not_lost_by_a_reload_either() {
    let world = World::logged_in(3600).await;
    let mut config = Config::clone(&world.config);
    config.grant_file = Some(world.directory.path().join("auth.json"));
    device::login(&config, "default", Display::Plain, &mut std::io::sink()).await.unwrap();
    let mut next = config.clone();
    next.provider.client_id = "another".to_owned();
    std::fs::remove_dir_all(config.state_dir.join("grants")).unwrap();
    let refused = reload::judge(&config, next);
    let of = |grant: &Path| Some(grant) == config.grant_file.as_deref();
    assert!(matches!(refused, Err(reload::Error::OtherClient { grant, .. }) if of(&grant)));
}

#[tokio::test]
async fn generations_grow_over_restarts() {
    let world = World::new(Options::default()).await;
    let mut last = 0;
    std::fs::create_dir_all(&world.config.state_dir).unwrap();
    // As if the wall clock had been far ahead before.
    std::fs::write(world.config.state_dir.join("generation"), "9000000000000").unwrap();
    for _ in 0..3 {
        let peer = world.serve().await;
        let generation = peer.poll(0, 5).await.unwrap().generation;
        assert!(generation > last.max(9_000_000_000_000));
        last = generation;
        peer.stop().await;
    }
}
