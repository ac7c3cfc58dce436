//! Answers that are odd, late, lost or cannot be stored.

use refresher::store::Intent;
use serde_json::{Value, json};
use simulator::{Fault, Mode};

use super::harness::World;
use super::{age, join_all, note, token_fault};

/// What a provider forgives, it counts from the first use: later failures that reach it or not
/// do not move that time, and do not remove the note.
#[tokio::test]
async fn the_note_of_an_unanswered_exchange_keeps_its_time() {
    let world = World::logged_in(3600).await;
    let (token, store) = (world.stored().token.unwrap(), world.store());
    let at = token.obtained_at - 20;
    note(&store.lock().await.unwrap(), &world, at);
    world.control().set_fault(Fault { status: Some(403), ..token_fault() });
    let peer = world.serve().await;
    let failed =
        |health: &Value| health["oauth_refresh"]["refresh_failure_count"].as_u64() >= Some(2);
    peer.await_health(failed).await;
    let grant = world.stored();
    assert_eq!(store.intent(&grant).unwrap(), Some(Intent::of(&grant, at)));
    world.control().clear_faults(None);
    peer.token_after(token.generation).await;
}

#[tokio::test]
async fn a_refresh_token_that_is_not_replaced_is_kept() {
    for fault in [
        Fault { same_refresh_token: true, ..token_fault() },
        Fault {
            patch: [("refresh_token".to_owned(), Value::Null)].into_iter().collect(),
            ..token_fault()
        },
    ] {
        let world = World::logged_in(3600).await;
        let before = world.stored();
        world.control().set_fault(fault);
        let peer = world.serve().await;
        let token = peer.token().await;
        age().await;
        assert_eq!(peer.reject(token.generation).await.0, 200);
        let after = world.stored();
        assert_eq!(after.refresh_token, before.refresh_token);
        assert!(after.generation > before.generation);
    }
}

#[tokio::test]
async fn an_odd_expires_in_loses_nothing_and_makes_no_loop() {
    let lives = [
        (Value::Null, 3600),
        (json!(0), 3600),
        (json!(-5), 3600),
        (json!("900"), 900),
        (json!("soon"), 3600),
        (json!(1e18), 2_592_000),
    ];
    join_all(lives.into_iter().map(|(odd, life)| Box::pin(lives_for(odd, life))).collect()).await;
}

async fn lives_for(expires_in: Value, life: u64) {
    let world = World::logged_in(3600).await;
    let patch = [("expires_in".to_owned(), expires_in.clone())].into_iter().collect();
    world.control().set_fault(Fault { patch, ..token_fault() });
    let peer = world.serve().await;
    let token = peer.token().await;
    age().await;
    assert_eq!(peer.reject(token.generation).await.0, 200);
    let token = world.stored().token.unwrap();
    let left = token.expires_at - token.obtained_at;
    // The JWT's own claim may be a second off.
    assert!(left == life || left + 1 == life, "{expires_in}: {left}");
    assert_eq!(world.control().summary().refreshes, 1);
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_spent() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    // In the way of the successor, for every user: a directory that is not empty.
    let obstacle = world.stored_path().with_file_name(".demo.default.json.new");
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    age().await;
    assert_eq!(peer.reject(token.generation).await.0, 503);
    assert_eq!(world.control().summary().refresh_requests, 0);
    let health = peer.get("/health").await.1;
    assert_eq!(health["status"], "degraded");
    assert!(health["credentials"]["default"]["alarm"].is_string());
    std::fs::remove_dir_all(obstacle).unwrap();
    peer.token_after(token.generation).await;
    peer.await_health(|health| health["status"] == "ok").await;
    world.assert_honest();
}

#[tokio::test]
async fn a_write_that_fails_after_the_answer_is_tried_again_while_memory_serves() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    world.control().set_fault(Fault { delay_ms: 700, count: Some(1), ..token_fault() });
    age().await;
    let path = world.stored_path();
    let block = async {
        world.control().wait_until(|control| control.summary().refresh_requests == 1).await;
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
    };
    let ((status, _), ()) = tokio::join!(peer.reject(token.generation), block);
    assert_eq!(status, 200);
    let served = peer.token().await;
    assert!(served.generation > token.generation);
    let alarmed = |health: &Value| health["credentials"]["default"]["alarm"].is_string();
    peer.await_health(alarmed).await;
    std::fs::remove_dir_all(&path).unwrap();
    peer.await_health(|health| !alarmed(health)).await;
    assert_eq!(world.stored().token.unwrap().access_token, served.access_token.unwrap());
    age().await;
    assert_eq!(peer.reject(served.generation).await.0, 200);
    world.assert_honest();
}

