//! Clocks, and waiting for what has to come.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the edge: where the wall clock is read")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Time since a start.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "the edge: where time is measured")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long that is ago.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Tries until something is there, at most for `limit`.
pub async fn eventually<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let start = Stopwatch::start();
    loop {
        if let Some(found) = attempt().await {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
