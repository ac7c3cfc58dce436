//! When to call the refresher: the long poll, and the reports of refused tokens.
//!
//! Times are durations since any fixed moment on a clock that does not jump.

use std::time::Duration;

use crate::bundle::Rejection;

/// How long the refresher is asked to hold a poll, in seconds.
pub const POLL_WAIT: u64 = 25;

/// After this, a poll is lost.
pub const POLL_TIMEOUT: Duration = Duration::from_secs(30);

/// After this, a report is lost. A refresh may take the 15 s of one exchange, and a little.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Time between two polls when the first brought nothing new at once, or failed.
const RETRY: Duration = Duration::from_millis(500);

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Ask for the next bundle.
    Poll,
    /// Report a refused token.
    Report(Rejection),
}

/// What came back from a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A newer bundle, which is now in force.
    Newer,
    /// Nothing new.
    Nothing,
    /// The credential needs a login (409).
    LoginRequired,
    /// No answer, or one of no use; seconds until another try makes sense, if it said so.
    Failed {
        /// Seconds.
        retry_after: Option<u64>,
    },
}

/// What is known about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It will be made, or is under way.
    Pending,
    /// It was made and only a login helps.
    LoginRequired,
    /// It was made without success; another will not be made for so many seconds.
    Failed {
        /// Seconds, at least 1.
        retry_after: u64,
    },
}

/// The calls of one worker to one refresher.
#[derive(Debug, Default)]
pub struct Agenda {
    poll: Poll,
    /// One for each credential.
    reports: Vec<Entry>,
}

#[derive(Debug)]
enum Poll {
    Due(Duration),
    Calling {
        since: Duration,
        /// Newer than what the poll asked with is in force since, by way of a report.
        outdated: bool,
    },
}

impl Default for Poll {
    fn default() -> Self {
        Self::Due(Duration::ZERO)
    }
}

#[derive(Debug)]
struct Entry {
    rejection: Rejection,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Wanted,
    Calling,
    Failed { login_required: bool, until: Duration },
}

impl Agenda {
    /// Asks for a report of a refused token, and tells how it stands. However many requests ask,
    /// one call is made for each generation.
    pub fn report(&mut self, rejection: &Rejection, now: Duration) -> Report {
        let Some(entry) = self.entry(rejection) else {
            self.reports.push(Entry { rejection: rejection.clone(), state: State::Wanted });
            return Report::Pending;
        };
        if entry.rejection.generation < rejection.generation {
            *entry = Entry { rejection: rejection.clone(), state: State::Wanted };
        }
        match entry.state {
            State::Failed { login_required: true, until } if now < until => Report::LoginRequired,
            State::Failed { until, .. } if now < until => {
                Report::Failed { retry_after: until.saturating_sub(now).as_secs().max(1) }
            }
            State::Failed { .. } => {
                entry.state = State::Wanted;
                Report::Pending
            }
            State::Wanted | State::Calling => Report::Pending,
        }
    }

    /// The calls to make now; each counts as under way.
    pub fn calls_due(&mut self, now: Duration) -> Vec<Call> {
        let mut calls = Vec::new();
        if matches!(self.poll, Poll::Due(at) if at <= now) {
            self.poll = Poll::Calling { since: now, outdated: false };
            calls.push(Call::Poll);
        }
        for entry in self.reports.iter_mut().filter(|entry| entry.state == State::Wanted) {
            entry.state = State::Calling;
            calls.push(Call::Report(entry.rejection.clone()));
        }
        calls
    }

    /// Takes note of a call's end.
    pub fn answered(&mut self, call: &Call, answer: Answer, now: Duration) {
        match call {
            Call::Poll => self.poll = Poll::Due(self.next_poll(answer, now)),
            Call::Report(rejection) => self.report_answered(rejection, answer, now),
        }
    }

    fn next_poll(&self, answer: Answer, now: Duration) -> Duration {
        let (since, outdated) = match self.poll {
            Poll::Calling { since, outdated } => (since, outdated),
            Poll::Due(_) => (now, false),
        };
        match answer {
            Answer::Newer => now,
            // It brought what a report had brought before. The refresher is to hear at once that it
            // is in force.
            Answer::Nothing if outdated => now,
            // A refresher that holds polls has held this one; one that does not is not hurried.
            Answer::Nothing => now.max(since.saturating_add(RETRY)),
            Answer::LoginRequired | Answer::Failed { .. } => now.saturating_add(RETRY),
        }
    }

    fn report_answered(&mut self, rejection: &Rejection, answer: Answer, now: Duration) {
        let Some(entry) = self.entry(rejection).filter(|entry| entry.rejection == *rejection)
        else {
            return;
        };
        let (login_required, seconds) = match answer {
            Answer::Newer => {
                self.reports.retain(|entry| entry.rejection != *rejection);
                if let Poll::Calling { outdated, .. } = &mut self.poll {
                    *outdated = true;
                }
                return;
            }
            // The bundle that came may be in force already by way of the poll. If it is not, the
            // token is still refused, and asking again at once would not change that.
            Answer::Nothing => (false, 1),
            Answer::LoginRequired => (true, 1),
            Answer::Failed { retry_after } => (false, retry_after.unwrap_or(1).clamp(1, 300)),
        };
        let until = now.saturating_add(Duration::from_secs(seconds));
        entry.state = State::Failed { login_required, until };
    }

