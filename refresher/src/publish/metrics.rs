//! The metrics page: what the refresher knows, and what Envoy counts, as one.

use filter::bundle::DEFAULT_CREDENTIAL;

use super::exposition::{Family, Kind, Page};
use super::health::Status;
use crate::check::DeepCheck;
use crate::overview::Overview;

/// What the page is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What is known of everything.
    pub overview: &'a Overview,
    /// The refresher's resident memory, in bytes, where the system tells it.
    pub resident_bytes: Option<u64>,
    /// The last check of the whole way.
    pub check: Option<&'a DeepCheck>,
    /// Envoy's counters, if it answers.
    pub envoy: Option<Page>,
}

/// The page without an Envoy's part, of which it is not even said whether that Envoy answers.
pub fn own_page(facts: Facts<'_>) -> Page {
    let mut page = Page::default();
    let overview = facts.overview;
    predecessors(overview, &mut page);
    credentials(overview, &mut page);
    refresher(overview, facts.resident_bytes, &mut page);
    workers(overview, &mut page);
    if let Some(check) = facts.check {
        self::check(check, &mut page);
    }
    page
}

/// The page.
pub fn page(mut facts: Facts<'_>) -> Page {
    let envoy = facts.envoy.take();
    let mut page = own_page(facts);
    let up = Family::new(
        Kind::Gauge,
        "torchbearer_envoy_up",
        "Whether Envoy's admin interface answers; without it this page has the refresher's part only.",
    );
    page.push(up.with(&[], u8::from(envoy.is_some())));
    if let Some(counters) = envoy {
        self::envoy(counters, &mut page);
    }
    page
}

fn gauge(name: &str, help: &'static str) -> Family {
    Family::new(Kind::Gauge, name, help)
}

fn counter(name: &str, help: &'static str) -> Family {
    Family::new(Kind::Counter, name, help)
}

/// The series of the Python predecessor that the refresher knows: those of the default credential.
fn predecessors(overview: &Overview, page: &mut Page) {
    let health = &overview.health;
    let refreshes = &health.oauth_refresh;
    let default = health.credentials.get(DEFAULT_CREDENTIAL);
    let rejections = default.map(|status| status.rejection_refresh).unwrap_or_default();
    for family in [
        gauge(
            "proxy_token_expires_at",
            "When the token expires, in Unix seconds; 0: there is none.",
        )
        .with(&[], health.token_expires_at.unwrap_or(0)),
        gauge("proxy_token_seconds_to_expiry", "In how many seconds that is; 0: there is none.")
            .with(&[], health.token_seconds_to_expiry.unwrap_or(0)),
        counter("proxy_oauth_refresh_success_total", "Refreshes that brought a token.")
            .with(&[], refreshes.refresh_success_count),
        counter("proxy_oauth_refresh_failure_total", "Refreshes that did not.")
            .with(&[], refreshes.refresh_failure_count),
        gauge(
            "proxy_oauth_refresh_token_rotated",
            "Whether the last refresh brought a new refresh token, too.",
        )
        .with(&[], u8::from(refreshes.refresh_token_rotated)),
        gauge("proxy_oauth_reauth_required", "Whether only a login helps, at once or at expiry.")
            .with(&[], u8::from(health.oauth_reauth_required)),
        counter(
            "proxy_oauth_401_refresh_attempts_total",
            "Refreshes for a token that the API refused.",
        )
        .with(&[], rejections.attempts),
        counter("proxy_oauth_401_refresh_successes_total", "Those of them that brought a token.")
            .with(&[], rejections.successes),
        counter("proxy_oauth_401_refresh_failures_total", "Those of them that did not.")
            .with(&[], rejections.failures),
    ] {
        page.push(family);
    }
}

type Value = fn(&Status) -> Option<u64>;

const CREDENTIALS: [(&str, &str, Value); 6] = [
    ("generation", "The generation of the credential's token.", |it| it.generation),
    ("issued_at_seconds", "When its token was issued, in Unix seconds.", |it| it.issued_at),
    ("expires_at_seconds", "When its token expires, in Unix seconds.", |it| it.expires_at),
    ("next_refresh_at_seconds", "When it is refreshed next, in Unix seconds.", |it| {
        it.next_refresh_at
    }),
    ("reauth_required", "Whether only a login helps, at once or when its token expires.", |it| {
        Some(it.oauth_reauth_required.into())
    }),
    ("alarm", "Whether its grant cannot be read or written.", |it| Some(it.alarm.is_some().into())),
];

