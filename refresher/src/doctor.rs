//! `doctor`: looks at everything that has to be well for a request to be answered, in order, and
//! says of each thing what is wrong and what mends it. It changes nothing.

mod envoy;
mod files;
mod listener;
mod login;
mod need;
mod provider;
pub mod report;
mod request;
mod settings;
mod socket;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock;
use crate::config::{self, Config};
use crate::secret::Secret;
use crate::status::screen::printable;
use report::{CHECKS, Check, Finding, REQUEST, Report};

/// How long one check may take.
const EACH: Duration = Duration::from_secs(5);

/// How long all of them may take together.
const ALL: Duration = Duration::from_secs(30);

/// The most that is shown of what others say, in characters.
const SHOWN: usize = 240;

/// A word of this length in what others say could be a secret.
const SECRET: usize = 24;

/// The configuration, as far as there is one.
#[derive(Debug)]
pub struct Loaded {
    /// The file, if there is one or one was named.
    pub path: Option<PathBuf>,
    /// What it comes to with flags and environment.
    pub config: Result<Config, config::Error>,
}

/// What happens while it looks.
#[derive(Debug)]
pub enum Event<'a> {
    /// A check begins.
    Begins(&'static str),
    /// A check has found something.
    Found(&'a Check),
}

/// Makes all checks; `key` is a client key to send with the request, where one is required. Each
/// finding is shown at once.
pub async fn run(loaded: Loaded, key: Option<&Secret>, show: &mut dyn FnMut(Event<'_>)) -> Report {
    let ends_ms = clock::now().boot_ms.saturating_add(u64::try_from(ALL.as_millis()).unwrap_or(0));
    let mut round = Round { report: Report::default(), ends_ms, show };
    round.add("settings", settings::look(&loaded));
    let Ok(config) = loaded.config else {
        for name in CHECKS.into_iter().skip(1) {
            round.skip(name, "the settings are not accepted");
        }
        return round.report;
    };
    let config = &config;
    let stored = login::stored(config);
    let grant = stored.first().and_then(login::Stored::grant);
    let login = !stored.iter().any(|stored| stored.holds(config));
    round.add("state", files::look(config));

    let answer = round.limited("clock", provider::ask(&config.provider)).await;
    match &answer {
        Some(answer) => round.add("clock", vec![provider::judge_clock(answer)]),
        None => round.skip("clock", "the provider does not answer in time"),
    }

    let socket = round.limited("socket", socket::ask(config)).await;
    let overview = socket.as_ref().and_then(|socket| socket.overview(config));
    let elsewhere = round.limited("envoy", need::elsewhere(config, overview)).await.flatten();
    let program = async {
        let (finding, program) = envoy::program(config).await;
        (vec![finding.harmless(elsewhere)], program)
    };
    let program = round.check("envoy", program).await.flatten();
    let (finding, files) = envoy::filter(config);
    round.add("filter", vec![finding.harmless(elsewhere)]);
    match (&program, &files) {
        (Some(program), Some(files)) => {
            let bootstrap = async {
                let finding = envoy::bootstrap(config, program, files).await;
                (vec![finding.harmless(elsewhere)], ())
            };
            round.check("bootstrap", bootstrap).await;
        }
        // What is missing has been told; and what is not needed is no reason to doubt the rest.
        _ if elsewhere.is_some() => round.add("bootstrap", vec![envoy::bootstrap_elsewhere()]),
        (None, _) => round.skip("bootstrap", "there is no Envoy to check it"),
        (_, None) => round.skip("bootstrap", "there is no filter to name in it"),
    }

    let serving = overview.is_some();
    let address = round.check("listener", listener::look(config, serving)).await.flatten();
    match &socket {
        Some(socket) => round.add("socket", vec![socket.judge(config, login)]),
        None => round.add("socket", vec![late()]),
    }

    match &answer {
        Some(answer) => {
            round.add("provider", vec![provider::judge(answer, &config.provider, grant)]);
        }
        None => round.add("provider", vec![late()]),
    }
    let unix = clock::now().unix();
    round.add("token", login::tokens(config, overview, &stored, unix));
    let (finding, key_required) = login::keys(config, overview, unix);
    round.add("client keys", vec![finding]);
    round.check("api", async { (vec![upstream::look(config).await], ()) }).await;
    match overview {
        Some(overview) => round.add("workers", vec![request::workers(overview)]),
        None => round.skip("workers", "no refresher tells of them"),
    }
    let way = request::Way { address, key_required, key, serving };
    round.check(REQUEST, async { (vec![request::look(config, way).await], ()) }).await;
    round.report
}

fn late() -> Finding {
    Finding::fail(format!("no answer within {} s", EACH.as_secs()), "try again; see what is slow")
}

/// The checks so far.
struct Round<'a> {
    report: Report,
    ends_ms: u64,
    show: &'a mut dyn FnMut(Event<'_>),
}

