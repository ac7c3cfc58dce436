//! A report on a screen.

use std::collections::BTreeMap;

use filter::bundle::DEFAULT_CREDENTIAL;

use super::screen::{Look, Screen, Tone};
use super::words::{bar, count, span};
use super::{Line, Report};
use crate::import::moment;
use crate::overview::{Envoy, Overview};

/// How many workers are listed.
const MAX_WORKERS: usize = 16;

/// How many clients are listed.
const MAX_CLIENTS: usize = 16;

/// What helps where a grant cannot be stored.
pub const MEND_STORE: &str =
    "make room, mend the permissions or mount it writable before the refresher ends";

/// The report as it is shown at `unix`, in Unix seconds.
pub fn show(report: &Report, look: Look, unix: u64) -> String {
    let mut screen = Screen::new(look);
    let overview = report.overview.as_ref();
    let api = overview.map(|it| format!("for {}", it.health.api_base)).unwrap_or_default();
    screen.row("provider", Tone::Strong, &report.provider, &api);
    match overview {
        None => {
            let place = format!("on {}", report.socket);
            screen.row("refresher", Tone::Bad, "not serving", &place);
        }
        Some(overview) => serving(&mut screen, report, overview, unix),
    }
    for line in &report.credentials {
        screen.gap();
        credential(&mut screen, report, line, unix);
    }
    if let Some(overview) = overview {
        screen.gap();
        workers(&mut screen, overview, unix);
        traffic(&mut screen, overview.envoy.as_ref());
    }
    if let Some(alarm) = &report.client_keys_alarm {
        screen.gap();
        screen.row("client keys", Tone::Bad, "alarm:", alarm);
    }
    if let Some(alarm) = &report.config_alarm {
        screen.gap();
        screen.row("settings", Tone::Bad, "alarm:", alarm);
    }
    if !report.remedies.is_empty() {
        screen.gap();
        for remedy in &report.remedies {
            screen.row("to do", Tone::Warning, "", remedy);
        }
    }
    screen.finish()
}

fn serving(screen: &mut Screen, report: &Report, overview: &Overview, unix: u64) {
    let version = if overview.version.is_empty() { "unknown" } else { &overview.version };
    let since = span(unix.saturating_sub(overview.started_at));
    let rest = format!("on {}, version {version}, for {since}", report.socket);
    screen.row("refresher", Tone::Good, "serving", &rest);
    match &overview.envoy {
        None => screen.row("Envoy", Tone::Faint, "unknown", ""),
        Some(envoy) => {
            let tone = if envoy.state == "LIVE" { Tone::Good } else { Tone::Warning };
            let up = span(envoy.uptime_seconds);
            let active = count(envoy.active_requests, "request", "requests");
            let rest = format!("version {}, for {up}, {active} under way", envoy.version);
            screen.row("Envoy", tone, &format!("{},", envoy.state), &rest);
        }
    }
}

fn credential(screen: &mut Screen, report: &Report, line: &Line, unix: u64) {
    let tone = match line.state.as_str() {
        "ready" | "logged_in" => Tone::Good,
        "unavailable" => Tone::Warning,
        _ => Tone::Bad,
    };
    let reason = line.reason.as_ref().map(|reason| format!("({reason})")).unwrap_or_default();
    screen.row("credential", Tone::Strong, &line.credential, "");
    screen.row("  state", tone, &line.state, &reason);
    if let Some(expires_at) = line.expires_at {
        token(screen, line, expires_at, unix);
    }
    if line.oauth_reauth_required && line.state != "login_required" {
        let command = login(&report.provider, &line.credential);
        let rest = format!("login will be required when the token expires: {command}");
        screen.row("  login", Tone::Warning, "", &rest);
    }
    refreshes(screen, report.serving, line, unix);
    if let Some(generation) = line.generation {
        screen.row("  generation", Tone::Plain, "", &generation.to_string());
    }
    if let Some(alarm) = &line.alarm {
        screen.row("  alarm", Tone::Bad, "alarm:", alarm);
    }
}

