//! What was found, in lines and in sum.

use serde::Serialize;

use crate::status::screen::{Look, Screen, Tone};
use crate::status::words::count;

/// The check that sends a request to the API.
pub const REQUEST: &str = "request";

/// The names of all checks, in the order in which they are told.
pub const CHECKS: [&str; 14] = [
    "settings",
    "state",
    "clock",
    "envoy",
    "filter",
    "bootstrap",
    "listener",
    "socket",
    "provider",
    "token",
    "client keys",
    "api",
    "workers",
    REQUEST,
];

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It works, but look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at.
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Warn => Tone::Warning,
            Self::Fail => Tone::Bad,
            Self::Skipped => Tone::Faint,
        }
    }
}

/// One thing that a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it ended.
    pub verdict: Verdict,
    /// What there is.
    pub says: String,
    /// The command or the edit that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Whether nothing is missing but a login.
    pub login: bool,
}

impl Finding {
    fn new(verdict: Verdict, says: impl Into<String>, remedy: Option<String>) -> Self {
        Self { verdict, says: says.into(), remedy, login: false }
    }

    /// All is well.
    pub fn ok(says: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, says, None)
    }

    /// It works, but look at it.
    pub fn warn(says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, says, Some(remedy.into()))
    }

    /// It does not work.
    pub fn fail(says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, says, Some(remedy.into()))
    }

    /// It does not work until somebody logs in.
    pub fn login(says: impl Into<String>, command: impl Into<String>) -> Self {
        Self { login: true, ..Self::fail(says, command) }
    }

    /// The same where it does no harm, for this reason: what does not work is something to look at.
    #[must_use]
    pub fn harmless(self, because: Option<&str>) -> Self {
        match (self.verdict, because) {
            (Verdict::Fail, Some(because)) => {
                let says = format!("{}; only `refresher up` needs it, and {because}", self.says);
                Self { verdict: Verdict::Warn, says, ..self }
            }
            _ => self,
        }
    }

    /// It could not be looked at.
    pub fn skipped(because: &str) -> Self {
        Self::new(Verdict::Skipped, format!("because {because}"), None)
    }
}

/// A finding and the check that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The check's name.
    pub name: &'static str,
    /// What it found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Check {
    /// The finding as it is shown.
    pub fn show(&self, look: Look) -> String {
        let Finding { verdict, says, remedy, .. } = &self.finding;
        let mut screen = Screen::new(look);
        let colon = if *verdict == Verdict::Skipped { ":" } else { "" };
        let head = format!("{}{colon}", verdict.word());
        screen.row(self.name, verdict.tone(), &head, says);
        if let Some(remedy) = remedy {
            screen.row("", Tone::Strong, "->", remedy);
        }
        screen.finish()
    }
}

/// How all of it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A request went through, and nothing failed.
    AllGood,
    /// Nothing is missing but a login.
    LoginRequired,
    /// Something failed, or could not be looked at.
    Failed,
}

/// All findings, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings.
    pub checks: Vec<Check>,
}

impl Report {
    fn number(&self, verdict: Verdict) -> u64 {
        let found = self.checks.iter().filter(|check| check.finding.verdict == verdict);
        u64::try_from(found.count()).unwrap_or(u64::MAX)
    }

    /// How all of it ended. Without a request that went through, it is not good.
    pub fn outcome(&self) -> Outcome {
        let mut failed = self.checks.iter().filter(|it| it.finding.verdict == Verdict::Fail);
        let (failures, skipped) = (self.number(Verdict::Fail), self.number(Verdict::Skipped));
        let went = |check: &Check| check.name == REQUEST && check.finding.verdict == Verdict::Ok;
        if failures > 0 && failed.all(|check| check.finding.login) {
            Outcome::LoginRequired
        } else if failures == 0 && skipped == 0 && self.checks.iter().any(went) {
            Outcome::AllGood
        } else {
            Outcome::Failed
        }
    }

    /// All of it in a line.
    pub fn sum_up(&self) -> String {
        let warnings = self.number(Verdict::Warn);
        let warned = count(warnings, "warning", "warnings");
        match (self.outcome(), warnings) {
            (Outcome::AllGood, 0) => "all good".to_owned(),
            (Outcome::AllGood, _) => format!("all good, with {warned}"),
            (Outcome::LoginRequired, _) => "a login is required".to_owned(),
            (Outcome::Failed, _) => {
                let (failures, skipped) =
                    (self.number(Verdict::Fail), self.number(Verdict::Skipped));
                let skipped = count(skipped, "check skipped", "checks skipped");
                format!("not good: {}, {warned}, {skipped}", count(failures, "failure", "failures"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: &[(&'static str, Finding)]) -> Report {
        let check =
            |(name, finding): &(&'static str, Finding)| Check { name, finding: finding.clone() };
        Report { checks: findings.iter().map(check).collect() }
    }

    #[test]
    fn all_is_good_only_if_a_request_went_through_and_nothing_failed() {
        let (ok, login) = (|| Finding::ok("x"), || Finding::login("x", "y"));
        let (warn, fail) = (|| Finding::warn("x", "y"), || Finding::fail("x", "y"));
        let skipped = || Finding::skipped("x");
        for (findings, outcome, said) in [
            (vec![("a", ok()), (REQUEST, ok())], Outcome::AllGood, "all good"),
            (vec![("a", warn()), (REQUEST, ok())], Outcome::AllGood, "all good, with 1 warning"),
            (vec![("a", ok())], Outcome::Failed, "not good: 0 failures"),
            (vec![(REQUEST, warn())], Outcome::Failed, "not good: 0 failures, 1 warning"),
            (vec![(REQUEST, skipped())], Outcome::Failed, "1 check skipped"),
            (vec![("a", skipped()), (REQUEST, ok())], Outcome::Failed, "1 check skipped"),
            (vec![("a", fail()), (REQUEST, ok())], Outcome::Failed, "1 failure"),
            (vec![("a", login()), (REQUEST, skipped())], Outcome::LoginRequired, "a login is"),
            (vec![("a", login()), ("b", fail())], Outcome::Failed, "2 failures"),
            (vec![], Outcome::Failed, "not good"),
        ] {
            let report = report(&findings);
            assert_eq!(report.outcome(), outcome, "{findings:?}");
            assert!(report.sum_up().contains(said), "{}", report.sum_up());
            assert_eq!(report.sum_up().contains("all good"), outcome == Outcome::AllGood);
        }
    }

    #[test]
    fn a_line_has_the_name_the_verdict_and_what_mends_it() {
        let check =
            Check { name: "token", finding: Finding::login("none\u{1b}[2J", "refresher login") };
        assert_eq!(
            check.show(Look::PLAIN),
            "token        fail none\u{fffd}[2J\n             -> refresher login\n"
        );
        let check = Check { name: "clock", finding: Finding::skipped("nobody answers") };
        assert_eq!(check.show(Look::PLAIN), "clock        skipped: because nobody answers\n");
    }
}