impl Round<'_> {
    fn add(&mut self, name: &'static str, findings: Vec<Finding>) {
        for finding in findings {
            let check = Check { name, finding };
            (self.show)(Event::Found(&check));
            self.report.checks.push(check);
        }
    }

    fn skip(&mut self, name: &'static str, because: &str) {
        self.add(name, vec![Finding::skipped(because)]);
    }

    /// The outcome of some work, if it ends in time.
    async fn limited<T>(&mut self, name: &'static str, work: impl Future<Output = T>) -> Option<T> {
        (self.show)(Event::Begins(name));
        let left = Duration::from_millis(self.ends_ms.saturating_sub(clock::now().boot_ms));
        tokio::time::timeout(EACH.min(left), work).await.ok()
    }

    /// A check that takes a while.
    async fn check<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = (Vec<Finding>, T)>,
    ) -> Option<T> {
        match self.limited(name, work).await {
            Some((findings, found)) => {
                self.add(name, findings);
                Some(found)
            }
            None if clock::now().boot_ms >= self.ends_ms => {
                self.skip(name, &format!("{} s have passed", ALL.as_secs()));
                None
            }
            None => {
                self.add(name, vec![late()]);
                None
            }
        }
    }
}

/// What others say, as it may be shown: cut, in one line, and without words that could be secrets.
fn short(text: &str) -> String {
    let opaque = |c: char| c.is_ascii_alphanumeric() || "._~+/=-".contains(c);
    let mut shown = String::new();
    let mut word = String::new();
    // The last character stands for the end.
    for c in text.chars().take(4_096).chain(std::iter::once('\n')) {
        if opaque(c) {
            word.push(c);
            continue;
        }
        let secret = word.len() >= SECRET && word.contains(|c: char| c.is_ascii_digit());
        shown.push_str(if secret { "[…]" } else { &word });
        word.clear();
        shown.push(c);
    }
    let shown = printable(shown.trim());
    match shown.char_indices().nth(SHOWN) {
        None => shown,
        Some((at, _)) => format!("{}…", shown.get(..at).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_cut_and_could_be_secrets_are_left_out() {
        assert_eq!(short("  no plan\u{1b}[2J "), "no plan\u{fffd}[2J");
        assert_eq!(short("token eyJhbGciOiJIUzI1NiJ9.abc.def is bad"), "token […] is bad");
        assert_eq!(
            short("upstream_reset_before_response_started"),
            "upstream_reset_before_response_started"
        );
        assert_eq!(short(&"word ".repeat(100)).chars().count(), SHOWN + 1);
        assert_eq!(short(""), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_takes_too_long_fails_and_the_next_is_made() {
        let mut names = Vec::new();
        let mut show = |event: Event<'_>| {
            if let Event::Found(check) = event {
                names.push((check.name, check.finding.says.clone()));
            }
        };
        let ends_ms = u64::MAX;
        let mut round = Round { report: Report::default(), ends_ms, show: &mut show };
        let never = std::future::pending::<(Vec<Finding>, ())>();
        assert_eq!(round.check("a", never).await, None);
        let found = round.check("b", async { (vec![Finding::ok("x")], 7) }).await;
        assert_eq!(found, Some(7));
        round.ends_ms = 0;
        let never = std::future::pending::<(Vec<Finding>, ())>();
        assert_eq!(round.check("c", never).await, None);
        let said: Vec<_> = names.iter().map(|(name, says)| (*name, says.as_str())).collect();
        assert_eq!(
            said,
            [("a", "no answer within 5 s"), ("b", "x"), ("c", "because 30 s have passed")]
        );
    }
}
