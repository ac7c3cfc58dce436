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

/// Time since the Unix epoch, on the wall clock, which all workers share.
#[expect(clippy::disallowed_methods, reason = "the edge: where the wall clock is read")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix seconds.
pub fn unix() -> u64 {
    unix_time().as_secs()
}

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX)
}
