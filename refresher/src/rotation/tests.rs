mod histories;

use super::*;
use crate::schedule::Life;
use crate::secret::{Fingerprint, Secret};

const POLICY: Policy = Policy { window_s: None, spacing_ms: 60_000 };
const HALF: u32 = 1 << 31;
const START: u64 = 1 << 40;

fn share() -> Share {
    Share::of(HALF)
}

/// A grant whose refresh token is named by its generation.
fn facts(generation: u64, obtained_ms: u64, life_s: u64) -> Facts {
    let life = Life { obtained_ms, expires_ms: obtained_ms + life_s * 1000 };
    Facts {
        generation,
        fingerprint: Secret::new(format!("rt-{generation}")).fingerprint(),
        token: Some(Token { generation, life }),
        verdict: None,
        unanswered: false,
    }
}

fn failure(class: &str) -> Failure {
    Failure { class: class.to_owned(), retry_after_s: None, unanswered: false }
}

/// A machine with a token of six hours that was obtained at `START`.
fn ready() -> Machine {
    let mut machine = Machine::new(POLICY);
    assert_eq!(machine.advance(Event::Stored(Some(facts(1, START, 21_600))), START, share()), None);
    machine
}

fn is_exchange(action: Option<Action>) -> bool {
    action == Some(Action::Exchange)
}

#[test]
fn without_a_grant_there_is_nothing_to_do() {
    let mut machine = Machine::new(POLICY);
    assert_eq!(machine.advance(Event::Stored(None), START, share()), None);
    assert_eq!(machine.wake_ms(START), None);
    let reason = "never_logged_in".to_owned();
    assert_eq!(machine.view(START), View::LoginRequired { reason });
    assert_eq!(machine.settle(1, START), Settlement::LoginRequired);
}

#[test]
fn a_token_is_refreshed_at_half_of_its_life_and_the_next_one_again() {
    let mut machine = ready();
    let half = START + 10_800_000;
    assert_eq!(machine.wake_ms(START), Some(half));
    assert_eq!(machine.advance(Event::Tick, half - 1, share()), None);
    assert!(is_exchange(machine.advance(Event::Tick, half, share())));
    assert_eq!(machine.view(half), View::Ready);
    // Once only, whatever happens meanwhile.
    assert_eq!(machine.advance(Event::Tick, half + 1, share()), None);
    assert_eq!(machine.advance(Event::Rejected { generation: 1 }, half + 2, share()), None);
    assert_eq!(machine.settle(1, half + 2), Settlement::Pending);
    let next = Outcome::Renewed(facts(2, half + 10, 21_600));
    assert_eq!(machine.advance(Event::Exchanged(next), half + 10, share()), None);
    assert_eq!(machine.settle(1, half + 10), Settlement::Replaced);
    assert_eq!(machine.wake_ms(START), Some(half + 10 + 10_800_000));
}

#[test]
fn a_doubtful_token_serves_on_and_is_replaced_as_soon_as_the_spacing_allows() {
    let mut machine = ready();
    assert!(is_exchange(machine.advance(Event::Doubted, START + 5, share())));
    assert_eq!(machine.view(START + 5), View::Ready);
    let next = Outcome::Renewed(facts(2, START + 10, 21_600));
    assert_eq!(machine.advance(Event::Exchanged(next), START + 10, share()), None);
    assert_eq!(machine.advance(Event::Doubted, START + 20, share()), None);
    assert_eq!(machine.wake_ms(START + 20), Some(START + 5 + POLICY.spacing_ms));
    // A doubt never puts off what is due, and does not revive what is dead or shorten a backoff.
    let mut machine = ready();
    machine.advance(Event::Tick, START + 10_800_000, share());
    let failed = Outcome::Failed(Failure { retry_after_s: Some(40), ..failure("http_503") });
    machine.advance(Event::Exchanged(failed), START + 10_800_010, share());
    let due = machine.wake_ms(START + 10_800_010);
    assert_eq!(machine.advance(Event::Doubted, START + 10_800_020, share()), None);
    assert_eq!(machine.wake_ms(START + 10_800_020), due);
}