fn token(screen: &mut Screen, line: &Line, expires_at: u64, unix: u64) {
    let at = moment::show(expires_at);
    match expires_at.checked_sub(unix).filter(|&left| left > 0) {
        None => {
            let ago = span(unix.saturating_sub(expires_at));
            screen.row("  token", Tone::Bad, "token has expired", &format!("{ago} ago, at {at}"));
        }
        Some(left) => {
            let mut rest = format!("token expires in {}, at {at}", span(left));
            let life = line.issued_at.and_then(|issued_at| expires_at.checked_sub(issued_at));
            let shown = life.map(|life| bar(left, life)).unwrap_or_default();
            if !shown.is_empty() {
                rest = format!("left; {rest}");
            }
            // A token is renewed at half of its life: with less than a fifth, that has failed.
            let low = life.is_some_and(|life| left.saturating_mul(5) < life);
            screen.row("  token", if low { Tone::Warning } else { Tone::Good }, &shown, &rest);
        }
    }
}

fn refreshes(screen: &mut Screen, serving: bool, line: &Line, unix: u64) {
    let mut said = Vec::new();
    let mut tone = Tone::Plain;
    if let (Some(at), Some(status)) = (line.last_refresh_at, &line.last_refresh_status) {
        let ago = span(unix.saturating_sub(at));
        let class = line.last_refresh_error_class.as_ref().filter(|_| status != "success");
        let class = class.map(|class| format!(" ({class})")).unwrap_or_default();
        said.push(format!("last {ago} ago: {status}{class}"));
        tone = if status == "success" { Tone::Good } else { Tone::Warning };
    } else if serving {
        said.push("none since the start".to_owned());
    }
    if let Some(at) = line.next_refresh_at {
        said.push(match at.checked_sub(unix).filter(|&left| left > 0) {
            Some(left) => format!("next in {}", span(left)),
            None => "next now".to_owned(),
        });
    }
    if line.refresh_success_count + line.refresh_failure_count > 0 {
        let (good, bad) = (line.refresh_success_count, line.refresh_failure_count);
        said.push(format!("{good} succeeded and {bad} failed since the start"));
    }
    if !said.is_empty() {
        let mut head = said.remove(0);
        if !said.is_empty() {
            head.push(';');
        }
        screen.row("  refresh", tone, &head, &said.join("; "));
    }
}

fn workers(screen: &mut Screen, overview: &Overview, unix: u64) {
    let published = overview.health.generation;
    let workers = &overview.workers;
    if workers.is_empty() {
        let rest = "none has asked the refresher for its bundle lately";
        screen.row("workers", Tone::Faint, "unknown:", rest);
        return;
    }
    let behind = workers.iter().filter(|worker| worker.generation < published).count();
    let (tone, head) = match behind {
        0 => (Tone::Good, format!("all {} serve", workers.len())),
        behind => (Tone::Warning, format!("{behind} of {} do not serve yet", workers.len())),
    };
    screen.row("workers", tone, &head, &format!("generation {published}"));
    for worker in workers.iter().take(MAX_WORKERS) {
        let tone = if worker.generation < published { Tone::Warning } else { Tone::Plain };
        let lag = worker.lag_ms.map(|lag| format!(", lag {lag} ms")).unwrap_or_default();
        let seen = span(unix.saturating_sub(worker.seen_at));
        let envoy = worker.envoy.as_ref().map(|envoy| format!(", {envoy}")).unwrap_or_default();
        let rest = format!("generation {}{lag}, seen {seen} ago{envoy}", worker.generation);
        screen.row("", tone, &worker.id, &rest);
    }
    if let Some(more) = workers.len().checked_sub(MAX_WORKERS).filter(|&more| more > 0) {
        screen.row("", Tone::Faint, "", &format!("and {more} more"));
    }
}

fn traffic(screen: &mut Screen, envoy: Option<&Envoy>) {
    let Some(envoy) = envoy else {
        return;
    };
    screen.gap();
    if envoy.requests.is_empty() {
        screen.row("requests", Tone::Faint, "none", "");
    }
    for (index, (client, classes)) in envoy.requests.iter().take(MAX_CLIENTS).enumerate() {
        let label = if index == 0 { "requests" } else { "" };
        let tokens = envoy.tokens.get(client).map(tokens).unwrap_or_default();
        screen.row(label, Tone::Strong, client, &format!("{}{tokens}", pairs(classes)));
    }
    if let Some(more) = envoy.requests.len().checked_sub(MAX_CLIENTS).filter(|&more| more > 0) {
        screen.row("", Tone::Faint, "", &format!("and {more} more clients"));
    }
    if !envoy.refusals.is_empty() {
        screen.row("refusals", Tone::Warning, "", &pairs(&envoy.refusals));
    }
}

