//! The provider: whether it answers, as the one that it should be, and what its clock says.

use std::time::Duration;

use url::Url;

use super::report::Finding;
use super::short;
use crate::oauth::request;
use crate::provider::metadata::{self, Metadata, addresses, name};
use crate::status::lines::login;
use crate::status::words::span;
use crate::store::Grant;
use crate::{chain, clock, http, provider::Provider};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(4);

/// From this difference on, tokens are taken for expired or fresh wrongly, in seconds.
const FAILS_S: u64 = 60;

/// From this difference on, something should be done about it, in seconds.
const WARNS_S: u64 = 5;

/// What the provider answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// How far our clock is from the provider's, in seconds: positive when ours is ahead.
    skew: Option<i64>,
    /// What it says of itself.
    said: Said,
}

#[derive(Debug)]
enum Said {
    /// There is no issuer: the token endpoint answers.
    Configured(Url),
    /// The issuer's metadata.
    Metadata(Box<Metadata>),
    /// No metadata of the issuer.
    Wrong { asked: String, reason: String },
    /// Nothing.
    Nothing { asked: String, reason: String },
}

/// Asks the issuer for its metadata, or where there is none the token endpoint.
pub(super) async fn ask(provider: &Provider) -> Answer {
    let Some(issuer) = &provider.issuer else {
        return match &provider.token_endpoint {
            None => {
                let reason = "neither an issuer nor a token_endpoint is set".to_owned();
                Answer {
                    skew: None,
                    said: Said::Nothing { asked: "the provider".to_owned(), reason },
                }
            }
            Some(endpoint) => match fetch(provider, endpoint).await {
                Ok((_, skew)) => Answer { skew, said: Said::Configured(endpoint.clone()) },
                Err(reason) => nothing(endpoint, reason),
            },
        };
    };
    let mut answer = None;
    for address in addresses(issuer) {
        let (response, skew) = match fetch(provider, &address).await {
            Ok(fetched) => fetched,
            Err(reason) => return nothing(&address, reason),
        };
        let said = match metadata::read(&response, issuer) {
            Ok(metadata) => Said::Metadata(Box::new(metadata)),
            Err(error) => {
                let elsewhere = matches!(error, metadata::Error::Nowhere { .. });
                let reason = match error {
                    metadata::Error::OtherIssuer => other(&response.body, issuer),
                    error => error.to_string(),
                };
                let said = Said::Wrong { asked: address.to_string(), reason };
                if elsewhere && answer.is_none() {
                    answer = Some(Answer { skew, said });
                    continue;
                }
                said
            }
        };
        return Answer { skew, said };
    }
    answer.unwrap_or_else(|| nothing(issuer, "there is no address to ask".to_owned()))
}

fn nothing(asked: &Url, reason: String) -> Answer {
    Answer { skew: None, said: Said::Nothing { asked: asked.to_string(), reason } }
}

async fn fetch(
    provider: &Provider,
    address: &Url,
) -> Result<(crate::oauth::answer::Response, Option<i64>), String> {
    let begun = clock::now();
    let request = request::fetch(address.clone());
    let answer = http::send_dated(&request, provider.ca_file.as_deref(), DEADLINE).await;
    let dated = answer.map_err(|error| chain::line(&error))?;
    let ended = clock::now();
    let skew = dated.date.map(|date| skew(date, begun.unix(), ended.unix()));
    Ok((dated.response, skew))
}

/// How far a clock that showed these times around an answer is from the answer's date, in seconds.
/// The least that explains it: the answer was made at some time in between, and a date has whole
/// seconds.
fn skew(date: u64, begun: u64, ended: u64) -> i64 {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    if begun > date {
        signed(begun.saturating_sub(date).saturating_sub(1))
    } else if ended < date {
        -signed(date.saturating_sub(ended))
    } else {
        0
    }
}

fn other(body: &[u8], issuer: &Url) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let named = body.get("issuer").and_then(serde_json::Value::as_str).unwrap_or_default();
    format!("names another issuer, {}, and not {}", short(named), name(issuer))
}

