//! What goes wrong, and when: decided before the run, from its seed alone.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The time for one fault and for what comes after it. None lasts as long, unless the machine is slow.
pub const SLOT: Duration = Duration::from_secs(15);

/// How much later than its slot a fault may begin, in milliseconds, so that it meets any moment of a
/// rotation.
const JITTER_MS: u64 = 3_000;

/// Of so many parts of a run, the last are without faults that end a program: the memory of a program
/// says something only when it has run for some time.
const PARTS: usize = 5;
const PARTS_WITH_ENDS: usize = 3;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    ProviderDown,
    ProviderSlow,
    ProviderError,
    ProviderBusy,
    ProviderRedirects,
    TokenRefused,
    RefresherKilled,
    RefresherStopped,
    EnvoyKilled,
    EnvoyHotRestarted,
    EnvoyReconfigured,
    DiskFull,
    ClockJump,
    ClientResets,
    SlowReaders,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::ProviderDown,
        Self::ProviderSlow,
        Self::ProviderError,
        Self::ProviderBusy,
        Self::ProviderRedirects,
        Self::TokenRefused,
        Self::RefresherKilled,
        Self::RefresherStopped,
        Self::EnvoyKilled,
        Self::EnvoyHotRestarted,
        Self::EnvoyReconfigured,
        Self::DiskFull,
        Self::ClockJump,
        Self::ClientResets,
        Self::SlowReaders,
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProviderDown => "provider down",
            Self::ProviderSlow => "provider slow",
            Self::ProviderError => "provider 5xx",
            Self::ProviderBusy => "provider 429",
            Self::ProviderRedirects => "provider redirects",
            Self::TokenRefused => "token refused",
            Self::RefresherKilled => "refresher killed",
            Self::RefresherStopped => "refresher stopped",
            Self::EnvoyKilled => "envoy killed",
            Self::EnvoyHotRestarted => "envoy hot-restarted",
            Self::EnvoyReconfigured => "envoy reconfigured",
            Self::DiskFull => "disk full",
            Self::ClockJump => "clock jump",
            Self::ClientResets => "client resets",
            Self::SlowReaders => "slow readers",
        }
    }

    fn ends_a_program(self) -> bool {
        matches!(self, Self::RefresherKilled | Self::EnvoyKilled | Self::EnvoyHotRestarted)
    }
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, from the start of the run.
    pub at: Duration,
    /// Which.
    pub fault: Fault,
    /// What its details come from.
    pub seed: u64,
}

/// The faults of a run, of which so much time is for faults. Each occurs as often as any other, give
/// or take one.
pub fn plan(seed: u64, faulty: Duration) -> Vec<Planned> {
    let mut random = SmallRng::seed_from_u64(seed);
    let slots = usize::try_from(faulty.as_millis() / SLOT.as_millis()).unwrap_or_default();
    let mut order = Vec::new();
    while order.len() < slots {
        let mut deck = Fault::ALL;
        deck.shuffle(&mut random);
        order.extend(deck);
    }
    order.truncate(slots);
    spare_the_end(&mut order, &mut random);
    let starts = (0_u32..).map(|slot| SLOT * slot);
    let planned = starts.zip(order).map(|(start, fault)| {
        let late = Duration::from_millis(random.random_range(0..JITTER_MS));
        Planned { at: start + late, fault, seed: random.random() }
    });
    planned.collect()
}

/// Changes places, so that no program is ended in the last parts of a run.
fn spare_the_end(order: &mut [Fault], random: &mut SmallRng) {
    let (early, late) = order.split_at_mut(order.len() * PARTS_WITH_ENDS / PARTS);
    for fault in late.iter_mut().filter(|fault| fault.ends_a_program()) {
        let mut places: Vec<_> = early.iter_mut().filter(|fault| !fault.ends_a_program()).collect();
        places.shuffle(random);
        if let Some(place) = places.pop() {
            std::mem::swap(place, fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn count(plan: &[Planned], fault: Fault) -> usize {
        plan.iter().filter(|planned| planned.fault == fault).count()
    }

    #[test]
    fn a_seed_repeats_a_run_and_another_does_not() {
        let once = plan(7, 30 * MINUTE);
        assert_eq!(once, plan(7, 30 * MINUTE));
        let other = plan(8, 30 * MINUTE);
        assert_ne!(once, other);
        let order = |plan: &[Planned]| plan.iter().map(|it| it.fault).collect::<Vec<_>>();
        assert_ne!(order(&once), order(&other));
    }

    #[test]
    fn each_fault_occurs_once_in_five_minutes_and_seven_times_in_thirty() {
        for seed in 0..500 {
            let (short, long) = (plan(seed, 280 * MINUTE / 60), plan(seed, 1780 * MINUTE / 60));
            for fault in Fault::ALL {
                assert!((1..=2).contains(&count(&short, fault)), "{seed}: {fault:?}");
                assert!((7..=8).contains(&count(&long, fault)), "{seed}: {fault:?}");
            }
        }
    }

    #[test]
    fn faults_follow_one_another_and_the_last_parts_end_no_program() {
        for seed in 0..500 {
            for minutes in [2, 5, 30] {
                let plan = plan(seed, minutes * MINUTE);
                for (slot, planned) in (0_u32..).zip(&plan) {
                    assert!((SLOT * slot..SLOT * (slot + 1)).contains(&planned.at));
                }
                let late = plan.get(plan.len() * PARTS_WITH_ENDS / PARTS..).unwrap();
                assert!(!late.iter().any(|planned| planned.fault.ends_a_program()), "{seed}");
            }
        }
        assert_eq!(plan(1, SLOT).len(), 1);
        assert_eq!(plan(1, Duration::ZERO), []);
    }
}
