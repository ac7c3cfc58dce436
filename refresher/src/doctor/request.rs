//! The whole way: whether every worker is up to date, and whether a request reaches the API.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::report::Finding;
use super::short;
use crate::clock::Now;
use crate::config::Config;
use crate::overview::Overview;
use crate::secret::Secret;
use crate::status::lines::login;
use crate::status::wait::{self, Wanted};
use crate::{chain, clock, http};

/// How long the request may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long the refresher's own may take, where we can send one as well.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Where the refresher sends such a request itself, through Envoy.
const DEEP_CHECK: &str = "/health?deep=1";

/// Whether all workers serve what is published.
pub(super) fn workers(overview: &Overview) -> Finding {
    let progress = wait::judge(Wanted::Current, Some(overview), "");
    if progress.reached {
        Finding::ok(progress.message)
    } else if overview.workers.is_empty() {
        Finding::warn(
            "unknown: no worker has asked the refresher for its bundle lately",
            "if Envoy runs, see that its cluster refresher leads to the socket",
        )
    } else {
        Finding::fail(progress.message, "refresher status --wait-generation current")
    }
}

/// Who sends the request, and how.
pub(super) struct Way<'a> {
    /// Where our Envoy listens, if it does.
    pub(super) address: Option<SocketAddr>,
    /// Whether a client key is required.
    pub(super) key_required: bool,
    /// The client key, if one was given.
    pub(super) key: Option<&'a Secret>,
    /// Whether a refresher answers on the socket.
    pub(super) serving: bool,
}

/// Sends a request through Envoy to the API. The refresher does where it can; but it may look for
/// Envoy elsewhere, where nobody answers, or another program.
pub(super) async fn look(config: &Config, way: Way<'_>) -> Finding {
    let Some(address) = way.address else {
        return Finding::skipped("no Envoy of ours listens");
    };
    let keyless = way.key_required && way.key.is_none();
    let patience = if keyless { DEADLINE + PATIENCE } else { PATIENCE };
    let told = if way.serving { deep_check(config, address, patience).await } else { None };
    match told {
        Some(Told { finding, arrived: true }) => return finding,
        Some(Told { finding, .. }) if keyless => return finding,
        _ => {}
    }
    if keyless {
        return Finding::skipped(
            "a client key is required: give one in TORCHBEARER_CLIENT_KEY or by --key-stdin",
        );
    }
    let begun = clock::now();
    let path = &config.check_path;
    match http::ask_listener(&format!("http://{address}{path}"), way.key, DEADLINE).await {
        Err(error) => {
            let says = format!("Envoy does not answer GET {path}: {}", chain::line(&error));
            Finding::fail(says, "look into Envoy's log")
        }
        Ok(answer) => {
            let took = elapsed_ms(begun, clock::now());
            let body = serde_json::from_slice(&answer.body).unwrap_or_default();
            judge(&config.provider.name, path, answer.status, &body, took)
        }
    }
}

/// What the refresher's own request tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    finding: Finding,
    /// Whether there was an answer of the API.
    arrived: bool,
}

fn elapsed_ms(begun: Now, ended: Now) -> u64 {
    ended.boot_ms.saturating_sub(begun.boot_ms)
}

/// What the refresher's own request to this address tells; nothing from a release that makes none, or
/// does not tell where.
async fn deep_check(config: &Config, address: SocketAddr, patience: Duration) -> Option<Told> {
    let answer = http::ask_socket(&config.socket, DEEP_CHECK, false, patience).await.ok()?;
    let health: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    judge_deep(&config.provider.name, &config.check_path, address, health.get("deep_check")?)
}

fn judge_deep(provider: &str, path: &str, address: SocketAddr, check: &Value) -> Option<Told> {
    let asked: SocketAddr = check.get("listener")?.as_str()?.parse().ok()?;
    if asked != address {
        return None;
    }
    let status = check.get("upstream_status").and_then(Value::as_u64);
    let status = status.and_then(|status| u16::try_from(status).ok());
    let latency = check.get("latency_ms").and_then(Value::as_f64).unwrap_or_default().max(0.0);
    let error = check.get("error").and_then(Value::as_str).map(short);
    let finding = match (check.get("status")?.as_str()?, status) {
        ("ok", Some(status)) => Finding::ok(format!(
            "the API answered {status} in {latency:.0} ms to the refresher's request through Envoy"
        )),
        (_, Some(status)) => {
            let body = error.map(|error| serde_json::json!({"error": {"code": error}}));
            judge(provider, path, status, &body.unwrap_or_default(), 0)
        }
        (_, None) => {
            let error = error.unwrap_or_else(|| "unknown".to_owned());
            let says = format!("the refresher's request did not reach the API ({error})");
            Finding::fail(says, "see the checks above; look into Envoy's log")
        }
    };
    Some(Told { finding, arrived: status.is_some() })
}

