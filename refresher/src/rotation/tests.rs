use super::*;
use crate::schedule::Life;
use crate::secret::{Fingerprint, Secret};
use proptest::prelude::*;

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

/// What a history is made of.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    WaitUntilDue,
    Reject,
    RejectOlder,
    Login { life_s: u64 },
    Restart,
    Succeed { life_s: u64 },
    Fail { retry_after_s: Option<u64> },
    Lose,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let life = prop_oneof![Just(1_u64), 2_u64..200, 200_u64..30_000];
    prop_oneof![
        1 => (0_u64..4_000_000).prop_map(Step::Wait),
        4 => Just(Step::WaitUntilDue),
        3 => Just(Step::Reject),
        1 => Just(Step::RejectOlder),
        1 => life.clone().prop_map(|life_s| Step::Login { life_s }),
        1 => Just(Step::Restart),
        8 => life.prop_map(|life_s| Step::Succeed { life_s }),
        3 => proptest::option::of(1_u64..300).prop_map(|retry_after_s| Step::Fail { retry_after_s }),
        1 => Just(Step::Lose),
        1 => Just(Step::Kill),
    ]
}

/// A provider, a store and a clock around one machine, and what must hold for every history.
struct World {
    machine: Machine,
    now: u64,
    stored: Option<Facts>,
    generation: u64,
    under_way: Option<Fingerprint>,
    spent: Vec<Fingerprint>,
    dead: Vec<Fingerprint>,
    rejected: bool,
    last_scheduled: Option<u64>,
    failed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(POLICY),
            now: START,
            stored: None,
            generation: 0,
            under_way: None,
            spent: Vec::new(),
            dead: Vec::new(),
            rejected: false,
            last_scheduled: None,
            failed: false,
        }
    }

    fn fresh(&mut self, life_s: u64) -> Facts {
        self.generation += 1;
        facts(self.generation, self.now, life_s)
    }

    fn feed(&mut self, event: Event) {
        let action = self.machine.advance(event, self.now, share());
        if action.is_some() {
            self.begin();
        }
        self.check();
    }

    fn begin(&mut self) {
        assert!(self.under_way.is_none(), "two exchanges at once");
        let held = self.machine.facts.clone().expect("an exchange needs a grant");
        assert!(!self.spent.contains(&held.fingerprint), "a grant spent twice");
        assert!(!self.dead.contains(&held.fingerprint), "a dead grant tried again");
        if !self.rejected && !self.failed {
            if let Some(last) = self.last_scheduled {
                assert!(self.now >= last + POLICY.spacing_ms, "a loop faster than its spacing");
            }
            self.last_scheduled = Some(self.now);
        }
        self.rejected = false;
        self.under_way = Some(held.fingerprint);
    }

    fn check(&self) {
        let token = self.machine.facts.as_ref().and_then(|facts| facts.token);
        if token.is_some_and(|token| self.now < token.life.expires_ms) {
            assert_eq!(self.machine.view(self.now), View::Ready, "a valid token withdrawn");
        }
        assert_eq!(self.machine.is_exchanging(), self.under_way.is_some());
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Wait(ms) => self.now += ms,
            Step::WaitUntilDue => {
                self.now = self.machine.wake_ms(self.now).unwrap_or(self.now).max(self.now);
            }
            Step::Reject | Step::RejectOlder => {
                let older = u64::from(matches!(step, Step::RejectOlder));
                let generation = self.generation.saturating_sub(older);
                // It may lie in wait for the token's first second to pass.
                self.rejected = true;
                self.feed(Event::Rejected { generation });
                return;
            }
            Step::Login { life_s } if self.under_way.is_none() => {
                let fresh = self.fresh(life_s);
                self.stored = Some(fresh.clone());
                self.failed = false;
                self.last_scheduled = None;
                self.feed(Event::Stored(Some(fresh)));
                return;
            }
            Step::Restart if self.under_way.is_none() => {
                self.machine = Machine::new(POLICY);
                // A new process's first exchange is not held back.
                self.last_scheduled = None;
                self.failed = false;
                self.feed(Event::Stored(self.stored.clone()));
                return;
            }
            Step::Succeed { .. } | Step::Fail { .. } | Step::Lose | Step::Kill => {
                return self.end(step);
            }
            Step::Login { .. } | Step::Restart => {}
        }
        self.feed(Event::Tick);
    }

    fn end(&mut self, step: Step) {
        let Some(fingerprint) = self.under_way.take() else { return };
        let outcome = match step {
            Step::Succeed { life_s } => {
                self.spent.push(fingerprint);
                let fresh = self.fresh(life_s);
                self.stored = Some(fresh.clone());
                self.failed = false;
                Outcome::Renewed(fresh)
            }
            Step::Fail { retry_after_s } => {
                self.failed = true;
                Outcome::Failed(Failure { retry_after_s, ..failure("http_503") })
            }
            Step::Lose => {
                self.failed = true;
                Outcome::Failed(Failure { unanswered: true, ..failure("timeout") })
            }
            _ => {
                self.dead.push(fingerprint);
                let reason = "invalid_grant".to_owned();
                if let Some(stored) = &mut self.stored {
                    stored.verdict = Some(reason.clone());
                }
                Outcome::Terminal { reason }
            }
        };
        self.feed(Event::Exchanged(outcome));
    }
}

proptest! {
    #[test]
    fn no_history_breaks_the_invariants(steps in proptest::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
    }

    #[test]
    fn no_failure_is_retried_outside_its_bounds(failures in 1_u32..60, share: u32, asked in proptest::option::of(0_u64..u64::MAX)) {
        let mut machine = ready();
        let mut now = START + 10_800_000;
        machine.advance(Event::Tick, now, Share::of(share));
        for _ in 0..failures {
            let failed = Failure { retry_after_s: asked, ..failure("http_500") };
            machine.advance(Event::Exchanged(Outcome::Failed(failed)), now, Share::of(share));
            let Phase::Waiting { due_ms: Some(due), .. } = machine.phase else {
                panic!("waits for the next try");
            };
            prop_assert!(due >= now + MIN_BACKOFF_MS);
            prop_assert!(due <= now + MAX_BACKOFF_MS);
            now = due;
            prop_assert!(machine.advance(Event::Tick, now, Share::of(share)).is_some());
        }
    }

    #[test]
    fn failures_leave_a_try_for_the_last_seconds_of_a_token(life_s in 1_u64..100_000, share: u32) {
        let mut machine = Machine::new(POLICY);
        let facts = facts(1, START, life_s);
        let expires = START + life_s * 1000;
        machine.advance(Event::Stored(Some(facts)), START, Share::of(share));
        let (mut now, mut last) = (machine.wake_ms(START).unwrap(), START);
        while now < expires {
            if machine.advance(Event::Tick, now, Share::of(share)).is_some() {
                machine.advance(Event::Exchanged(Outcome::Failed(failure("storage"))), now, Share::of(share));
                last = now;
            }
            now = machine.due_ms().unwrap();
        }
        prop_assert!(expires - last <= 1_000, "the last try was {} ms before the end", expires - last);
    }
}
