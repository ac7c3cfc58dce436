//! The sidecar against a simulated provider: rotation, rejections, failures of the provider and of
//! the disk.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use filter::bundle::Credential;
    use refresher::config::Config;
    use refresher::http;
    use refresher::status;
    use refresher::store::{Intent, Lock, Verdict};
    use serde_json::{Value, json};
    use simulator::{Fault, Mode, Options, Target};

    use super::harness::{Peer, World};

    fn token_fault() -> Fault {
        Fault::new(Target::Token)
    }

    /// Lets the token grow so old that a rejection refreshes it without further delay.
    async fn age() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

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
            assert!(
                bundle["credentials"]["default"]["generation"].as_u64().unwrap() > dead.generation
            );
        }
        assert_eq!(world.control().summary().refreshes, 1);
        // One that comes late is told at once.
        assert_eq!(peer.reject(dead.generation).await.0, 200);
        assert_eq!(world.control().summary().refreshes, 1);
        world.assert_honest();
    }

    async fn join_all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
        let mut waiting: Vec<(F, Option<F::Output>)> =
            futures.into_iter().map(|future| (future, None)).collect();
        std::future::poll_fn(|context| {
            let mut all = true;
            for (future, output) in &mut waiting {
                if output.is_none() {
                    match std::pin::Pin::new(future).poll(context) {
                        std::task::Poll::Ready(ready) => *output = Some(ready),
                        std::task::Poll::Pending => all = false,
                    }
                }
            }
            if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        waiting.into_iter().map(|(_, output)| output.unwrap()).collect()
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

    #[tokio::test]
    async fn a_dead_grant_is_tried_once_and_latched_over_restarts_until_a_login() {
        let world = World::logged_in(6).await;
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
            let fingerprint = world.stored().refresh_token.fingerprint();
            assert_eq!(world.store().intent(&fingerprint).unwrap(), None);
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
        let fingerprint = world.stored().refresh_token.fingerprint();
        assert_eq!(store.intent(&fingerprint).unwrap(), Some(Intent { fingerprint, at }));
        world.control().clear_faults(None);
        peer.token_after(token.generation).await;
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
        join_all(lives.into_iter().map(|(odd, life)| Box::pin(lives_for(odd, life))).collect())
            .await;
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

    fn sharing(world: &World, number: usize) -> Arc<Config> {
        let socket = world.directory.path().join(format!("{number}.sock"));
        Arc::new(Config { socket, ..(*world.config).clone() })
    }

    #[tokio::test]
    async fn many_refreshers_of_one_grant_make_one_call() {
        let world = World::logged_in(8).await;
        let mut peers = Vec::new();
        for number in 0..20 {
            peers.push(Peer::start(sharing(&world, number)).await);
        }
        let first = peers[0].token().await;
        let mut tokens = Vec::new();
        for peer in &peers {
            tokens.push(peer.token_after(first.generation).await);
        }
        tokens.dedup();
        assert_eq!(tokens.len(), 1);
        assert_eq!(world.control().summary().refresh_requests, 1);
        world.assert_honest();
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
        assert_eq!(world.stored().token.unwrap().access_token, served.access_token);
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

    fn note(lock: &Lock<'_>, world: &World, at: u64) {
        let fingerprint = world.stored().refresh_token.fingerprint();
        lock.note(&Intent { fingerprint, at }).unwrap();
    }

    #[tokio::test]
    async fn an_exchange_without_an_answer_is_tried_again_soon_or_never() {
        for (ago, reason) in [(5, None), (3600, Some("exchange_unanswered"))] {
            let world = World::logged_in(3600).await;
            let (token, store) = (world.stored().token.unwrap(), world.store());
            let noted_at = token.obtained_at - ago;
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
                    assert_eq!(peer.token().await.access_token, token.access_token);
                    assert_eq!(world.control().summary().refresh_requests, 0);
                    assert_eq!(world.stored().verdict.unwrap().reason, reason);
                }
            }
        }
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

    impl World {
        fn stored_path(&self) -> std::path::PathBuf {
            self.store().path().to_owned()
        }
    }
}
