//! Files of other programs, and our own.

use refresher::store::Verdict;
use serde_json::{Value, json};
use simulator::Options;

use super::harness::program::Place;
use super::{hermes, import, now, rotates, run, simulator, text};

#[tokio::test]
async fn a_login_goes_out_and_comes_back() {
    let (simulator, here) = simulator(Options { token_life: 4, ..Options::default() }).await;
    let answer = simulator.control().issue_grant();
    import(&here, &[], &hermes(simulator.url(), &answer)).await;
    let exported = run(&here, &["export"], b"", None).await;
    assert_eq!(exported.code, Some(0), "{}", exported.err);
    assert!(exported.err.contains("warning: this is the login itself"), "{}", exported.err);
    let document: Value = serde_json::from_str(&exported.out).unwrap();
    assert_eq!(text(&document, "source"), "torchbearer");
    assert_eq!(text(&document, "refresh_token"), text(&answer, "refresh_token"));
    std::fs::remove_dir_all(&here.config.state_dir).unwrap();
    assert_eq!(run(&here, &["export"], b"", None).await.code, Some(3));
    let imported = import(&here, &["--from", "torchbearer"], &document).await;
    assert_eq!(imported.code, Some(0), "{}", imported.err);
    assert!(imported.err.contains("the same refresh token"), "{}", imported.err);
    let grant = here.stored().unwrap();
    assert_eq!(grant.refresh_token.expose(), text(&answer, "refresh_token"));
    assert_eq!(grant.token.as_ref().unwrap().access_token.expose(), text(&answer, "access_token"));
    rotates(&here, &grant).await;
    assert_eq!(simulator.control().summary().spent_twice, 0);
    for ended in [exported, imported] {
        assert!(!ended.err.contains(grant.refresh_token.expose()));
    }
}