#[test]
fn an_expired_token_of_a_restart_is_refreshed_at_once() {
    let mut machine = Machine::new(POLICY);
    let stored = Event::Stored(Some(facts(1, START - 30_000_000, 21_600)));
    assert!(is_exchange(machine.advance(stored, START, share())));
    let retry_ms = START + 1000;
    let reason = "token_expired".to_owned();
    assert_eq!(machine.view(START), View::Unavailable { reason, retry_ms });
}

#[test]
fn a_life_shorter_than_the_spacing_makes_no_loop() {
    let mut machine = Machine::new(POLICY);
    machine.advance(Event::Stored(Some(facts(1, START, 1))), START, share());
    let mut exchanges = 0;
    for second in 0..600 {
        let now = START + second * 1000;
        if is_exchange(machine.advance(Event::Tick, now, share())) {
            exchanges += 1;
            let next = Outcome::Renewed(facts(1 + second, now, 1));
            assert_eq!(machine.advance(Event::Exchanged(next), now, share()), None);
        }
    }
    assert_eq!(exchanges, 10);
}

#[test]
fn a_rejection_refreshes_at_once_but_not_a_young_token() {
    let mut machine = ready();
    assert_eq!(machine.advance(Event::Rejected { generation: 1 }, START + 300, share()), None);
    assert_eq!(machine.settle(1, START + 300), Settlement::Pending);
    assert_eq!(machine.wake_ms(START), Some(START + YOUNG_MS));
    assert!(is_exchange(machine.advance(Event::Tick, START + YOUNG_MS, share())));

    let mut machine = ready();
    let late = START + 5_000;
    assert!(is_exchange(machine.advance(Event::Rejected { generation: 1 }, late, share())));
}

#[test]
fn a_rejection_of_an_older_token_is_settled_already() {
    let mut machine = Machine::new(POLICY);
    machine.advance(Event::Stored(Some(facts(7, START, 21_600))), START, share());
    assert_eq!(machine.advance(Event::Rejected { generation: 6 }, START + 5_000, share()), None);
    assert_eq!(machine.settle(6, START + 5_000), Settlement::Replaced);
    assert!(!machine.is_exchanging());
}

#[test]
fn five_rejections_a_minute_cause_refreshes_and_no_more() {
    let mut machine = ready();
    let mut now = START + 2_000;
    for generation in 1..=5 {
        assert!(is_exchange(machine.advance(Event::Rejected { generation }, now, share())));
        let next = Outcome::Renewed(facts(generation + 1, now, 21_600));
        machine.advance(Event::Exchanged(next), now, share());
        now += 2_000;
    }
    assert_eq!(machine.advance(Event::Rejected { generation: 6 }, now, share()), None);
    assert_eq!(machine.settle(6, now), Settlement::Unavailable { retry_after_s: 50 });
    now = START + 2_000 + REJECTIONS_MS;
    assert!(is_exchange(machine.advance(Event::Rejected { generation: 6 }, now, share())));
}

#[test]
fn a_failed_refresh_keeps_the_token_and_backs_off() {
    let mut machine = ready();
    let mut now = START + 10_800_000;
    let mut pauses = Vec::new();
    assert!(is_exchange(machine.advance(Event::Tick, now, share())));
    for _ in 0..12 {
        machine.advance(Event::Exchanged(Outcome::Failed(failure("http_503"))), now, share());
        assert_eq!(machine.view(now), View::Ready);
        let due = machine.wake_ms(START).unwrap();
        assert!(matches!(machine.settle(1, now), Settlement::Unavailable { .. }));
        pauses.push((due - now) / 1000);
        now = due;
        assert!(is_exchange(machine.advance(Event::Tick, now, share())));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150, 150]);
}

