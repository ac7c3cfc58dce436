//! Logins, refreshes and the ledger.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_consent_page_leads_to_tokens_that_the_api_takes() {
    let world = World::new(Options { token_life: 60, ..Options::default() }).await;
    let answer = world.decide("approve").await;
    assert_eq!(answer["state"], "the state");
    assert_eq!(answer["iss"], world.simulator.url());
    let (status, tokens) = world.exchange(&answer["code"], VERIFIER).await;
    assert_eq!((status, &tokens["expires_in"]), (StatusCode::OK, &json!(60)), "{tokens}");
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(text(&tokens, "id_token").split('.').count(), 3);
    let access_token = text(&tokens, "access_token");
    assert_eq!(world.get("/v1/models", &access_token).await.status(), StatusCode::OK);
    assert_eq!(world.outcomes(), ["ok"]);
}

#[tokio::test]
async fn approved_without_a_page_when_so_set_up() {
    let world = World::new(Options { approve_consent: true, ..Options::default() }).await;
    let code = redirected(&world.authorize(REDIRECT).await)["code"].clone();
    assert_eq!(world.exchange(&code, VERIFIER).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_of_the_user_goes_back_to_the_client() {
    let world = World::new(Options::default()).await;
    let answer = world.decide("deny").await;
    assert_eq!(
        (answer["error"].as_str(), answer["state"].as_str()),
        ("access_denied", "the state")
    );
    assert!(!answer.contains_key("code"));
}

#[tokio::test]
async fn an_unregistered_redirect_uri_gets_a_page_and_no_redirect() {
    let world = World::new(Options::default()).await;
    let response = world.authorize("http://127.0.0.1:56121/callback?x").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(!response.headers().contains_key("location"));
}

#[tokio::test]
async fn a_wrong_verifier_gets_nothing_and_a_code_used_twice_revokes() {
    let world = World::new(Options::default()).await;
    let code = world.decide("approve").await["code"].clone();
    for (verifier, error) in
        [(VERIFIER.replace('d', "e"), "invalid_grant"), ("short".into(), "invalid_request")]
    {
        let (status, body) = world.exchange(&code, &verifier).await;
        assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!(error)));
    }
    let (_, tokens) = world.exchange(&code, VERIFIER).await;
    let (status, body) = world.exchange(&code, VERIFIER).await;
    assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    let access_token = text(&tokens, "access_token");
    assert_eq!(world.get("/echo", &access_token).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(world.refresh(&text(&tokens, "refresh_token")).await.0, StatusCode::BAD_REQUEST);
    let expected = ["invalid_grant", "invalid_request", "ok", "spent_twice", "invalid_grant"];
    assert_eq!(world.outcomes(), expected);
}

#[tokio::test]
async fn refresh_tokens_rotate_and_one_used_twice_revokes_the_family() {
    let world = World::new(Options::default()).await;
    let (first, old) = world.grant();
    let (status, tokens) = world.refresh(&old).await;
    assert_eq!(status, StatusCode::OK);
    let (second, new) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert_ne!(old, new);
    assert_eq!(world.get("/echo", &first).await.status(), StatusCode::OK);
    assert_eq!(world.refresh(&old).await.1["error"], "invalid_grant");
    assert_eq!(world.refresh(&new).await.1["error"], "invalid_grant");
    for token in [&first, &second] {
        assert_eq!(world.get("/echo", token).await.status(), StatusCode::UNAUTHORIZED);
    }
    let summary = world.simulator.control().summary();
    assert_eq!((summary.refresh_requests, summary.refreshes, summary.spent_twice), (3, 1, 1));
    let ledger = world.simulator.control().ledger();
    assert_eq!(ledger[0].fingerprint, ledger[1].fingerprint);
    assert_ne!(ledger[0].fingerprint, ledger[2].fingerprint);
    assert!(!format!("{ledger:?}{:?}", world.simulator).contains(&old));
    world.simulator.control().clear();
    assert_eq!(world.simulator.control().summary(), crate::Summary::default());
}

#[tokio::test]
async fn the_token_endpoint_takes_nothing_malformed() {
    let world = World::new(Options::default()).await;
    let (_, token) = world.grant();
    let good = format!("grant_type=refresh_token&client_id={CLIENT}&refresh_token={token}");
    let form = "application/x-www-form-urlencoded";
    for (content_type, body, query, status, error) in [
        ("application/json", good.clone(), "", 400, "invalid_request"),
        (form, format!("{good}&client_id={CLIENT}"), "", 400, "invalid_request"),
        (form, good.clone(), "?a=b", 400, "invalid_request"),
        (form, good.replace(CLIENT, "other"), "", 401, "invalid_client"),
        (form, good.replace(CLIENT, ""), "", 400, "invalid_request"),
        (form, format!("{good}&client_secret=s"), "", 401, "invalid_client"),
        (form, good.replace("refresh_token&", "password&"), "", 400, "unsupported_grant_type"),
        (form, format!("{good}&scope=root"), "", 400, "invalid_scope"),
        (form, String::new(), "", 400, "invalid_request"),
    ] {
        let url = world.url(&format!("/oauth2/token{query}"));
        let request = world.client.post(url).header("content-type", content_type);
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let (code, body_of) = answer(response).await;
        assert_eq!((code.as_u16(), body_of["error"].as_str()), (status, Some(error)), "{body}");
    }
    assert_eq!(world.refresh(&token).await.0, StatusCode::OK, "nothing above spent it");
}

#[tokio::test]
async fn a_device_login_waits_for_the_user() {
    let world = World::new(Options { device_interval: 0, ..Options::default() }).await;
    let start = async || {
        let response = world.form("/oauth2/device/code", &[("client_id", CLIENT)]).await;
        answer(response).await.1
    };
    let poll = async |device_code: &str| {
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
        world.token(&[grant, ("client_id", CLIENT), ("device_code", device_code)]).await
    };
    let started = start().await;
    let device_code = text(&started, "device_code");
    assert_eq!(poll(&device_code).await.1["error"], "authorization_pending");
    let page = world.client.get(text(&started, "verification_uri_complete")).send().await.unwrap();
    let user_code = text(&started, "user_code");
    assert!(page.text().await.unwrap().contains(&user_code));
    let form = [("user_code", user_code.as_str()), ("decision", "approve")];
    assert_eq!(world.form("/device", &form).await.status(), StatusCode::OK);
    assert_eq!(world.form("/device", &form).await.status(), StatusCode::BAD_REQUEST);
    let (status, tokens) = poll(&device_code).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(world.refresh(&text(&tokens, "refresh_token")).await.0, StatusCode::OK);

    let denied = text(&start().await, "device_code");
    assert_eq!(world.control("/device/deny", &json!({})).await.0, StatusCode::OK);
    assert_eq!(world.control("/device/deny", &json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(poll(&denied).await.1["error"], "access_denied");
    let third = start().await;
    assert!(world.simulator.control().approve_device(text(&third, "user_code").as_str()));
    assert_eq!(poll(&text(&third, "device_code")).await.0, StatusCode::OK);
    let expected = ["authorization_pending", "ok", "ok", "access_denied", "ok"];
    assert_eq!(world.outcomes(), expected);
}

#[tokio::test]
async fn device_polls_are_paced_and_expire() {
    for (interval, life, expected) in [
        (3600, 3600, ["authorization_pending", "slow_down"]),
        (0, 0, ["expired_token", "expired_token"]),
    ] {
        let options =
            Options { device_interval: interval, device_life: life, ..Options::default() };
        let world = World::new(options).await;
        let started = world.form("/oauth2/device/code", &[("client_id", CLIENT)]).await;
        let device_code = text(&answer(started).await.1, "device_code");
        for error in expected {
            let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
            let form = [grant, ("client_id", CLIENT), ("device_code", device_code.as_str())];
            assert_eq!(world.token(&form).await.1["error"], error);
        }
    }
}

#[tokio::test]
async fn revocation_ends_the_family_and_answers_unknown_tokens_the_same() {
    let world = World::new(Options::default()).await;
    for by_access_token in [true, false] {
        let (access, refresh) = world.grant();
        let token = if by_access_token { &access } else { &refresh };
        for token in [token.as_str(), token, "unknown"] {
            let form = [("client_id", CLIENT), ("token", token)];
            assert_eq!(world.form("/oauth2/revoke", &form).await.status(), StatusCode::OK);
        }
        assert_eq!(world.get("/echo", &access).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(world.refresh(&refresh).await.1["error"], "invalid_grant");
    }
    assert_eq!(world.simulator.control().summary().spent_twice, 0);
}

#[tokio::test]
async fn discovery_names_endpoints_of_this_listener() {
    let world = World::new(Options::default()).await;
    for path in ["openid-configuration", "oauth-authorization-server"] {
        let url = world.url(&format!("/.well-known/{path}"));
        let document = answer(world.client.get(url).send().await.unwrap()).await.1;
        assert_eq!(document["issuer"], world.simulator.url());
        assert_eq!(document["token_endpoint"], json!(world.url("/oauth2/token")));
        assert_eq!(document["code_challenge_methods_supported"], json!(["S256"]));
    }
}