#[tokio::test]
async fn an_exchange_under_way_is_finished_and_stored_before_the_end() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    world.control().set_fault(Fault { delay_ms: 600, ..token_fault() });
    age().await;
    let client =
        reqwest::Client::builder().unix_socket(world.config.socket.clone()).build().unwrap();
    let body = json!({"credential": "default", "generation": token.generation, "status": 401});
    let rejection = client.post("http://localhost/v1/rejections").body(body.to_string()).send();
    let rejection = tokio::spawn(rejection);
    world.control().wait_until(|control| control.summary().refresh_requests == 1).await;
    rejection.abort();
    peer.stop().await;
    assert!(world.stored().generation > token.generation);
    let peer = world.serve().await;
    assert!(peer.token().await.generation > token.generation);
    world.assert_honest();
}

#[tokio::test]
async fn an_exchange_without_an_answer_is_tried_again_soon_or_never() {
    let gone = Some("exchange_unanswered");
    // The last is from the future: the clock has been set back since.
    for (ago, reason) in [(5, None), (3600, gone), (-3600, gone)] {
        let world = World::logged_in(3600).await;
        let (token, store) = (world.stored().token.unwrap(), world.store());
        let noted_at = token.obtained_at.checked_sub_signed(ago).unwrap();
        note(&store.lock().await.unwrap(), &world, noted_at);
        let peer = world.serve().await;
        match reason {
            None => {
                let published = peer.token_after(token.generation).await;
                // The provider may have granted it when it was first asked.
                assert_eq!(world.stored().token.unwrap().obtained_at, noted_at);
                assert_eq!(published.expires_at, noted_at + 3600);
            }
            Some(reason) => {
                let class = &json!(reason);
                peer.await_health(|health| {
                    health["oauth_refresh"]["last_refresh_error_class"] == *class
                })
                .await;
                // The token itself is good to its end.
                assert_eq!(peer.token().await.access_token.unwrap(), token.access_token);
                assert_eq!(world.control().summary().refresh_requests, 0);
                assert_eq!(world.stored().verdict.unwrap().reason, reason);
            }
        }
    }
}

/// The crash fell between the successor's write and the removal of the note, at a provider that
/// grants the same refresh token again.
#[tokio::test]
async fn the_note_of_an_exchange_whose_successor_is_stored_condemns_nothing() {
    let world = World::logged_in(6).await;
    let (mut grant, store) = (world.stored(), world.store());
    let lock = store.lock().await.unwrap();
    note(&lock, &world, grant.token.as_ref().unwrap().obtained_at - 3600);
    grant.generation += 1;
    lock.save(&grant).unwrap();
    drop(lock);
    let peer = world.serve().await;
    peer.token_after(grant.generation).await;
    let health = peer.get("/health").await.1;
    assert_eq!(health["oauth_refresh"]["refresh_failure_count"], 0);
    assert_eq!(world.stored().verdict, None);
    world.assert_honest();
}

#[tokio::test]
async fn a_token_that_would_have_expired_since_the_first_try_counts_from_the_last() {
    let world = World::logged_in(8).await;
    let (token, store) = (world.stored().token.unwrap(), world.store());
    note(&store.lock().await.unwrap(), &world, token.obtained_at - 20);
    let peer = world.serve().await;
    let published = peer.token_after(token.generation).await;
    let stored = world.stored().token.unwrap();
    assert!(stored.obtained_at >= token.obtained_at);
    assert_eq!(stored.expires_at, stored.obtained_at + 8);
    assert_eq!(published.expires_at, stored.expires_at);
    assert_eq!(world.control().summary().refresh_requests, 1);
}

#[tokio::test]
async fn an_answer_that_got_lost_ends_in_one_clear_state() {
    let world = World::logged_in(3600).await;
    let peer = world.serve().await;
    let token = peer.token().await;
    let lost = Fault { reset: true, mode: Mode::After, count: Some(1), ..token_fault() };
    world.control().set_fault(lost);
    age().await;
    // This provider forgives nothing; the second try finds that out.
    assert_eq!(peer.reject(token.generation).await.0, 409);
    let health = peer.get("/health").await.1;
    assert_eq!(health["oauth_refresh"]["last_refresh_error_class"], "exchange_unanswered");
    assert_eq!(world.stored().verdict.unwrap().reason, "exchange_unanswered");
}

impl World {
    fn stored_path(&self) -> std::path::PathBuf {
        self.store().path().to_owned()
    }
}
