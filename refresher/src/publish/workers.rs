//! Which filter VMs there are, and which generation each of them serves.
//!
//! A VM says with each poll what it serves. So it has a bundle in force, at the latest, when its
//! first poll with that bundle's generation arrives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Now;
use crate::overview::Worker;

/// A VM that has not been heard of for so long is gone, in milliseconds: three polls.
pub const FORGOTTEN_MS: u64 = 75_000;

/// How many VMs are known at most.
pub const MAX_WORKERS: usize = 4096;

/// How many of them can be of Envoys with one name: none of these can crowd out the others.
pub const MAX_WORKERS_OF_ENVOY: usize = 1024;

/// The longest name of a VM, in hexadecimal digits.
const MAX_ID: usize = 32;

/// The VMs that have polled lately.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<Mutex<BTreeMap<Id, Seen>>>);

/// The name of its Envoy, empty for one beside the refresher, and its own.
type Id = (String, String);

#[derive(Clone, Copy, Debug)]
struct Seen {
    generation: u64,
    lag_ms: Option<u64>,
    first_ms: u64,
    last_ms: u64,
    seen_at: u64,
}

impl Workers {
    /// Takes note of a poll. `envoy` is the name of its Envoy, empty for one beside the refresher;
    /// of whatever name a VM gives itself, it is another than that of another Envoy. `published_ms` is when the bundle that the VM serves was published, on
    /// the boot-time clock, if that is known. A name that is none, or one too many, is passed over.
    pub fn heard(
        &self,
        envoy: &str,
        id: &str,
        generation: u64,
        published_ms: Option<u64>,
        now: Now,
    ) {
        let name = (envoy.to_owned(), id.to_owned());
        let is_id = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_hexdigit());
        let mut workers = self.lock();
        let known = workers.get_mut(&name).filter(|seen| seen.is_there(now));
        if let Some(seen) = known {
            if seen.generation != generation {
                // One that starts later than a bundle is published cannot have it sooner.
                let since = published_ms.map(|at| at.max(seen.first_ms));
                seen.lag_ms = since.map(|since| now.boot_ms.saturating_sub(since));
                seen.generation = generation;
            }
            (seen.last_ms, seen.seen_at) = (now.boot_ms, now.unix());
            return;
        }
        if workers.len() >= MAX_WORKERS {
            workers.retain(|_, seen| seen.is_there(now));
        }
        // The table is in the order of names.
        let first = (envoy.to_owned(), String::new());
        let alike = || workers.range(first..).take_while(|((other, _), _)| other == envoy).count();
        if is_id && workers.len() < MAX_WORKERS && alike() < MAX_WORKERS_OF_ENVOY {
            let (first_ms, last_ms, seen_at) = (now.boot_ms, now.boot_ms, now.unix());
            let seen = Seen { generation, lag_ms: None, first_ms, last_ms, seen_at };
            workers.insert(name, seen);
        }
    }

    /// Those that are there, by name.
    pub fn list(&self, now: Now) -> Vec<Worker> {
        let mut workers = self.lock();
        workers.retain(|_, seen| seen.is_there(now));
        let worker = |((envoy, id), seen): (&Id, &Seen)| Worker {
            id: id.clone(),
            envoy: (!envoy.is_empty()).then(|| envoy.clone()),
            generation: seen.generation,
            lag_ms: seen.lag_ms,
            seen_at: seen.seen_at,
        };
        workers.iter().map(worker).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Seen>> {
        // Every change below the lock is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn is_there(&self, now: Now) -> bool {
        now.boot_ms.saturating_sub(self.last_ms) < FORGOTTEN_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { unix_ms: 1_779_000_000_000 + ms, boot_ms: 1_000_000 + ms }
    }

    fn lags(workers: &Workers, ms: u64) -> Vec<(String, u64, Option<u64>)> {
        let list = workers.list(at(ms)).into_iter();
        list.map(|worker| (worker.id, worker.generation, worker.lag_ms)).collect()
    }

    #[test]
    fn the_lag_is_from_publication_to_the_first_poll_with_that_generation() {
        let workers = Workers::default();
        workers.heard("", "a1", 7, Some(1_000_000), at(1000));
        assert_eq!(lags(&workers, 1000), [("a1".to_owned(), 7, None)]);
        workers.heard("", "a1", 8, Some(1_002_000), at(2004));
        workers.heard("", "a1", 8, Some(1_002_000), at(27_000));
        assert_eq!(lags(&workers, 27_000), [("a1".to_owned(), 8, Some(4))]);
        assert_eq!(workers.list(at(27_000))[0].seen_at, 1_779_000_027);
        workers.heard("", "a1", 9, None, at(28_000));
        assert_eq!(lags(&workers, 28_000), [("a1".to_owned(), 9, None)]);
    }

    #[test]
    fn a_vm_that_starts_after_the_publication_lags_from_its_start() {
        let workers = Workers::default();
        workers.heard("", "a1", 0, None, at(60_000));
        workers.heard("", "a1", 7, Some(1_000_000), at(60_003));
        assert_eq!(lags(&workers, 60_003), [("a1".to_owned(), 7, Some(3))]);
    }

    #[test]
    fn a_vm_that_is_silent_is_forgotten() {
        let workers = Workers::default();
        workers.heard("", "a1", 7, None, at(0));
        assert_eq!(lags(&workers, FORGOTTEN_MS - 1).len(), 1);
        assert_eq!(lags(&workers, FORGOTTEN_MS), []);
        // One that comes back is a new one.
        workers.heard("", "a1", 7, None, at(0));
        workers.heard("", "a1", 8, Some(1_000_000), at(FORGOTTEN_MS));
        assert_eq!(lags(&workers, FORGOTTEN_MS), [("a1".to_owned(), 8, None)]);
    }

    #[test]
    fn names_are_checked_and_bounded_in_number() {
        let workers = Workers::default();
        for id in ["", "g", "a-b", "\u{e9}", "a b", "0123456789abcdef0123456789abcdef0"] {
            workers.heard("", id, 7, None, at(0));
        }
        assert_eq!(lags(&workers, 0), []);
        for number in 0..MAX_WORKERS + 10 {
            workers.heard(&format!("e{}", number / 1000), &format!("{number:x}"), 7, None, at(0));
        }
        assert_eq!(lags(&workers, 0).len(), MAX_WORKERS);
        // There is room again when others are gone.
        workers.heard("", "fffff", 7, None, at(FORGOTTEN_MS));
        assert_eq!(lags(&workers, FORGOTTEN_MS).len(), 1);
        for number in 0..MAX_WORKERS {
            workers.heard("e", &format!("{number:x}"), 7, None, at(FORGOTTEN_MS));
        }
        assert_eq!(lags(&workers, FORGOTTEN_MS).len(), 1 + MAX_WORKERS_OF_ENVOY);
    }

    #[test]
    fn a_name_is_another_in_another_envoy() {
        let workers = Workers::default();
        for (envoy, generation) in [("", 7), ("b.example.org", 8), ("a.example.org", 9)] {
            workers.heard(envoy, "a1", generation, None, at(0));
        }
        let seen = workers.list(at(0)).into_iter().map(|it| (it.envoy, it.generation));
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(
            seen.collect::<Vec<_>>(),
            [(None, 7), (named("a.example.org"), 9), (named("b.example.org"), 8)]
        );
    }
}