/// What the provider's clock says of ours.
pub(super) fn judge_clock(answer: &Answer) -> Finding {
    let Some(skew) = answer.skew else {
        return match &answer.said {
            Said::Nothing { .. } => Finding::skipped("the provider does not answer"),
            _ => Finding::warn(
                "the provider's answer has no Date, so that this clock cannot be compared",
                "compare it yourself: date -u",
            ),
        };
    };
    let off = skew.unsigned_abs();
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let says = format!("this clock is {} {direction} the provider's", span(off));
    const REMEDY: &str = "set the clock, and keep it by NTP: timedatectl set-ntp true";
    match off {
        FAILS_S.. => Finding::fail(says, REMEDY),
        WARNS_S.. => Finding::warn(says, REMEDY),
        _ => Finding::ok("as the provider's, within 5 s"),
    }
}

/// Whether the provider is the one that the settings and the stored grant mean.
pub(super) fn judge(answer: &Answer, provider: &Provider, grant: Option<&Grant>) -> Finding {
    match &answer.said {
        Said::Nothing { asked, reason } => {
            let remedy =
                "check the network, HTTPS_PROXY, and the provider's address in the settings";
            Finding::fail(format!("{asked} cannot be reached: {reason}"), remedy)
        }
        Said::Wrong { asked, reason } => {
            let remedy = format!("mend providers.{}.issuer", provider.name);
            Finding::fail(format!("{asked} is no metadata of the issuer: {reason}"), remedy)
        }
        Said::Configured(endpoint) => stored(endpoint, provider, grant)
            .unwrap_or_else(|| Finding::ok(format!("{endpoint} answers; no issuer is configured"))),
        Said::Metadata(metadata) => {
            let named = provider.token_endpoint.as_ref().or(metadata.token.as_ref());
            let Some(named) = named else {
                let says = format!("the metadata of {} have no token_endpoint", metadata.issuer);
                let remedy = format!("set token_endpoint in [providers.{}]", provider.name);
                return Finding::fail(says, remedy);
            };
            stored(named, provider, grant).unwrap_or_else(|| {
                Finding::ok(format!(
                    "{} answers, and is the issuer that is configured",
                    metadata.issuer
                ))
            })
        }
    }
}

/// A grant is exchanged where it was issued, and nowhere else.
fn stored(named: &Url, provider: &Provider, grant: Option<&Grant>) -> Option<Finding> {
    let endpoint = &grant.filter(|grant| grant.token_endpoint != *named)?.token_endpoint;
    let says = format!("the stored grant is for {endpoint}, but the token endpoint is {named} now");
    Some(Finding::login(says, login(&provider.name, filter::bundle::DEFAULT_CREDENTIAL)))
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_skew_is_the_least_that_explains_the_date() {
        for (date, begun, ended, expected) in [
            (100, 100, 100, 0),
            (100, 101, 101, 0),
            (100, 98, 103, 0),
            (100, 106, 107, 5),
            (100, 90, 95, -5),
            (100, 3_700, 3_701, 3_599),
        ] {
            assert_eq!(skew(date, begun, ended), expected, "{date} {begun} {ended}");
        }
    }

    #[test]
    fn a_clock_may_be_a_little_off() {
        let said = || Said::Configured("https://id.example/token".parse().unwrap());
        for (skew, verdict, words) in [
            (Some(0), Verdict::Ok, "within 5 s"),
            (Some(-4), Verdict::Ok, "within 5 s"),
            (Some(5), Verdict::Warn, "5 s ahead of"),
            (Some(-59), Verdict::Warn, "59 s behind"),
            (Some(60), Verdict::Fail, "1 min ahead of"),
            (Some(-3_600), Verdict::Fail, "1 h behind"),
            (None, Verdict::Warn, "no Date"),
        ] {
            let finding = judge_clock(&Answer { skew, said: said() });
            assert_eq!(finding.verdict, verdict, "{skew:?}");
            assert!(finding.says.contains(words), "{}", finding.says);
        }
    }
}
