//! Whether a request that failed is sent again within the same exchange.

use crate::clock::Share;
use crate::http::{DEADLINE, Error};
use crate::oauth::answer::Response;

/// The most requests of one exchange.
pub const MAX_TRIES: u32 = 3;

/// The range of the first pause, in milliseconds; the second has twice that.
const RANGE_MS: u64 = 400;

/// The shortest pause, in milliseconds.
const LEAST_MS: u64 = 100;

/// The least that must be left of the deadline for a further try, in milliseconds.
const WORTHWHILE_MS: u64 = 2_000;

/// What went wrong with a request, as far as it matters for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection never opened.
    NotSent,
    /// The connection ended before the answer did.
    Lost,
    /// Status 500 to 599, without a wait being asked for.
    ServerError,
    /// Nothing, or nothing that another try would better.
    Settled,
}

impl Trouble {
    /// What became of a request.
    pub fn of(result: &Result<Response, Error>) -> Self {
        match result {
            Ok(answer) => Self::of_status(answer.status, answer.retry_after.is_some()),
            Err(Error::NotSent(_)) => Self::NotSent,
            // A timeout has used up the time of the exchange.
            Err(Error::Unanswered(error)) if !error.is_timeout() => Self::Lost,
            Err(_) => Self::Settled,
        }
    }

    fn of_status(status: u16, asks_to_wait: bool) -> Self {
        if (500..600).contains(&status) && !asks_to_wait {
            Self::ServerError
        } else {
            Self::Settled
        }
    }
}

/// How long to wait before the next try, in milliseconds, if there is to be one: after `tries`
/// requests, the last with this trouble, and `spent_ms` of the deadline. The pauses are spread by
/// `share`, so that many that failed together do not come back together.
pub fn pause(tries: u32, spent_ms: u64, trouble: Trouble, share: Share) -> Option<u64> {
    if trouble == Trouble::Settled || tries >= MAX_TRIES {
        return None;
    }
    let range = RANGE_MS << tries.saturating_sub(1).min(8);
    let pause = LEAST_MS + share.times(range);
    let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
    let in_time = spent_ms.saturating_add(pause).saturating_add(WORTHWHILE_MS) <= deadline_ms;
    in_time.then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_soon_is_tried_again_and_three_times_at_most() {
        use Trouble::{Lost, NotSent, ServerError, Settled};
        let half = Share::of(1 << 31);
        for (tries, spent_ms, trouble, expected) in [
            (1, 0, NotSent, Some(300)),
            (1, 0, Lost, Some(300)),
            (1, 0, ServerError, Some(300)),
            (2, 0, NotSent, Some(500)),
            (3, 0, NotSent, None),
            (4, 0, Lost, None),
            (1, 0, Settled, None),
            (1, 12_700, ServerError, Some(300)),
            (1, 12_701, ServerError, None),
            (2, 15_000, Lost, None),
            (1, u64::MAX, Lost, None),
        ] {
            let case = (tries, spent_ms, trouble);
            assert_eq!(pause(tries, spent_ms, trouble, half), expected, "{case:?}");
        }
        assert_eq!(pause(1, 0, Lost, Share::of(0)), Some(LEAST_MS));
    }

    #[test]
    fn an_answer_settles_it_unless_the_server_is_at_fault_and_names_no_wait() {
        for (status, asks_to_wait, expected) in [
            (200, false, Trouble::Settled),
            (302, false, Trouble::Settled),
            (400, false, Trouble::Settled),
            (403, false, Trouble::Settled),
            (429, false, Trouble::Settled),
            (499, false, Trouble::Settled),
            (500, false, Trouble::ServerError),
            (503, false, Trouble::ServerError),
            (503, true, Trouble::Settled),
            (599, false, Trouble::ServerError),
            (600, false, Trouble::Settled),
        ] {
            assert_eq!(Trouble::of_status(status, asks_to_wait), expected, "{status}");
        }
    }
}