#[tokio::test]
async fn a_login_that_has_ended_or_is_of_another_provider_is_not_exported() {
    let (simulator, place) = simulator(Options::default()).await;
    import(&place, &[], &hermes(simulator.url(), &simulator.control().issue_grant())).await;
    let mut dead = place.stored().unwrap();
    let mut foreign = dead.clone();
    dead.verdict = Some(Verdict { reason: "invalid_grant".to_owned(), at: now() });
    foreign.issuer = Some("https://id.example".to_owned());
    for (grant, code, said) in [
        (dead, 3, "has ended (invalid_grant); log in again first"),
        (foreign, 1, "is of another provider or client"),
    ] {
        place.store().lock().await.unwrap().save(&grant).unwrap();
        let ended = run(&place, &["export"], b"", None).await;
        assert_eq!(ended.code, Some(code), "{}", ended.err);
        assert!(ended.err.contains(said), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn every_format_becomes_a_grant_that_rotates() {
    let (simulator, _) = simulator(Options { token_life: 4, ..Options::default() }).await;
    let url = simulator.url();
    let endpoint = format!("{url}/oauth2/token");
    for format in ["hermes", "pool", "grok-cli", "python-proxy", "export", "rust-proxy"] {
        let answer = simulator.control().issue_grant();
        let (access, refresh) = (&answer["access_token"], &answer["refresh_token"]);
        let client = "torchbearer-demo";
        let document = match format {
            "hermes" => hermes(url, &answer),
            "pool" => json!({"credential_pool": {"xai-oauth": [{
                "access_token": access, "refresh_token": refresh, "last_status": null,
                "token_endpoint": endpoint,
            }]}}),
            "grok-cli" => json!({format!("{url}::{client}"): {
                "key": access, "refresh_token": refresh, "expires_at": "2001-01-01T00:00:00Z",
            }}),
            "python-proxy" => json!({
                "access_token": access, "refresh_token": refresh, "client_id": client,
                "expires_in": 4, "token_endpoint": endpoint, "last_refresh": now(),
            }),
            "export" => json!({
                "version": 1, "source": "hermes",
                "xai-oauth": hermes(url, &answer)["providers"]["xai-oauth"],
            }),
            _ => json!({
                "access_token": access, "refresh_token": refresh, "expires_at": now() + 4,
                "token_endpoint": endpoint,
            }),
        };
        let place = Place::new(url, "");
        let ended = import(&place, &[], &document).await;
        assert_eq!(ended.code, Some(0), "{format}: {}", ended.err);
        let grant = place.stored().unwrap();
        assert_eq!(grant.client_id, client, "{format}");
        assert_eq!(grant.refresh_token.expose(), refresh.as_str().unwrap(), "{format}");
        rotates(&place, &grant).await;
    }
    assert_eq!(simulator.control().summary().spent_twice, 0);
}

#[tokio::test]
async fn a_grant_is_refreshed_as_the_client_that_it_was_issued_to() {
    let other = Options { client_id: "grok-of-old".into(), token_life: 4, ..Options::default() };
    let (simulator, place) = simulator(other).await;
    let answer = simulator.control().issue_grant();
    let ended = import(&place, &[], &hermes(simulator.url(), &answer)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let grant = place.stored().unwrap();
    assert_eq!(grant.client_id, "grok-of-old");
    rotates(&place, &grant).await;
    // Whoever configures a client means that one.
    let own = Place::new(simulator.url(), "client_id = \"mine\"");
    let answer = simulator.control().issue_grant();
    let document = hermes(simulator.url(), &answer);
    let ended = import(&own, &[], &document).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("\"grok-of-old\"; accepted: \"mine\""), "{}", ended.err);
    let ended = import(&own, &["--client-id", "grok-of-old"], &document).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    rotates(&own, &own.stored().unwrap()).await;
}

#[tokio::test]
async fn what_is_of_another_provider_is_refused_with_both_named() {
    let (simulator, place) = simulator(Options::default()).await;
    let answer = simulator.control().issue_grant();
    let ended = import(&place, &[], &hermes("https://auth.evil.example", &answer)).await;
    assert_eq!(ended.code, Some(1));
    let accepted = format!("accepted: {}/oauth2/token", simulator.url());
    assert!(ended.err.contains("https://auth.evil.example/oauth2/token"), "{}", ended.err);
    assert!(ended.err.contains(&accepted), "{}", ended.err);
    assert!(!ended.err.contains(text(&answer, "refresh_token")));
    assert_eq!(place.stored(), None);
}

#[tokio::test]
async fn a_newer_grant_stays_unless_forced() {
    let (simulator, place) = simulator(Options::default()).await;
    let (url, control) = (simulator.url(), simulator.control());
    let document = |answer: &Value, at: u64| {
        let mut document = hermes(url, answer);
        document["providers"]["xai-oauth"]["last_refresh"] = json!(at);
        document
    };
    let (first, second) = (control.issue_grant(), control.issue_grant());
    let held = || place.stored().unwrap().refresh_token.expose().to_owned();
    assert_eq!(import(&place, &[], &document(&first, now() - 60)).await.code, Some(0));
    let again = import(&place, &[], &document(&first, now())).await;
    assert_eq!(again.code, Some(0));
    assert!(again.out.contains("already"), "{}", again.out);
    let older = import(&place, &[], &document(&second, now() - 120)).await;
    assert_eq!(older.code, Some(1));
    assert!(older.err.contains("the stored grant is kept: it is newer"), "{}", older.err);
    assert_eq!(held(), text(&first, "refresh_token"));
    let forced = import(&place, &["--force"], &document(&second, now() - 120)).await;
    assert_eq!(forced.code, Some(0), "{}", forced.err);
    assert_eq!(held(), text(&second, "refresh_token"));
    let newer = import(&place, &[], &document(&first, now() - 30)).await;
    assert_eq!(newer.code, Some(0), "{}", newer.err);
    let bob = import(&place, &["--credential", "bob"], &document(&second, now())).await;
    assert_eq!(bob.code, Some(0), "{}", bob.err);
    assert_eq!(held(), text(&first, "refresh_token"));
    assert!(place.config.state_dir.join("grants/demo.bob.json").exists());
}

#[tokio::test]
async fn a_file_is_found_where_its_program_keeps_it() {
    let (simulator, place) = simulator(Options::default()).await;
    let nothing = run(&place, &["import"], b"", None).await;
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.err.contains(".hermes/auth.json or "), "{}", nothing.err);
    let answer = simulator.control().issue_grant();
    let directory = place.path().join(".grok");
    std::fs::create_dir(&directory).unwrap();
    let grok = json!({format!("{}::torchbearer-demo", simulator.url()): {
        "key": answer["access_token"], "refresh_token": answer["refresh_token"],
    }});
    std::fs::write(directory.join("auth.json"), grok.to_string()).unwrap();
    let found = run(&place, &["import"], b"", None).await;
    assert_eq!(found.code, Some(0), "{}", found.err);
    assert!(found.out.contains("grok-cli"), "{}", found.out);
    let stated = run(&place, &["import", "--from", "hermes"], b"", None).await;
    assert_eq!(stated.code, Some(2), "{}", stated.err);
}
