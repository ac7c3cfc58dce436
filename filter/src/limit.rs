//! Limits of a client, shared by all workers of one Envoy: requests a minute, and requests at the
//! same time.
//!
//! Each limit is a small cell of bytes that workers exchange by compare and swap; here is what such
//! a cell means. Times are on the wall clock, the only one that all workers share, so a jump of
//! the clock must neither lock a client out nor let it loose: what a cell says is clamped to what
//! it could have come to by itself.

/// What becomes of a request under a limit of requests a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whether it may go on.
    pub admitted: bool,
    /// What is left of the limit.
    pub quota: Quota,
    /// Nanoseconds until a request would be admitted again; 0 when this one is.
    pub retry_after_ns: u64,
}

/// A client's requests, as OpenAI clients read them from `x-ratelimit-*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests a minute.
    pub limit: u32,
    /// Requests that could be made now.
    pub remaining: u32,
    /// Milliseconds until all of the limit is there again.
    pub reset_ms: u64,
}

const MINUTE_NS: u64 = 60_000_000_000;

/// The generic cell rate algorithm: a cell holds the time at which the client would be back to a
/// full minute's requests. Each request moves it on by a minute divided by the limit, and none may
/// move it beyond a minute from now. So the whole limit can be used at once, and comes back evenly.
///
/// Returns the outcome and, when that changes it, the cell's new content.
pub fn admit(cell: Option<&[u8]>, per_minute: u32, now_ns: u64) -> (Rate, Option<[u8; 8]>) {
    let per_minute = per_minute.max(1);
    let interval = (MINUTE_NS / u64::from(per_minute)).max(1);
    let full = interval.saturating_mul(u64::from(per_minute));
    let stored = cell.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    // Beyond a minute from now only a clock that has been set back can have put it.
    let free_at = stored.clamp(now_ns, now_ns.saturating_add(full));
    let next = free_at.saturating_add(interval);
    let used_after = next.saturating_sub(now_ns);
    let admitted = used_after <= full;
    let used = if admitted { used_after } else { free_at.saturating_sub(now_ns) };
    let remaining = full.saturating_sub(used) / interval;
    let quota = Quota {
        limit: per_minute,
        remaining: u32::try_from(remaining).unwrap_or(per_minute),
        reset_ms: used.div_ceil(1_000_000),
    };
    let retry_after_ns = if admitted { 0 } else { used_after - full };
    let new = match admitted {
        true => Some(next),
        false => (free_at < stored).then_some(free_at),
    };
    (Rate { admitted, quota, retry_after_ns }, new.map(u64::to_le_bytes))
}

/// After this without a sign of life, a VM's requests are not counted any more: it has trapped, and
/// its requests have ended with it. Milliseconds.
pub const VM_LOST_MS: u64 = 5000;

/// How often a VM with requests under a limit gives a sign of life. Milliseconds.
pub const SIGN_MS: u64 = 1000;

/// The requests at the same time of one client: how many each VM has, and when it last said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concurrent(Vec<Share>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    vm: u64,
    count: u32,
    seen_ms: u64,
}

const SHARE_BYTES: usize = 20;

impl Concurrent {
    /// Reads a cell; what is not one counts nothing.
    pub fn read(cell: &[u8]) -> Self {
        let (shares, _) = cell.as_chunks::<SHARE_BYTES>();
        let share = |bytes: &[u8; SHARE_BYTES]| {
            let (vm, rest) = bytes.split_first_chunk::<8>()?;
            let (count, rest) = rest.split_first_chunk::<4>()?;
            let seen_ms = rest.first_chunk::<8>()?;
            Some(Share {
                vm: u64::from_le_bytes(*vm),
                count: u32::from_le_bytes(*count),
                seen_ms: u64::from_le_bytes(*seen_ms),
            })
        };
        Self(shares.iter().filter_map(share).collect())
    }

    /// The cell's content.
    pub fn write(&self) -> Vec<u8> {
        let mut cell = Vec::with_capacity(self.0.len() * SHARE_BYTES);
        for share in &self.0 {
            cell.extend_from_slice(&share.vm.to_le_bytes());
            cell.extend_from_slice(&share.count.to_le_bytes());
            cell.extend_from_slice(&share.seen_ms.to_le_bytes());
        }
        cell
    }

