//! One request at one place: at the gate, at the bearer (once for each attempt), or at both.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use log::warn;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::clock;
use super::root::Plugin;
use crate::agenda::{REPORT_TIMEOUT, Report};
use crate::bundle::{DEFAULT_CREDENTIAL, Rejection};
use crate::config::{Bearer, Gate};
use crate::gate::{Decision, Keys, decide};
use crate::headers::{REPLAY, ROUTED_BY, Request, request_reason, response_reason};
use crate::refusal::Refusal;
use crate::serving::Injection;
use crate::verdict::{self, INSPECTED_BYTES, Verdict};

/// Filter state that the gate leaves for the bearer: the request's credential. A client has no way
/// to set filter state, so its presence proves that a gate of this Envoy let the request pass.
const CREDENTIAL: &str = "torchbearer.credential";
/// Filter state for the access log: the client's name.
const CLIENT: &str = "torchbearer.client";
/// Filter state that outlives an attempt: the one replay has been asked for.
const REPLAYED: &str = "torchbearer.replayed";

/// How long the gate waits for the first bundle where no `bearer` section says otherwise.
const GATE_WAIT: Duration = Duration::from_secs(2);

/// The request phase of a stream, which may have to wait and be resumed by a root context.
pub struct Held {
    id: u32,
    plugin: Rc<Plugin>,
    phase: Cell<Phase>,
    admitted: Cell<bool>,
    credential: OnceCell<String>,
    /// The generation that was injected.
    injected: Cell<Option<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The request goes on.
    Passing,
    /// It waits, for this and until then.
    Waiting(Wait, Duration),
    /// It has been answered here.
    Answered,
    /// The stream has ended.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstBundle,
    NextToken,
    Replacement,
}

enum Step {
    Pass,
    Wait(Wait),
    Refuse(Refusal),
}

impl Held {
    /// Goes as far as possible. The effective context must be this stream.
    fn advance(&self) {
        let config = &self.plugin.config;
        let mut step = Step::Pass;
        if let Some(gate) = config.gate.as_ref().filter(|_| !self.admitted.get()) {
            step = self.admit(gate);
            self.admitted.set(matches!(step, Step::Pass));
        }
        if let (Step::Pass, Some(_)) = (&step, &config.bearer) {
            step = self.inject();
        }
        match step {
            Step::Pass => self.phase.set(Phase::Passing),
            Step::Wait(wait) => self.wait(wait),
            Step::Refuse(refusal) => self.refuse(refusal),
        }
    }

