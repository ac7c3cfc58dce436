//! Histories of events, and failures at any time: what holds in all of them.

use proptest::prelude::*;

use super::*;

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