    /// Notes how many requests this VM has now, and forgets the VMs that are lost.
    pub fn report(&mut self, vm: u64, count: u32, now_ms: u64) {
        self.0.retain(|share| share.vm != vm && now_ms.abs_diff(share.seen_ms) < VM_LOST_MS);
        if count > 0 {
            self.0.push(Share { vm, count, seen_ms: now_ms });
        }
    }

    /// The requests of all VMs together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|share| u64::from(share.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SECOND_NS: u64 = 1_000_000_000;

    /// A client that is asked for by requests at these times; tells which were admitted.
    fn admissions(per_minute: u32, times: impl IntoIterator<Item = u64>) -> Vec<bool> {
        let mut cell = None;
        let request = |now| {
            let (rate, new) = admit(cell.as_ref().map(<[u8; 8]>::as_slice), per_minute, now);
            cell = new.or(cell);
            rate.admitted
        };
        times.into_iter().map(request).collect()
    }

    #[test]
    fn a_minutes_requests_can_be_made_at_once_and_come_back_one_by_one() {
        let start = 1000 * SECOND_NS;
        let at_once = admissions(60, std::iter::repeat_n(start, 61));
        assert_eq!(at_once.iter().filter(|admitted| **admitted).count(), 60);
        assert_eq!(at_once.last(), Some(&false));
        let later = (0..60).map(|_| start).chain([start + SECOND_NS - 1, start + SECOND_NS]);
        let later = admissions(60, later);
        assert_eq!(&later[60..], [false, true]);
    }

    #[test]
    fn what_is_left_and_when_is_said() {
        let (rate, cell) = admit(None, 2, SECOND_NS);
        assert_eq!(rate.quota, Quota { limit: 2, remaining: 1, reset_ms: 30_000 });
        let (rate, cell) = admit(cell.as_ref().map(<[u8; 8]>::as_slice), 2, SECOND_NS);
        assert_eq!(rate.quota, Quota { limit: 2, remaining: 0, reset_ms: 60_000 });
        let (rate, none) = admit(cell.as_ref().map(<[u8; 8]>::as_slice), 2, 11 * SECOND_NS);
        assert_eq!((rate.admitted, none), (false, None));
        assert_eq!(rate.quota, Quota { limit: 2, remaining: 0, reset_ms: 50_000 });
        assert_eq!(rate.retry_after_ns, 20 * SECOND_NS);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_long() {
        let hour = 3600 * SECOND_NS;
        let times = [hour, hour, SECOND_NS, SECOND_NS + 31 * SECOND_NS];
        assert_eq!(admissions(2, times), [true, true, false, true]);
    }

    #[test]
    fn a_vm_counts_until_it_reports_none_or_is_lost() {
        let mut concurrent = Concurrent::default();
        concurrent.report(1, 3, 1000);
        concurrent.report(2, 2, 1000);
        concurrent.report(1, 4, 2000);
        let mut concurrent = Concurrent::read(&concurrent.write());
        assert_eq!(concurrent.total(), 6);
        concurrent.report(1, 4, 1000 + VM_LOST_MS);
        assert_eq!(concurrent.total(), 4);
        concurrent.report(1, 0, 1000 + VM_LOST_MS);
        assert!(concurrent.write().is_empty());
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_limit_and_what_came_back(
            per_minute in 1_u32..50,
            steps in proptest::collection::vec(0..5 * SECOND_NS, 1..300),
        ) {
            let times: Vec<u64> = steps.iter().scan(7 * MINUTE_NS, |now, step| {
                *now += step;
                Some(*now)
            }).collect();
            let admitted = admissions(per_minute, times.iter().copied());
            let interval = MINUTE_NS / u64::from(per_minute);
            for from in 0..times.len() {
                let mut count = 0;
                for to in from..times.len() {
                    count += u64::from(admitted[to]);
                    let back = (times[to] - times[from]) / interval;
                    prop_assert!(count <= u64::from(per_minute) + back + 1);
                }
            }
        }

        #[test]
        fn no_cell_panics(cell in proptest::collection::vec(any::<u8>(), 0..64), limit: u32, now: u64) {
            let _ = admit(Some(&cell), limit, now);
            let mut concurrent = Concurrent::read(&cell);
            concurrent.report(1, 1, now);
            prop_assert!(concurrent.total() >= 1);
        }
    }
}
