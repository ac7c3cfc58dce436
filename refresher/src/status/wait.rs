//! Whether all workers serve a generation, for scripts that wait for it.

use std::str::FromStr;

use serde::Serialize;

use crate::overview::{Overview, Worker};

/// How many workers a line names.
const NAMED: usize = 8;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What the refresher publishes when it is asked first.
    Current,
    /// This generation, or a newer one.
    Generation(u64),
}

/// A generation that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: a generation, which is a whole number, or current")]
pub struct Unaccepted;

impl FromStr for Wanted {
    type Err = Unaccepted;

    fn from_str(text: &str) -> Result<Self, Unaccepted> {
        match text {
            "current" => Ok(Self::Current),
            _ => text.parse().map(Self::Generation).map_err(|_| Unaccepted),
        }
    }
}

impl Wanted {
    /// What is waited for from now on: a generation that was current once stays the one.
    #[must_use]
    pub fn settled(self, overview: &Overview) -> Self {
        match self {
            // Before the first bundle there is nothing to serve.
            Self::Current if overview.health.generation > 0 => {
                Self::Generation(overview.health.generation)
            }
            other => other,
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Whether all workers serve it.
    pub reached: bool,
    /// The generation, once it is known.
    pub generation: Option<u64>,
    /// The workers that do not.
    pub behind: Vec<String>,
    /// The same in a line.
    pub message: String,
}

/// Judges what a refresher says, if one answers.
pub fn judge(wanted: Wanted, overview: Option<&Overview>, socket: &str) -> Progress {
    let not_yet =
        |generation, behind, message| Progress { reached: false, generation, behind, message };
    let Some(overview) = overview else {
        let generation = match wanted {
            Wanted::Generation(generation) => Some(generation),
            Wanted::Current => None,
        };
        let message = format!("no refresher of this provider answers on {socket}");
        return not_yet(generation, Vec::new(), message);
    };
    let Wanted::Generation(generation) = wanted.settled(overview) else {
        return not_yet(None, Vec::new(), "the refresher has published nothing yet".to_owned());
    };
    let published = overview.health.generation;
    let workers = &overview.workers;
    let behind: Vec<&Worker> =
        workers.iter().filter(|worker| worker.generation < generation).collect();
    let names = behind.iter().map(|worker| worker.id.clone()).collect();
    if workers.is_empty() {
        let message =
            format!("no worker is known to serve generation {generation}: none has asked");
        return not_yet(Some(generation), names, message);
    }
    if behind.is_empty() {
        let message = match workers.len() {
            1 => format!("the one worker serves generation {generation} or a newer one"),
            all => format!("all {all} workers serve generation {generation} or a newer one"),
        };
        return Progress { reached: true, generation: Some(generation), behind: names, message };
    }
    let named = behind.iter().take(NAMED);
    let mut named: Vec<String> = named
        .map(|worker| {
            let envoy = worker.envoy.as_ref().map(|envoy| format!(" of {envoy}"));
            format!("{}{} (generation {})", worker.id, envoy.unwrap_or_default(), worker.generation)
        })
        .collect();
    if behind.len() > NAMED {
        named.push(format!("{} more", behind.len() - NAMED));
    }
    let mut message = format!(
        "{} of {} workers behind generation {generation}: {}",
        behind.len(),
        workers.len(),
        named.join(", ")
    );
    if published < generation {
        message.push_str(&format!("; the refresher publishes generation {published}"));
    }
    not_yet(Some(generation), names, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::overview;

    fn with(generation: u64, workers: &[(&str, u64)]) -> Overview {
        let mut overview = overview();
        overview.health.generation = generation;
        let worker = |(id, generation): &(&str, u64)| Worker {
            id: (*id).to_owned(),
            envoy: None,
            generation: *generation,
            lag_ms: None,
            seen_at: 0,
        };
        overview.workers = workers.iter().map(worker).collect();
        overview
    }

    #[test]
    fn what_is_waited_for_is_a_number_or_the_current_one() {
        assert_eq!("current".parse(), Ok(Wanted::Current));
        assert_eq!("17".parse(), Ok(Wanted::Generation(17)));
        for bad in ["", "-1", "1.5", "now", "99999999999999999999"] {
            assert_eq!(bad.parse::<Wanted>(), Err(Unaccepted), "{bad}");
        }
    }

    #[test]
    fn all_workers_have_to_serve_it_and_there_has_to_be_one() {
        for (wanted, document, reached, said) in [
            (Wanted::Generation(7), with(7, &[("a", 7), ("b", 7)]), true, "all 2 workers"),
            (Wanted::Generation(7), with(9, &[("a", 9)]), true, "the one worker"),
            (Wanted::Generation(7), with(7, &[]), false, "no worker is known"),
            (Wanted::Generation(7), with(7, &[("a", 7), ("b", 6)]), false, "1 of 2 workers"),
            (Wanted::Generation(8), with(7, &[("a", 7)]), false, "publishes generation 7"),
            (Wanted::Current, with(7, &[("a", 7)]), true, "generation 7"),
            (Wanted::Current, with(7, &[("a", 6)]), false, "a (generation 6)"),
            (Wanted::Current, with(0, &[("a", 0)]), false, "published nothing"),
        ] {
            let progress = judge(wanted, Some(&document), "s");
            assert_eq!(progress.reached, reached, "{progress:?}");
            assert!(progress.message.contains(said), "{progress:?}");
        }
        let progress = judge(Wanted::Current, None, "/run/s");
        assert!(!progress.reached && progress.message.contains("/run/s"), "{progress:?}");
    }

    #[test]
    fn who_is_behind_is_named_but_not_by_the_hundred() {
        let many: Vec<(String, u64)> = (0..100).map(|i| (format!("w{i}"), 1)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(id, at)| (id.as_str(), *at)).collect();
        let progress = judge(Wanted::Current, Some(&with(2, &many)), "s");
        assert_eq!(progress.behind.len(), 100);
        assert!(progress.message.contains("w7 (generation 1), 92 more"), "{}", progress.message);
        assert!(!progress.message.contains("w8 "), "{}", progress.message);
    }

    #[test]
    fn a_generation_that_was_current_once_stays_the_one() {
        let settled = Wanted::Current.settled(&with(7, &[]));
        assert_eq!(settled, Wanted::Generation(7));
        assert_eq!(settled.settled(&with(9, &[])), Wanted::Generation(7));
        assert_eq!(Wanted::Current.settled(&with(0, &[])), Wanted::Current);
    }
}