#[test]
fn retry_after_is_the_least_that_is_waited() {
    let mut machine = ready();
    let now = START + 10_800_000;
    machine.advance(Event::Tick, now, share());
    let asked = Failure { retry_after_s: Some(120), ..failure("http_429") };
    machine.advance(Event::Exchanged(Outcome::Failed(asked)), now, share());
    assert_eq!(machine.wake_ms(START), Some(now + 120_000));
    assert_eq!(machine.settle(1, now), Settlement::Unavailable { retry_after_s: 120 });
}

#[test]
fn an_unanswered_exchange_is_tried_again_within_its_time() {
    let mut machine = ready();
    let mut now = START + 10_800_000;
    machine.advance(Event::Tick, now, share());
    for _ in 0..12 {
        let lost = Failure { unanswered: true, ..failure("timeout") };
        let most = Share::of(u32::MAX);
        machine.advance(Event::Exchanged(Outcome::Failed(lost)), now, most);
        let due = machine.wake_ms(START).unwrap();
        assert!(due - now <= UNANSWERED_MS / 2);
        now = due;
        assert!(is_exchange(machine.advance(Event::Tick, now, share())));
    }
    // After a restart it is the first thing to be done.
    let mut machine = Machine::new(POLICY);
    let stored = Facts { unanswered: true, ..facts(1, START, 21_600) };
    assert!(is_exchange(machine.advance(Event::Stored(Some(stored)), START, share())));
}

#[test]
fn a_dead_grant_stays_dead_until_a_login_while_its_token_serves_to_the_end() {
    let mut machine = ready();
    let now = START + 10_800_000;
    machine.advance(Event::Tick, now, share());
    let reason = "invalid_grant".to_owned();
    let terminal = Outcome::Terminal { reason: reason.clone() };
    assert_eq!(machine.advance(Event::Exchanged(terminal), now, share()), None);
    assert_eq!(machine.view(now), View::Ready);
    assert_eq!(machine.settle(1, now), Settlement::LoginRequired);
    let end = START + 21_600_000;
    assert_eq!(machine.wake_ms(START), Some(end));
    for event in [Event::Tick, Event::Rejected { generation: 1 }] {
        assert_eq!(machine.advance(event, end, share()), None);
    }
    assert_eq!(machine.view(end), View::LoginRequired { reason: reason.clone() });
    // A restart finds the verdict in the store.
    let mut restarted = Machine::new(POLICY);
    let stored = Facts { verdict: Some(reason), ..facts(1, START, 21_600) };
    assert_eq!(restarted.advance(Event::Stored(Some(stored)), end, share()), None);
    assert!(matches!(restarted.view(end), View::LoginRequired { .. }));
    // A login ends it.
    assert_eq!(machine.advance(Event::Stored(Some(facts(2, end, 21_600))), end, share()), None);
    assert_eq!(machine.view(end), View::Ready);
}

#[test]
fn an_older_grant_in_the_store_changes_nothing() {
    let mut machine = Machine::new(POLICY);
    machine.advance(Event::Stored(Some(facts(5, START, 21_600))), START, share());
    machine.advance(Event::Stored(Some(facts(4, START, 1))), START, share());
    assert_eq!(machine.settle(4, START), Settlement::Replaced);
    machine.advance(Event::Stored(None), START, share());
    assert!(matches!(machine.view(START), View::LoginRequired { .. }));
}

#[test]
fn a_login_during_an_exchange_wins_over_its_result() {
    let mut machine = ready();
    let now = START + 10_800_000;
    machine.advance(Event::Tick, now, share());
    assert_eq!(machine.advance(Event::Stored(Some(facts(9, now, 600))), now, share()), None);
    machine.advance(Event::Exchanged(Outcome::Renewed(facts(8, now, 21_600))), now, share());
    assert_eq!(machine.settle(8, now), Settlement::Replaced);
    assert_eq!(machine.wake_ms(START), Some(now + 300_000));
}