    fn wait(&self, wait: Wait) {
        match self.phase.get() {
            Phase::Waiting(same, _) if same == wait => {}
            _ => {
                let bearer_wait = self.plugin.config.bearer.as_ref().map(|Bearer { wait }| *wait);
                let bound = match wait {
                    Wait::FirstBundle | Wait::NextToken => bearer_wait.unwrap_or(GATE_WAIT),
                    Wait::Replacement => REPORT_TIMEOUT,
                };
                self.phase.set(Phase::Waiting(wait, clock::monotonic() + bound));
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        self.phase.set(Phase::Answered);
        self.plugin.metrics.refusals.increment();
        let headers = refusal.headers();
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = refusal.body();
        let sent = hostcalls::send_http_response(
            u32::from(refusal.status),
            headers,
            Some(body.as_bytes()),
        );
        if let Err(status) = sent {
            warn!("torchbearer: a {} could not be sent: {status:?}", refusal.code);
        }
    }

    /// Called by the root context while this stream waits. Returns whether it still does.
    pub fn wake(&self, changed: bool, now: Duration) -> bool {
        let Phase::Waiting(wait, until) = self.phase.get() else {
            return false;
        };
        let over = now >= until;
        if !changed && !over {
            return true;
        }
        if hostcalls::set_effective_context(self.id).is_err() {
            return false;
        }
        if changed {
            self.advance();
        }
        match self.phase.get() {
            Phase::Waiting(..) if over => {
                self.refuse(match wait {
                    Wait::FirstBundle => Refusal::NO_BUNDLE.retry_after(1),
                    Wait::NextToken => Refusal::TOKEN_EXPIRED.retry_after(1),
                    Wait::Replacement => Refusal::TOKEN_REJECTED.retry_after(1),
                });
                false
            }
            Phase::Waiting(..) => true,
            Phase::Passing => {
                let _ = hostcalls::resume_http_request();
                false
            }
            Phase::Answered | Phase::Ended => false,
        }
    }

    fn admit(&self, gate: &Gate) -> Step {
        let headers = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        let request = Request::read(&headers);
        let admitted = self.plugin.source.serving(|serving| {
            let keys = Keys { configured: &gate.client_keys, published: serving.client_keys() };
            match decide(keys, &request, clock::unix(), local_address) {
                Decision::Admit(client) => Ok(client.cloned()),
                Decision::Refuse(refusal) => Err(Step::Refuse(refusal)),
                Decision::AwaitBundle => Err(Step::Wait(Wait::FirstBundle)),
            }
        });
        let client = match admitted {
            Ok(client) => client,
            Err(step) => return step,
        };
        for name in &request.strip {
            // What cannot be removed must not leave.
            if hostcalls::remove_map_value(MapType::HttpRequestHeaders, name).is_err() {
                return Step::Refuse(Refusal::NOT_ADMITTED);
            }
        }
        let credential = client.as_ref().map_or(DEFAULT_CREDENTIAL, |client| &client.credential);
        let marked = hostcalls::set_property(vec![CREDENTIAL], Some(credential.as_bytes()));
        if marked.is_err() {
            return Step::Refuse(Refusal::NOT_ADMITTED);
        }
        if let Some(client) = &client {
            let _ = hostcalls::set_property(vec![CLIENT], Some(client.id.as_str().as_bytes()));
        }
        let _ = self.credential.set(credential.to_owned());
        Step::Pass
    }

    fn inject(&self) -> Step {
        let Some(credential) = self.credential() else {
            return Step::Refuse(Refusal::NOT_ADMITTED);
        };
        let now = clock::unix();
        let found = self.plugin.source.serving(|serving| {
            Ok(match serving.injection(credential, now) {
                Injection::Ready { authorization, generation } => {
                    let set = hostcalls::set_map_value_bytes(
                        MapType::HttpRequestHeaders,
                        "authorization",
                        Some(authorization.as_bytes()),
                    );
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
    fn token_refused(&self, status: u16) {
        let (Some(generation), Some(credential)) = (self.injected.get(), self.credential()) else {
            return;
        };
        self.plugin.metrics.rejections.increment();
        let report = self.reject(credential, generation, status);
        let replaceable = matches!(report, None | Some(Report::Pending));
        let upstream = self.plugin.config.gate.is_none();
        let replayed = matches!(hostcalls::get_property(vec![REPLAYED]), Ok(Some(_)));
        if upstream && replaceable && !replayed {
            let marked = hostcalls::set_property(vec![REPLAYED], Some(b"1"));
            if marked.is_ok()
                && hostcalls::add_map_value(MapType::HttpResponseHeaders, REPLAY, "1").is_ok()
            {
                self.plugin.metrics.replays.increment();
            }
        }
    }
}

/// The address on which the request's connection was accepted.
fn local_address() -> Option<Vec<u8>> {
    hostcalls::get_property(vec!["destination", "address"]).ok().flatten()
}

/// Whether the request's connection is TLS, in a word that `x-forwarded-proto` can have.
fn connection_scheme() -> Vec<u8> {
    let tls = hostcalls::get_property(vec!["connection", "tls_version"]).ok().flatten();
    if tls.is_some_and(|version| !version.is_empty()) { b"https".into() } else { b"http".into() }
}

/// A stream as the SDK sees it.
pub struct Stream {
    held: Rc<Held>,
    response: Response,
}

enum Response {
    Passing,
    /// The body of a 403 is looked into, with the answer held back or not.
    Inspecting {
        held: bool,
        seen: Vec<u8>,
    },
}

impl Stream {
    /// A stream of a plugin configuration.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Self {
        let held = Held {
            id,
            plugin,
            phase: Cell::new(Phase::Passing),
            admitted: Cell::new(false),
            credential: OnceCell::new(),
            injected: Cell::new(None),
        };
        Self { held: Rc::new(held), response: Response::Passing }
    }

    fn request_action(&self) -> Action {
        if self.held.phase.get() == Phase::Passing { Action::Continue } else { Action::Pause }
    }

    /// Takes a part of the body. Where the answer is held back, each part begins at the start.
    fn look(&mut self, size: usize) {
        if let Response::Inspecting { held, seen } = &mut self.response {
            if *held {
                seen.clear();
            }
            let read = size.min(INSPECTED_BYTES.saturating_sub(seen.len()));
            let part = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, read);
            seen.extend_from_slice(&part.ok().flatten().unwrap_or_default());
        }
    }

    /// Judges the body once it is whole, or as long as it is looked at.
    fn judge(&mut self, whole: bool) -> Action {
        match &self.response {
            Response::Inspecting { seen, held } if !whole && seen.len() < INSPECTED_BYTES => {
                return if *held { Action::Pause } else { Action::Continue };
            }
            Response::Inspecting { seen, .. } => {
                if verdict::says_unauthenticated(seen) {
                    self.held.token_refused(403);
                }
            }
            Response::Passing => {}
        }
        self.response = Response::Passing;
        Action::Continue
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        self.held.advance();
        if let Phase::Waiting(..) = self.held.phase.get() {
            self.held.plugin.source.hold(Rc::clone(&self.held));
            self.held.plugin.tick_at_once();
        }
        self.request_action()
    }

    fn on_http_request_body(&mut self, _size: usize, _end: bool) -> Action {
        self.request_action()
    }

    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        if self.held.plugin.config.gate.is_some() {
            let trailers = hostcalls::get_map_bytes(MapType::HttpRequestTrailers);
            for (name, _) in trailers.unwrap_or_default() {
                if request_reason(&name).is_some() {
                    let _ = hostcalls::remove_map_value(MapType::HttpRequestTrailers, &name);
                }
            }
        }
        self.request_action()
    }

    fn on_http_response_headers(&mut self, _headers: usize, end: bool) -> Action {
        let config = &self.held.plugin.config;
        if config.gate.is_some() {
            let headers = hostcalls::get_map_bytes(MapType::HttpResponseHeaders);
            for (name, _) in headers.unwrap_or_default() {
                if response_reason(&name).is_some() {
                    let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, &name);
                }
            }
        }
        if self.held.injected.get().is_none() {
            return Action::Continue;
        }
        let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status");
        let status = status.ok().flatten();
        let status = status.and_then(|status| str::from_utf8(&status).ok()?.parse().ok());
        match status.map_or(Verdict::Accepted, verdict::of_status) {
            Verdict::Dead => self.held.token_refused(401),
            Verdict::Inspect if !end => {
                // Only where the replay is possible is there a reason to hold the headers.
                let held = config.gate.is_none();
                self.response = Response::Inspecting { held, seen: Vec::new() };
                if held {
                    return Action::Pause;
                }
            }
            Verdict::Inspect | Verdict::Accepted => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.look(size);
        self.judge(end)
    }

    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        self.judge(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.held.phase.set(Phase::Ended);
    }
}
