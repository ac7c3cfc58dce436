//! The clocks: the only place of the filter that reads them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

thread_local! {
    #[expect(clippy::disallowed_methods, reason = "the edge: where the monotonic clock is read")]
    static START: Instant = Instant::now();
}

/// Time since the VM's start, on a clock that does not jump.
pub fn monotonic() -> Duration {
    START.with(Instant::elapsed)
}

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the edge: where the wall clock is read")]
pub fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