fn pairs(counts: &BTreeMap<String, u64>) -> String {
    let pairs: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    pairs.join(", ")
}

/// The tokens of a client over all models.
fn tokens(models: &BTreeMap<String, BTreeMap<String, u64>>) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, count) in models.values().flatten() {
        let sum = kinds.entry(kind.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    if kinds.is_empty() { String::new() } else { format!("; tokens: {}", pairs(&kinds)) }
}

/// The command that logs in to a provider as a credential.
pub fn login(provider: &str, credential: &str) -> String {
    if credential == DEFAULT_CREDENTIAL {
        format!("refresher login --provider {provider}")
    } else {
        format!("refresher login --provider {provider} --credential {credential}")
    }
}

/// What is not well, each with what helps.
pub fn remedies(report: &Report) -> Vec<String> {
    let mut remedies = Vec::new();
    for line in &report.credentials {
        let name = &line.credential;
        let command = login(&report.provider, name);
        match line.state.as_str() {
            "login_required" => remedies.push(format!("{name} has no login that holds: {command}")),
            "unavailable" => remedies.push(format!(
                "{name} waits for the provider, which is asked again and again: refresher doctor"
            )),
            _ if line.oauth_reauth_required => {
                remedies.push(format!(
                    "{name} needs another login before its token expires: {command}"
                ));
            }
            _ => {}
        }
        if line.alarm.is_some() {
            remedies.push(format!("the alarm of {name}: {MEND_STORE}; refresher doctor"));
        }
    }
    if report.client_keys_alarm.is_some() {
        remedies.push("client keys cannot be read: refresher keys list".to_owned());
    }
    if report.config_alarm.is_some() {
        remedies.push("changed settings are not in force: refresher config check".to_owned());
    }
    match &report.overview {
        // Without a login there is nothing to serve.
        None if report.is_good() => {
            remedies.push("nothing is served: refresher up, or refresher serve".to_owned());
        }
        None => {}
        Some(overview) => {
            let published = overview.health.generation;
            if overview.workers.iter().any(|worker| worker.generation < published) {
                remedies.push(
                    "workers are behind: refresher status --wait-generation current".to_owned(),
                );
            }
            if overview.envoy.as_ref().is_some_and(|envoy| envoy.state != "LIVE") {
                remedies.push("Envoy is not serving: refresher doctor".to_owned());
            }
        }
    }
    remedies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::Worker;
    use crate::status::tests::{overview, report};

    const NOW: u64 = 3_000;

    fn worker(id: &str, generation: u64, lag_ms: Option<u64>) -> Worker {
        Worker { id: id.to_owned(), envoy: None, generation, lag_ms, seen_at: NOW - 4 }
    }

    fn busy() -> Overview {
        let mut overview = overview();
        overview.workers = vec![worker("a1", 7, Some(4)), worker("b2", 7, None)];
        let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        overview.envoy = Some(Envoy {
            version: "1.40.0".to_owned(),
            state: "LIVE".to_owned(),
            uptime_seconds: 2_500,
            requests: BTreeMap::from([
                ("alice".to_owned(), counts(&[("2xx", 12), ("4xx", 1)])),
                ("bob".to_owned(), counts(&[("2xx", 2)])),
            ]),
            refusals: counts(&[("invalid_client_key", 5)]),
            tokens: BTreeMap::from([(
                "alice".to_owned(),
                BTreeMap::from([
                    ("grok-4".to_owned(), counts(&[("prompt", 10), ("completion", 3)])),
                    ("grok-3".to_owned(), counts(&[("prompt", 1)])),
                ]),
            )]),
            active_requests: 1,
        });
        overview
    }

    fn wide(overview: Overview) -> String {
        show(&report(Some(overview)), Look { width: Some(120), colour: false }, NOW)
    }

    #[test]
    fn one_screen_says_what_is_known() {
        let text = wide(busy());
        let expected = "\
provider     acme for https://api.example
refresher    serving on /run/acme.sock, version 0.1.0, for 43 min 20 s
Envoy        LIVE, version 1.40.0, for 41 min 40 s, 1 request under way

credential   default
  state      ready
  token      [##############------] 72 % left; token expires in 1 h 26 min, at 1970-01-01T02:16:40Z
  refresh    last 33 min 20 s ago: success; next in 26 min 40 s; 3 succeeded and 0 failed since the start
  generation 7

workers      all 2 serve generation 7
             a1 generation 7, lag 4 ms, seen 4 s ago
             b2 generation 7, seen 4 s ago

requests     alice 2xx 12, 4xx 1; tokens: completion 3, prompt 11
             bob 2xx 2
refusals     invalid_client_key 5
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_absent_is_unknown() {
        let text = wide(overview());
        assert!(
            text.contains("Envoy        unknown") && text.contains("workers      unknown"),
            "{text}"
        );
        assert!(!text.contains("requests") && !text.contains("to do"), "{text}");
        let mut bare = overview();
        let status = bare.health.credentials.get_mut("default").unwrap();
        (status.issued_at, status.next_refresh_at) = (None, None);
        let text = wide(bare);
        assert!(text.contains("  token      token expires in 1 h 26 min"), "{text}");
        assert!(!text.contains("next in"), "{text}");
    }

    #[test]
    fn what_is_not_well_has_a_remedy() {
        type Break = fn(&mut Overview);
        let cases: [(Break, &str, &str); 8] = [
            (
                |o| status(o).state = "login_required".into(),
                "login_required",
                "refresher login --provider acme",
            ),
            (|o| status(o).state = "unavailable".into(), "unavailable", "asked again and again"),
            (
                |o| status(o).oauth_reauth_required = true,
                "login will be required",
                "before its token expires",
            ),
            (|o| status(o).alarm = Some("disk full".into()), "alarm: disk full", "make room"),
            (
                |o| o.health.client_keys_alarm = Some("gone".into()),
                "alarm: gone",
                "refresher keys list",
            ),
            (
                |o| o.health.config_alarm = Some("no such port".into()),
                "alarm: no such port",
                "refresher config check",
            ),
            (
                |o| o.workers = vec![worker("a", 7, None), worker("b", 6, None)],
                "1 of 2 do not serve yet",
                "--wait-generation",
            ),
            (
                |o| o.envoy = Some(Envoy { state: "DRAINING".into(), ..Envoy::default() }),
                "DRAINING",
                "Envoy is not serving",
            ),
        ];
        for (broken, said, remedy) in cases {
            let mut overview = overview();
            broken(&mut overview);
            let text = wide(overview);
            assert!(text.contains(said), "{said}: {text}");
            let to_do: Vec<_> = text.lines().filter(|line| line.starts_with("to do")).collect();
            assert!(to_do.len() == 1 && to_do[0].contains(remedy), "{remedy}: {text}");
        }
        let stored =
            Line { state: "logged_in".into(), credential: "default".into(), ..Line::default() };
        let mut alone = report(None);
        alone.credentials = vec![stored];
        assert_eq!(remedies(&alone), ["nothing is served: refresher up, or refresher serve"]);
    }

    fn status(overview: &mut Overview) -> &mut crate::publish::health::Status {
        overview.health.credentials.get_mut("default").unwrap()
    }

    #[test]
    fn hostile_names_do_not_reach_the_terminal() {
        let mut overview = busy();
        overview.version = "1\u{1b}[2J".to_owned();
        overview.workers[0].id = "a\r\nb\u{9b}".to_owned();
        status(&mut overview).alarm = Some("x\u{1b}]0;title\u{7}".to_owned());
        let envoy = overview.envoy.as_mut().unwrap();
        envoy.requests.insert("eve\u{202e}".to_owned(), BTreeMap::new());
        for look in [Look::PLAIN, Look { width: Some(40), colour: false }] {
            let text = show(&report(Some(overview.clone())), look, NOW);
            let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
            assert!(!text.contains(hidden), "{text:?}");
        }
    }

    #[test]
    fn many_workers_and_clients_are_counted_not_listed() {
        let mut overview = busy();
        overview.workers = (0..40).map(|i| worker(&format!("w{i}"), 7, None)).collect();
        let envoy = overview.envoy.as_mut().unwrap();
        envoy.requests = (0..40).map(|i| (format!("c{i}"), BTreeMap::new())).collect();
        let text = wide(overview);
        assert!(text.contains("and 24 more\n") && text.contains("and 24 more clients"), "{text}");
        assert!(!text.contains("w16 ") && !text.contains("c9"), "{text}");
    }
}
