//! Many refreshers of one grant, as processes of their own, and a lock that is never released.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use filter::bundle::{AccessToken, Credential};
    use refresher::clock::Clock;
    use refresher::serve::exchange::{self, Conclusion, Terms};
    use simulator::{Fault, Mode, Options, Simulator, Target};

    use super::harness::program::{Place, Program};

    const PROCESSES: usize = 50;

    #[tokio::test]
    async fn fifty_processes_of_one_grant_make_one_call() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        let planted = place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        // Slow enough that the others are there before the first is done.
        let slow = Fault { delay_ms: 500, mode: Mode::After, ..Fault::new(Target::Token) };
        simulator.control().set_fault(slow);
        let start = |number: usize| {
            Program::serve(place.command(), place.socket(&format!("{number}.sock")))
        };
        let mut programs: Vec<Program> = (0..PROCESSES).map(start).collect();
        let mut tokens: Vec<AccessToken> = Vec::new();
        for program in &mut programs {
            match program.settle(|state| matches!(state, Credential::Ready(_))).await {
                Some(Credential::Ready(token)) => tokens.extend(token.access_token),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(tokens.len(), PROCESSES);
        tokens.dedup();
        let stored = place.stored().unwrap();
        assert_eq!(tokens, [stored.token.unwrap().access_token]);
        assert_ne!(stored.refresh_token, planted.refresh_token);
        let summary = simulator.control().summary();
        assert_eq!((summary.refresh_requests, summary.spent_twice), (1, 0));
    }

    /// With a limit shorter than the real one.
    #[tokio::test]
    async fn behind_a_lock_that_is_never_released_nobody_goes_ahead() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        let grant = place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        let terms = Terms {
            provider: place.config.provider.clone(),
            clock: Clock::system(),
            patience: Duration::from_millis(300),
        };
        let holder = place.store();
        let hung = holder.lock().await.unwrap();
        let wait = || {
            let run = exchange::run(Arc::new(place.store()), terms.clone(), grant.clone(), false);
            tokio::spawn(run)
        };
        let waiting: Vec<_> = (0..10).map(|_| wait()).collect();
        for one in waiting {
            match one.await.unwrap() {
                Conclusion::Failed { failure, alarm, .. } => {
                    assert_eq!(failure.class, "locked");
                    assert!(!failure.unanswered);
                    assert!(alarm.unwrap().to_string().contains("locked by another process"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(simulator.control().summary().token_requests, 0);
        assert_eq!(place.stored(), Some(grant.clone()));
        drop(hung);
        assert!(matches!(wait().await.unwrap(), Conclusion::Renewed { unsaved: None, .. }));
        assert!(matches!(wait().await.unwrap(), Conclusion::Adopted(_)));
        assert_eq!(simulator.control().summary().refresh_requests, 1);
    }

    /// The limit that the program really has.
    #[test]
    fn the_real_limit_is_within_what_is_promised() {
        assert!(refresher::store::PATIENCE <= Duration::from_secs(25));
    }
}
