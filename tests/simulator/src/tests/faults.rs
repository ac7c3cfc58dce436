//! Faults, over the control endpoint and by hand.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{Fault, Mode, Target};

async fn fault(world: &World, fault: Value) {
    let (status, body) = world.control("/fault", &fault).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn instead_of_processing_the_grant_is_left_alone() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    let headers = json!({"retry-after": "7", "content-type": "text/html"});
    let wanted =
        json!({"target": "token", "count": 1, "status": 503, "headers": headers, "body": "<p>"});
    fault(&world, wanted).await;
    let form = [("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", &token)];
    let response = world.form("/oauth2/token", &form).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(response.text().await.unwrap(), "<p>");
    assert_eq!(world.refresh(&token).await.0, StatusCode::OK);
    let ledger = world.simulator.control().ledger();
    let seen: Vec<_> = ledger.iter().map(|entry| (entry.outcome, entry.issued)).collect();
    assert_eq!(seen, [("fault", false), ("ok", true)]);
}

#[tokio::test]
async fn after_processing_the_grant_is_spent_and_the_client_does_not_know() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    fault(&world, json!({"target": "token", "count": 1, "mode": "after", "reset": true})).await;
    let form = format!("grant_type=refresh_token&client_id={CLIENT}&refresh_token={token}");
    let request = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let (answer, ended) = world.raw(request.as_bytes()).await;
    assert_eq!((answer.len(), ended), (0, Err(ErrorKind::ConnectionReset)));
    assert_eq!(world.refresh(&token).await.1["error"], "invalid_grant");
    let ledger = world.simulator.control().ledger();
    let seen: Vec<_> = ledger.iter().map(|entry| (entry.outcome, entry.issued)).collect();
    assert_eq!(seen, [("ok", false), ("spent_twice", true)]);
}

#[tokio::test]
async fn a_patch_bends_the_answer_and_a_missing_refresh_token_is_not_rotated() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    let patch = json!({"expires_in": null, "refresh_token": null, "scope": "other"});
    fault(&world, json!({"target": "token", "patch": patch})).await;
    for _ in 0..2 {
        let (status, tokens) = world.refresh(&token).await;
        assert_eq!((status, &tokens["scope"]), (StatusCode::OK, &json!("other")));
        assert!(tokens.get("expires_in").is_none() && tokens.get("refresh_token").is_none());
    }
    fault(&world, json!({"target": "token", "same_refresh_token": true})).await;
    assert_eq!(world.refresh(&token).await.1["refresh_token"], json!(token));
    let url = world.url("/_control/fault");
    assert_eq!(world.client.delete(url).send().await.unwrap().status(), StatusCode::OK);
    assert_ne!(world.refresh(&token).await.1["refresh_token"], json!(token));
    assert_eq!(world.simulator.control().summary().spent_twice, 0);
}

#[tokio::test]
async fn silence_answers_nothing_and_leaves_the_others_alone() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    let control = world.simulator.control();
    control.set_fault(Fault { silence: true, count: Some(1), ..Fault::new(Target::Token) });
    let silent = world.refresh(&token);
    tokio::pin!(silent);
    tokio::select! {
        _ = &mut silent => panic!("answered"),
        () = control.wait_until(|control| !control.ledger().is_empty()) => {}
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut silent).await.is_err());
    assert_eq!(world.refresh(&token).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_drip_sends_every_byte_and_takes_its_time() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    let control = world.simulator.control();
    let drip = Fault { body: Some("drip".into()), ..Fault::new(Target::Models) };
    control.set_fault(Fault { drip_ms: Some(3_600_000), ..drip.clone() });
    let mut response = world.get("/v1/models", &access).await;
    assert_eq!(response.chunk().await.unwrap().unwrap(), "d");
    let second = tokio::time::timeout(Duration::from_millis(50), response.chunk());
    assert!(second.await.is_err(), "the second byte takes an hour");
    control.set_fault(Fault { drip_ms: Some(1), ..drip });
    assert_eq!(world.get("/v1/models/grok-4", &access).await.status(), StatusCode::OK);
    control.clear_faults(Target::Api);
    assert_eq!(world.get("/v1/models", &access).await.text().await.unwrap(), "drip");
    control.clear_faults(None);
    assert_ne!(world.get("/v1/models", &access).await.text().await.unwrap(), "drip");
}

#[tokio::test]
async fn a_delay_without_more_lets_the_true_answer_pass() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    let control = world.simulator.control();
    let delay = Fault { delay_ms: 3_600_000, ..Fault::new(Target::Token) };
    for (mode, entered, millis) in [(Mode::Instead, 0, 100), (Mode::After, 1, 1_000)] {
        control.set_fault(Fault { mode, ..delay.clone() });
        let waiting = tokio::time::timeout(Duration::from_millis(millis), world.refresh(&token));
        assert!(waiting.await.is_err());
        assert_eq!(control.summary().refreshes, entered, "{mode:?}");
    }
    control.set_fault(Fault { delay_ms: 1, count: Some(1), ..Fault::new(Target::Discovery) });
    let url = world.url("/.well-known/openid-configuration");
    let document = answer(world.client.get(url).send().await.unwrap()).await.1;
    assert_eq!(document["issuer"], world.simulator.url());
}

#[tokio::test]
async fn device_and_api_have_faults_of_their_own() {
    let world = World::new(Options::default()).await;
    let (access, _) = world.grant();
    fault(&world, json!({"target": "device", "status": 404})).await;
    fault(&world, json!({"target": "api", "status": 502, "count": 1})).await;
    let response = world.form("/oauth2/device/code", &[("client_id", CLIENT)]).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(world.get("/echo", &access).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(world.get("/echo", &access).await.status(), StatusCode::OK);
    let statuses: Vec<_> =
        world.simulator.control().requests().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [Some(502), Some(200)]);
}

#[tokio::test]
async fn an_order_that_is_not_understood_is_refused() {
    let world = World::new(Options::default()).await;
    for order in [
        json!({}),
        json!({"target": "moon"}),
        json!({"target": "token", "stauts": 503}),
        json!({"target": "token", "status": 99}),
    ] {
        let (status, body) = world.control("/fault", &order).await;
        assert_eq!((status, &body["ok"]), (StatusCode::BAD_REQUEST, &json!(false)), "{order}");
    }
    assert_eq!(world.control("/token_life", &json!({})).await.0, StatusCode::BAD_REQUEST);
}
