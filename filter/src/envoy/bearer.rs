//! The bearer: puts in the access token, and deals with one that the upstream has refused.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::clock;
use super::gate::CREDENTIAL;
use super::held::{Held, Step, Wait};
use crate::agenda::Report;
use crate::bundle::Rejection;
use crate::headers::{REPLAY, ROUTED_BY};
use crate::refusal::Refusal;
use crate::serving::Injection;

/// Filter state for the access log: the generation of the token that was put in last.
const GENERATION: &str = "torchbearer.generation";

/// Filter state that outlives an attempt: the one replay has been asked for.
const REPLAYED: &str = "torchbearer.replayed";

impl Held {
    /// Puts in the token. The effective context must be this stream.
    pub(super) fn inject(&self) -> Step {
        let Some(credential) = self.credential() else {
            return Step::Refuse(Refusal::NOT_ADMITTED);
        };
        let bearer = self.plugin.config.bearer.as_ref();
        let injector = bearer.and_then(|bearer| bearer.credential_injector.as_deref());
        if injector.is_some_and(|injected| injected != credential) {
            return Step::Refuse(Refusal::UNKNOWN_CREDENTIAL);
        }
        let now = clock::unix();
        let found = self.plugin.source.serving(|serving| {
            Ok(match serving.injection(credential, now) {
                Injection::Ready { authorization: "", .. } if injector.is_none() => {
                    Step::Refuse(Refusal::NOT_INJECTED)
                }
                Injection::Ready { authorization, generation, shown } => {
                    let set = match injector {
                        // Envoy's own filter behind this one does it.
                        Some(_) => Ok(()),
                        None => hostcalls::set_map_value_bytes(
                            MapType::HttpRequestHeaders,
                            "authorization",
                            Some(authorization.as_bytes()),
                        ),
                    };
                    // At a gate the routes are still to be looked at: there the header stays, with
                    // the connection's own scheme, which is nothing of the client's.
                    let cleaned = if self.plugin.config.gate.is_some() {
                        hostcalls::set_map_value_bytes(
                            MapType::HttpRequestHeaders,
                            ROUTED_BY,
                            Some(&connection_scheme()),
                        )
                    } else {
                        hostcalls::remove_map_value(MapType::HttpRequestHeaders, ROUTED_BY)
                    };
                    if set.is_err() || cleaned.is_err() {
                        return Ok(Step::Refuse(Refusal::NOT_ADMITTED));
                    }
                    let _ = hostcalls::set_property(vec![GENERATION], Some(shown.as_bytes()));
                    self.injected.set(Some(generation));
                    Step::Pass
                }
                Injection::Rejected { generation } => return Err(generation),
                Injection::NoBundle => Step::Wait(Wait::FirstBundle),
                Injection::Expired => Step::Wait(Wait::NextToken),
                Injection::Unavailable { retry_at } => {
                    let seconds = retry_at.saturating_sub(now).max(1);
                    Step::Refuse(Refusal::TOKEN_EXPIRED.retry_after(seconds))
                }
                Injection::LoginRequired => Step::Refuse(Refusal::LOGIN_REQUIRED),
                Injection::Unknown => Step::Refuse(Refusal::UNKNOWN_CREDENTIAL),
            })
        });
        match found {
            Ok(step) => step,
            Err(generation) => self.await_replacement(credential, generation),
        }
    }

    /// The request's credential, as the gate has found it.
    fn credential(&self) -> Option<&str> {
        if self.credential.get().is_none() {
            let mark = hostcalls::get_property(vec![CREDENTIAL]).ok().flatten()?;
            let _ = self.credential.set(String::from_utf8(mark).ok()?);
        }
        self.credential.get().map(String::as_str)
    }

    fn await_replacement(&self, credential: &str, generation: u64) -> Step {
        match self.reject(credential, generation, 401) {
            Some(Report::Pending) | None => Step::Wait(Wait::Replacement),
            Some(Report::LoginRequired) => Step::Refuse(Refusal::LOGIN_REQUIRED),
            Some(Report::Failed { retry_after }) => {
                Step::Refuse(Refusal::TOKEN_REJECTED.retry_after(retry_after))
            }
        }
    }

    fn reject(&self, credential: &str, generation: u64, status: u16) -> Option<Report> {
        let credential = credential.to_owned();
        let report = self.plugin.source.reject(&Rejection { credential, generation, status });
        if report == Some(Report::Pending) {
            self.plugin.tick_at_once();
        }
        report
    }

    /// The upstream refused the token: has it replaced, and asks for the one replay where there is
    /// a router behind this place to make it.
    pub fn token_refused(&self, status: u16) {
        let (Some(generation), Some(credential)) = (self.injected.get(), self.credential()) else {
            return;
        };
        self.plugin.metrics.rejected(credential);
        // That the token which the replay has waited for is refused, too, is more likely the
        // request's fault. If it is not, the next request's first attempt tells.
        if matches!(hostcalls::get_property(vec![REPLAYED]), Ok(Some(_))) {
            return;
        }
        let report = self.reject(credential, generation, status);
        let replaceable = matches!(report, None | Some(Report::Pending));
        let upstream = self.plugin.config.gate.is_none();
        if upstream && replaceable {
            let marked = hostcalls::set_property(vec![REPLAYED], Some(b"1"));
            if marked.is_ok()
                && hostcalls::add_map_value(MapType::HttpResponseHeaders, REPLAY, "1").is_ok()
            {
                self.plugin.metrics.replayed(credential);
            }
        }
    }
}

/// Whether the request's connection is TLS, in a word that `x-forwarded-proto` can have.
fn connection_scheme() -> Vec<u8> {
    let tls = hostcalls::get_property(vec!["connection", "tls_version"]).ok().flatten();
    if tls.is_some_and(|version| !version.is_empty()) { b"https".into() } else { b"http".into() }
}