    /// Forgets that a call is under way, since nobody is left to hear its answer.
    pub fn abandoned(&mut self, call: &Call, now: Duration) {
        match call {
            Call::Poll => self.poll = Poll::Due(now),
            Call::Report(rejection) => {
                let entry = self.entry(rejection);
                if let Some(entry) = entry.filter(|entry| entry.state == State::Calling) {
                    entry.state = State::Wanted;
                }
            }
        }
    }

    fn entry(&mut self, rejection: &Rejection) -> Option<&mut Entry> {
        self.reports.iter_mut().find(|entry| entry.rejection.credential == rejection.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn rejection(generation: u64) -> Rejection {
        Rejection { credential: "default".to_owned(), generation, status: 401 }
    }

    #[test]
    fn one_poll_at_a_time_and_the_next_at_once_after_news() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.calls_due(at(0)), [Call::Poll]);
        assert_eq!(agenda.calls_due(at(10)), []);
        agenda.answered(&Call::Poll, Answer::Newer, at(20));
        assert_eq!(agenda.calls_due(at(20)), [Call::Poll]);
    }

    #[test]
    fn a_poll_that_was_held_is_repeated_at_once_and_one_that_was_not_is_not() {
        let mut agenda = Agenda::default();
        agenda.calls_due(at(0));
        agenda.answered(&Call::Poll, Answer::Nothing, at(25_000));
        assert_eq!(agenda.calls_due(at(25_000)), [Call::Poll]);
        agenda.answered(&Call::Poll, Answer::Nothing, at(25_001));
        assert_eq!(agenda.calls_due(at(25_499)), []);
        assert_eq!(agenda.calls_due(at(25_500)), [Call::Poll]);
    }

    #[test]
    fn a_poll_that_a_report_has_overtaken_is_repeated_at_once() {
        let mut agenda = Agenda::default();
        agenda.report(&rejection(7), at(0));
        let calls = agenda.calls_due(at(0));
        assert_eq!(calls, [Call::Poll, Call::Report(rejection(7))]);
        agenda.answered(&calls[1], Answer::Newer, at(10));
        agenda.answered(&Call::Poll, Answer::Nothing, at(11));
        assert_eq!(agenda.calls_due(at(11)), [Call::Poll]);
        agenda.answered(&Call::Poll, Answer::Nothing, at(12));
        assert_eq!(agenda.calls_due(at(12)), []);
    }

    #[test]
    fn a_failed_poll_is_retried_after_a_pause() {
        let mut agenda = Agenda::default();
        agenda.calls_due(at(0));
        agenda.answered(&Call::Poll, Answer::Failed { retry_after: None }, at(25_000));
        assert_eq!(agenda.calls_due(at(25_499)), []);
        assert_eq!(agenda.calls_due(at(25_500)), [Call::Poll]);
    }

    #[test]
    fn many_requests_make_one_report() {
        let mut agenda = Agenda::default();
        agenda.calls_due(at(0));
        for _ in 0..3 {
            assert_eq!(agenda.report(&rejection(7), at(1)), Report::Pending);
        }
        assert_eq!(agenda.calls_due(at(1)), [Call::Report(rejection(7))]);
        assert_eq!(agenda.report(&rejection(7), at(2)), Report::Pending);
        assert_eq!(agenda.report(&rejection(6), at(2)), Report::Pending);
        assert_eq!(agenda.calls_due(at(2)), []);
        agenda.answered(&Call::Report(rejection(7)), Answer::Newer, at(3));
        assert_eq!(agenda.report(&rejection(8), at(4)), Report::Pending);
        assert_eq!(agenda.calls_due(at(4)), [Call::Report(rejection(8))]);
    }

    #[test]
    fn a_failed_report_is_not_repeated_before_its_time() {
        let mut agenda = Agenda::default();
        agenda.calls_due(at(0));
        agenda.report(&rejection(7), at(0));
        let calls = agenda.calls_due(at(0));
        agenda.answered(&calls[0], Answer::Failed { retry_after: Some(5) }, at(0));
        assert_eq!(agenda.report(&rejection(7), at(1000)), Report::Failed { retry_after: 4 });
        assert_eq!(agenda.calls_due(at(1000)), []);
        assert_eq!(agenda.report(&rejection(7), at(5000)), Report::Pending);
        assert_eq!(agenda.calls_due(at(5000)), [Call::Report(rejection(7))]);
        agenda.answered(&calls[0], Answer::LoginRequired, at(5000));
        assert_eq!(agenda.report(&rejection(7), at(5500)), Report::LoginRequired);
    }

    #[test]
    fn an_abandoned_call_is_made_again() {
        let mut agenda = Agenda::default();
        agenda.report(&rejection(7), at(0));
        let calls = agenda.calls_due(at(0));
        assert_eq!(calls.len(), 2);
        for call in &calls {
            agenda.abandoned(call, at(9));
        }
        assert_eq!(agenda.calls_due(at(9)), calls);
    }
}
