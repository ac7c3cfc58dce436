use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::ORIGIN_MS;
use crate::config::{Overrides, resolve};
use crate::secret::Secret;
use crate::store::{TokenRecord, Verdict};

const START: Now = Now { unix_ms: 1_779_000_000_000, boot_ms: ORIGIN_MS + 5_000_000 };
const HOUR_MS: i64 = 3_600_000;
const LIFE_S: u64 = 6 * 3600;

/// A keeper, a provider, and clocks that stand still until they are moved.
struct Scene {
    keeper: Keeper,
    now: Arc<Mutex<Now>>,
    simulator: simulator::Simulator,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// The token is an hour old.
    async fn new() -> Self {
        let simulator = simulator::Simulator::start(simulator::Options::default()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let url = simulator.url();
        let document = format!(
            "provider = \"demo\"\n[providers.demo]\nissuer = \"{url}\"\nupstream = \"{url}\"\n"
        );
        let state_dir = Some(directory.path().join("state"));
        let flags = Overrides { state_dir, ..Overrides::default() };
        let config = resolve(&document, &flags, &|_| None).unwrap();
        let issued = simulator.control().issue_grant();
        let text = |field: &str| issued[field].as_str().unwrap().to_owned();
        let mut grant = Grant::new(
            Some(url.to_owned()),
            format!("{url}/oauth2/token").parse().unwrap(),
            config.provider.client_id.clone(),
            Secret::new(text("refresh_token")),
            7,
        );
        grant.token = Some(TokenRecord {
            access_token: text("access_token").parse().unwrap(),
            obtained_at: START.unix() - 3600,
            expires_at: START.unix() - 3600 + LIFE_S,
            generation: 7,
        });
        let store = Store::open(&config, "default").unwrap();
        store.lock().await.unwrap().save(&grant).unwrap();
        let publisher = Publisher::new(config.state_dir.join("generation"), None);
        let now = Arc::new(Mutex::new(START));
        let shown = now.clone();
        let clock = Clock::of(move || *shown.lock().unwrap());
        let mut keeper = Keeper::new("default", store, &config, publisher, clock);
        keeper.load(START);
        Self { keeper, now, simulator, _directory: directory }
    }

    fn now(&self) -> Now {
        *self.now.lock().unwrap()
    }

    /// Moves the clocks, and lets the keeper look as it does each second.
    fn pass(&mut self, wall_ms: i64, boot_ms: u64) {
        let mut now = self.now();
        now.unix_ms = now.unix_ms.checked_add_signed(wall_ms).unwrap();
        now.boot_ms += boot_ms;
        *self.now.lock().unwrap() = now;
        self.keeper.look(now);
    }

    /// Ends the exchange that is under way.
    async fn finish(&mut self) {
        let conclusion = ended(&mut self.keeper.exchange).await;
        self.keeper.exchange = None;
        self.keeper.conclude(conclusion, self.now());
    }

    /// What is published: the generation, and how many seconds are left on the wall clock.
    fn ready(&self) -> Option<(u64, i64)> {
        match self.keeper.published.as_ref()? {
            Credential::Ready(token) => {
                let left = token.expires_at.cast_signed() - self.now().unix().cast_signed();
                Some((token.generation, left))
            }
            _ => None,
        }
    }

    fn asked(&self) -> u64 {
        self.simulator.control().summary().refresh_requests
    }

    /// Seconds until the first token really expires.
    fn really_left(&self) -> i64 {
        let passed_s = (self.now().boot_ms - START.boot_ms) / 1000;
        (LIFE_S - 3600).cast_signed() - passed_s.cast_signed()
    }
}

#[tokio::test]
async fn a_jump_ahead_drops_no_token_and_replaces_one_whose_age_is_doubtful() {
    let mut scene = Scene::new().await;
    assert_eq!(scene.ready(), Some((7, scene.really_left())));
    scene.pass(9 * HOUR_MS, 1_000);
    let (generation, left) = scene.ready().expect("still served");
    assert_eq!(generation, 7);
    assert!(left.abs_diff(scene.really_left()) <= 1, "{left}");
    assert!(scene.keeper.exchange.is_some());
    scene.finish().await;
    let (generation, left) = scene.ready().unwrap();
    assert!(generation > 7);
    assert!(left.abs_diff(LIFE_S.cast_signed()) <= 1, "{left}");
    // The new one's age is beyond doubt: neither direction matters to it.
    for jump in [9, -30, 21] {
        scene.pass(jump * HOUR_MS, 1_000);
        let (now, left) = scene.ready().unwrap();
        assert_eq!(now, generation);
        assert!(left.abs_diff(LIFE_S.cast_signed()) <= 10, "{jump}: {left}");
        assert!(scene.keeper.exchange.is_none());
    }
    assert_eq!(scene.asked(), 1);
}

#[tokio::test]
async fn a_jump_back_extends_no_token() {
    let mut scene = Scene::new().await;
    scene.pass(-9 * HOUR_MS, 1_000);
    let (_, left) = scene.ready().unwrap();
    assert!(left.abs_diff(scene.really_left()) <= 1, "{left}");
    // At its true end it goes, whatever the wall clock says.
    scene.simulator.control().set_fault(simulator::Fault {
        status: Some(403),
        ..simulator::Fault::new(simulator::Target::Token)
    });
    scene.pass(4 * HOUR_MS, 4 * HOUR_MS.unsigned_abs());
    assert!(scene.ready().is_some());
    scene.finish().await;
    assert!(scene.ready().is_some());
    scene.pass(HOUR_MS, HOUR_MS.unsigned_abs());
    assert_eq!(scene.ready(), None);
}

#[tokio::test]
async fn a_stored_grant_that_is_read_again_after_a_jump_keeps_its_life() {
    let mut scene = Scene::new().await;
    scene.pass(-9 * HOUR_MS, 1_000);
    let path = scene.keeper.store.path().to_owned();
    let content = std::fs::read(&path).unwrap();
    std::fs::write(&path, content).unwrap();
    scene.pass(0, 1_000);
    let (_, left) = scene.ready().unwrap();
    assert!(left.abs_diff(scene.really_left()) <= 1, "{left}");
    assert_eq!(scene.asked(), 0);
}

#[tokio::test]
async fn a_machine_that_slept_refreshes_at_its_first_look() {
    // Past the middle of the token's life, and past its end.
    for hours in [3, 8] {
        let mut scene = Scene::new().await;
        // No look while it slept. The clock of the keeper's own pause rests meanwhile.
        assert!(scene.keeper.pause(scene.now()) <= Duration::from_secs(2));
        scene.pass(hours * HOUR_MS, (hours * HOUR_MS).unsigned_abs());
        assert_eq!(scene.ready().is_some(), hours == 3);
        assert!(scene.keeper.exchange.is_some());
        scene.finish().await;
        let (generation, left) = scene.ready().unwrap();
        assert!(generation > 7);
        assert!(left.abs_diff(LIFE_S.cast_signed()) <= 1, "{left}");
        assert_eq!(scene.asked(), 1);
    }
}

impl Scene {
    /// What the health tells of the last refresh.
    fn told(&self) -> Refreshes {
        self.keeper.publisher.statuses()["default"].oauth_refresh.clone()
    }
}

#[tokio::test]
async fn a_grant_found_in_an_exchange_ends_the_talk_of_an_old_failure_unless_it_is_dead() {
    let verdict = || Verdict { reason: "invalid_grant".to_owned(), at: START.unix() };
    for dead in [None, Some(verdict())] {
        let mut scene = Scene::new().await;
        scene.simulator.control().set_fault(simulator::Fault {
            status: Some(403),
            count: Some(1),
            ..simulator::Fault::new(simulator::Target::Token)
        });
        scene.pass(3 * HOUR_MS, 3 * HOUR_MS.unsigned_abs());
        scene.finish().await;
        let failed = scene.told();
        assert_eq!(failed.last_refresh_error_class.as_deref(), Some("http_403"));
        // Another process holds the lock while it logs in, or finds that the grant is dead.
        let store = scene.keeper.store.clone();
        let lock = store.lock().await.unwrap();
        scene.pass(HOUR_MS, HOUR_MS.unsigned_abs());
        assert!(scene.keeper.exchange.is_some());
        let mut newer = store.load(START.unix()).unwrap().unwrap();
        newer.generation += 1;
        newer.verdict.clone_from(&dead);
        lock.save(&newer).unwrap();
        drop(lock);
        scene.finish().await;
        assert_eq!(scene.keeper.grant.as_ref(), Some(&newer));
        assert_eq!(scene.asked(), 1);
        let told = scene.told();
        assert_eq!(told.refresh_failure_count, 1);
        if dead.is_some() {
            assert_eq!(told, failed);
        } else {
            assert_eq!((told.last_refresh_status, told.last_refresh_error_class), (None, None));
        }
    }
}