/// What an answer to a GET of this path means: whether it came from the API, and what if not.
fn judge(provider: &str, path: &str, status: u16, body: &Value, took_ms: u64) -> Finding {
    let code = body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
    let said = said(body);
    let command = login(provider, filter::bundle::DEFAULT_CREDENTIAL);
    match code {
        "invalid_client_key" => {
            return Finding::fail(
                "the client key is refused",
                "refresher keys list; give one that is valid",
            );
        }
        "path_not_allowed" => {
            return Finding::fail(
                format!("the client key is not good for {path}"),
                "give the key of another client",
            );
        }
        "login_required" | "unknown_credential" => {
            return Finding::login("Envoy has no token, since a login is required", command);
        }
        "refresher_unavailable" => {
            let says = "Envoy has had no token since its start: it does not reach the refresher";
            return Finding::fail(says, "refresher up, or mend the cluster refresher");
        }
        "token_expired" | "token_rejected" => {
            let says = format!("Envoy has no token that holds ({code})");
            return Finding::fail(says, "see the checks of token and provider");
        }
        "client_keys_required" | "misdirected_request" | "not_admitted" => {
            return Finding::fail(
                format!("Envoy refuses the request ({code})"),
                "refresher status",
            );
        }
        _ => {}
    }
    match status {
        200..=299 => Finding::ok(format!(
            "GET {path} through Envoy: the API answered {status} in {took_ms} ms"
        )),
        401 => Finding::fail(format!("the API refuses the token (401{said})"), command),
        402 => Finding::fail(
            format!("the API wants to be paid (402{said})"),
            "see the account's limits at the provider",
        ),
        403 => Finding::fail(
            format!("the API refuses the account (403{said})"),
            "see at the provider what the account is entitled to",
        ),
        404 => Finding::warn(
            format!("the API answers, but has no {path} (404{said})"),
            "name a path that it has in health.check_path",
        ),
        429 => Finding::warn(
            format!("the API answers, but lets the account wait (429{said})"),
            "try again later; see the account's limits at the provider",
        ),
        _ => Finding::fail(
            format!("GET {path} through Envoy gets {status}{said}"),
            "see the check of the API above; look into Envoy's log",
        ),
    }
}

/// What an error says, without what could be a secret in it.
fn said(body: &Value) -> String {
    let texts = ["/error/message", "/error/code", "/error", "/code", "/message"];
    let text = texts.iter().find_map(|path| body.pointer(path)?.as_str());
    text.map(|text| format!(": {}", short(text))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use crate::status::tests::overview;
    use serde_json::json;

    #[test]
    fn an_answer_tells_who_gave_it_and_why() {
        let ours = |code: &str| json!({"error": {"code": code, "message": "m"}});
        for (status, body, verdict, words) in [
            (200, Value::Null, Verdict::Ok, "the API answered 200"),
            (401, ours("invalid_client_key"), Verdict::Fail, "client key is refused"),
            (401, ours("invalid_api_key"), Verdict::Fail, "refuses the token (401: m"),
            (
                403,
                json!({"code": "x", "error": "no plan"}),
                Verdict::Fail,
                "refuses the account (403: no plan",
            ),
            (402, json!({"code": "spending-limit"}), Verdict::Fail, "(402: spending-limit"),
            (404, Value::Null, Verdict::Warn, "has no /v2/ping"),
            (429, Value::Null, Verdict::Warn, "wait (429"),
            (500, ours("boom"), Verdict::Fail, "gets 500: m"),
            (503, ours("refresher_unavailable"), Verdict::Fail, "does not reach the refresher"),
            (503, ours("login_required"), Verdict::Fail, "a login is required"),
            (503, ours("token_expired"), Verdict::Fail, "token_expired"),
            (302, Value::Null, Verdict::Fail, "gets 302"),
        ] {
            let finding = judge("acme", "/v2/ping", status, &body, 3);
            assert_eq!(finding.verdict, verdict, "{status} {body}");
            assert!(finding.says.contains(words), "{status} {body}: {}", finding.says);
        }
    }

    #[test]
    fn the_refreshers_own_request_counts_if_it_went_to_the_same_envoy() {
        let here = SocketAddr::from(([127, 0, 0, 1], 9996));
        for (mut check, verdict, words) in [
            (
                json!({"status": "ok", "latency_ms": 7, "upstream_status": 200}),
                Verdict::Ok,
                "200 in 7 ms",
            ),
            (
                json!({"status": "error", "upstream_status": 403, "error": "forbidden"}),
                Verdict::Fail,
                "403",
            ),
            (
                json!({"status": "error", "upstream_status": null, "error": "connect"}),
                Verdict::Fail,
                "(connect)",
            ),
            (json!({"status": "ok"}), Verdict::Fail, "did not reach"),
        ] {
            assert_eq!(judge_deep("acme", "/v1/models", here, &check), None, "{check}");
            check["listener"] = "127.0.0.1:9997".into();
            assert_eq!(judge_deep("acme", "/v1/models", here, &check), None, "{check}");
            check["listener"] = here.to_string().into();
            let Told { finding, arrived } = judge_deep("acme", "/v1/models", here, &check).unwrap();
            assert_eq!(finding.verdict, verdict, "{check}");
            assert_eq!(arrived, check["upstream_status"].is_number(), "{check}");
            assert!(finding.says.contains(words), "{check}: {}", finding.says);
        }
    }

    #[test]
    fn workers_are_judged_by_what_is_published() {
        let mut known = overview();
        assert_eq!(workers(&known).verdict, Verdict::Warn);
        let worker = |generation| crate::overview::Worker {
            id: "w".to_owned(),
            envoy: None,
            generation,
            lag_ms: None,
            seen_at: 0,
        };
        known.workers = vec![worker(7)];
        assert_eq!(workers(&known).verdict, Verdict::Ok);
        known.workers.push(worker(6));
        let finding = workers(&known);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.says.contains("w (generation 6)"), "{}", finding.says);
    }
}