fn credentials(overview: &Overview, page: &mut Page) {
    let all = &overview.health.credentials;
    let mut states =
        gauge("torchbearer_credential_state", "1 for the state that it is in, else 0.");
    for (name, status) in all {
        for state in ["ready", "unavailable", "login_required"] {
            let labels = [("credential", name.as_str()), ("state", state)];
            states = states.with(&labels, u8::from(status.state == state));
        }
    }
    page.push(states);
    for (name, help, value) in CREDENTIALS {
        let mut family = gauge(&format!("torchbearer_credential_{name}"), help);
        for (credential, status) in all {
            if let Some(value) = value(status) {
                family = family.with(&[("credential", credential)], value);
            }
        }
        page.push(family);
    }
    let mut refreshes = counter(
        "torchbearer_refresher_refreshes_total",
        "Refreshes, by credential and outcome; cause: schedule, or rejection by the API.",
    );
    for (name, status) in all {
        let (all, rejections) = (&status.oauth_refresh, status.rejection_refresh);
        for (cause, outcome, number) in [
            ("rejection", "success", rejections.successes),
            ("rejection", "failure", rejections.failures),
            ("schedule", "success", all.refresh_success_count.saturating_sub(rejections.renewals)),
            ("schedule", "failure", all.refresh_failure_count.saturating_sub(rejections.failures)),
        ] {
            let labels = [("credential", name.as_str()), ("cause", cause), ("outcome", outcome)];
            refreshes = refreshes.with(&labels, number);
        }
    }
    page.push(refreshes);
}

fn refresher(overview: &Overview, resident_bytes: Option<u64>, page: &mut Page) {
    let health = &overview.health;
    let broken = health.credentials.values().filter(|status| status.alarm.is_some()).count();
    let build = gauge("torchbearer_refresher_build_info", "1; the label tells the version.");
    page.push(build.with(&[("version", &overview.version)], 1));
    for (name, help, value) in [
        ("start_time_seconds", "When the refresher started, in Unix seconds.", overview.started_at),
        (
            "uptime_seconds",
            "For how long it has been running.",
            overview.at.saturating_sub(overview.started_at),
        ),
        ("generation", "The generation of the bundle that it publishes.", health.generation),
        ("workers", "Filter VMs that fetch bundles.", overview.workers.len() as u64),
        (
            "alarms",
            "Alarms in /health: grants, client keys or settings that are not as they should be.",
            broken as u64
                + u64::from(health.client_keys_alarm.is_some())
                + u64::from(health.config_alarm.is_some()),
        ),
    ] {
        page.push(gauge(&format!("torchbearer_refresher_{name}"), help).with(&[], value));
    }
    if let Some(bytes) = resident_bytes {
        let name = "torchbearer_refresher_resident_memory_bytes";
        page.push(gauge(name, "The refresher's resident memory.").with(&[], bytes));
    }
}

fn workers(overview: &Overview, page: &mut Page) {
    let mut generations = gauge(
        "torchbearer_worker_generation",
        "The generation of the bundle that a filter VM serves.",
    );
    let mut lags = gauge(
        "torchbearer_worker_lag_seconds",
        "How long after its publication the VM had that bundle in force.",
    );
    for worker in &overview.workers {
        let mut labels = vec![("worker", worker.id.as_str())];
        labels.extend(worker.envoy.as_deref().map(|envoy| ("envoy", envoy)));
        generations = generations.with(&labels, worker.generation);
        if let Some(lag_ms) = worker.lag_ms {
            lags = lags.with(&labels, seconds(lag_ms));
        }
    }
    page.push(generations);
    page.push(lags);
}

fn check(check: &DeepCheck, page: &mut Page) {
    for (name, help, value) in [
        (
            "success",
            "Whether the last check of the whole way found it open.",
            u8::from(check.is_good()).to_string(),
        ),
        ("latency_seconds", "How long its request took.", seconds(check.latency_ms)),
        ("timestamp_seconds", "When it ended, in Unix seconds.", check.checked_at.to_string()),
    ] {
        page.push(gauge(&format!("torchbearer_deep_check_{name}"), help).with(&[], value));
    }
}

/// Envoy's counters, some of them under the names of the Python predecessor.
fn envoy(mut counters: Page, page: &mut Page) {
    const REQUESTS: &str = "proxy_requests_total";
    let mut requests = counter(REQUESTS, "Answers to requests, by method and status code.");
    if let Some(family) = counters.take("torchbearer_responses_total") {
        requests.samples = family.samples;
        for sample in &mut requests.samples {
            REQUESTS.clone_into(&mut sample.name);
        }
    }
    page.push(requests);
    let total = |name| counters.samples(name).fold(0.0, |sum, it| sum + it.number());
    let milliseconds = total("envoy_http_downstream_rq_time_sum");
    let count = total("envoy_http_downstream_rq_time_count");
    let durations = counter(
        "proxy_request_duration_seconds_total",
        "What all requests took, answers included.",
    );
    page.push(durations.with(&[], milliseconds / 1000.0));
    let counts = counter("proxy_request_count_total", "Requests whose answers have ended.");
    page.push(counts.with(&[], count));
    page.push(reloads(&mut counters));
    page.extend(counters);
}

/// How often a filter's VM was lost and made anew, there from the start: that it happens at all is
/// what one wants to hear of.
fn reloads(counters: &mut Page) -> Family {
    let mut reloads = counter(
        "torchbearer_envoy_wasm_reloads_total",
        "Reloads of a lost filter VM, by place and outcome; backoff: too soon after the last.",
    );
    for place in ["gate", "bearer"] {
        for outcome in ["success", "failure", "backoff"] {
            let name = format!("envoy_wasm_torchbearer_{place}_vm_reload_{outcome}");
            let family = counters.take(&name).into_iter().flat_map(|family| family.samples);
            let number: u64 = family.map(|sample| sample.count()).sum();
            reloads = reloads.with(&[("place", place), ("outcome", outcome)], number);
        }
    }
    reloads
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests;
