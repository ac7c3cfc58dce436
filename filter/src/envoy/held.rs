//! The request phase of a stream, which may have to wait and be resumed by a root context.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use log::warn;
use proxy_wasm::hostcalls;

use super::clock;
use super::request_id;
use super::root::Plugin;
use crate::agenda::REPORT_TIMEOUT;
use crate::client::ClientKey;
use crate::config::Bearer;
use crate::limit::Quota;
use crate::refusal::Refusal;

/// How long the gate waits for the first bundle where no `bearer` section says otherwise.
const GATE_WAIT: Duration = Duration::from_secs(2);

/// Filter state for the access log: the code of the answer that the filter gave itself.
const REFUSAL: &str = "torchbearer.refusal";

/// The request phase of a stream, which may have to wait and be resumed by a root context.
pub struct Held {
    id: u32,
    pub(super) plugin: Rc<Plugin>,
    phase: Cell<Phase>,
    admitted: Cell<bool>,
    /// Whether the source knows that it waits.
    pub(super) listed: Cell<bool>,
    body: Cell<Body>,
    /// The method, as metrics show it.
    pub(super) method: Cell<&'static str>,
    pub(super) credential: OnceCell<String>,
    /// The client that was admitted, if keys are asked for.
    pub(super) client: OnceCell<Rc<ClientKey>>,
    /// What is left of the client's requests, if they are limited.
    pub(super) quota: Cell<Option<Quota>>,
    /// The generation that was injected.
    pub(super) injected: Cell<Option<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The request goes on.
    Passing,
    /// It waits, for this and until then.
    Waiting(Wait, Duration),
    /// Its body has to arrive first.
    Reading,
    /// It has been answered here.
    Answered,
    /// The stream has ended.
    Ended,
}

/// How much of a request's body has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// There is none.
    None,
    /// So many bytes, and more to come.
    Partial(usize),
    /// All of it.
    Whole(usize),
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The first bundle.
    FirstBundle,
    /// A token in the place of one that has expired.
    NextToken,
    /// A token in the place of one that the upstream refused.
    Replacement,
}

/// What comes of one job in the request phase.
pub(super) enum Step {
    /// On to the next.
    Pass,
    /// Again when this is there.
    Wait(Wait),
    /// Again when the body is there.
    Read,
    /// It ends here.
    Refuse(Refusal),
}

impl Held {
    /// The request phase of a stream that begins.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Self {
        Self {
            id,
            plugin,
            phase: Cell::new(Phase::Passing),
            admitted: Cell::new(false),
            listed: Cell::new(false),
            body: Cell::new(Body::None),
            method: Cell::new("other"),
            credential: OnceCell::new(),
            client: OnceCell::new(),
            quota: Cell::new(None),
            injected: Cell::new(None),
        }
    }

    /// Whether the request may go on.
    pub fn passes(&self) -> bool {
        self.phase.get() == Phase::Passing
    }

    /// Whether it waits for something.
    pub fn waits(&self) -> bool {
        matches!(self.phase.get(), Phase::Waiting(..))
    }

    /// Notes that the stream has ended, so that nothing is resumed.
    pub fn end(&self) {
        self.phase.set(Phase::Ended);
        if let Some(client) = self.client.get().filter(|client| client.concurrency > 0) {
            self.plugin.limits.leave(client.id.as_str());
        }
    }

    /// Whether the request has a body.
    pub(super) fn has_body(&self) -> bool {
        self.body.get() != Body::None
    }

    /// Begins with the headers; `end`: there is no body. The effective context must be this stream,
    /// as in all that follows.
    pub fn begin(&self, end: bool) {
        self.body.set(if end { Body::None } else { Body::Partial(0) });
        self.advance();
    }

    /// Takes note of the body that has arrived: so many bytes of what is held back, or of this part.
    pub fn read(&self, size: usize, end: bool) {
        if self.phase.get() != Phase::Passing {
            self.body.set(if end { Body::Whole(size) } else { Body::Partial(size) });
        }
        if self.phase.get() == Phase::Reading {
            self.advance();
        }
    }

    /// Takes note that trailers have followed the body.
    pub fn read_trailers(&self) {
        if let Body::Partial(size) = self.body.get() {
            self.read(size, true);
        }
    }

    /// Goes as far as possible.
    fn advance(&self) {
        let config = &self.plugin.config;
        let mut step = Step::Pass;
        if let Some(gate) = &config.gate {
            if !self.admitted.get() {
                step = self.admit(gate);
                self.admitted.set(matches!(step, Step::Pass | Step::Read));
            }
            let reads = matches!(step, Step::Read) || self.phase.get() == Phase::Reading;
            if let (true, Body::Partial(size) | Body::Whole(size)) = (reads, self.body.get()) {
                let whole = matches!(self.body.get(), Body::Whole(_));
                step = self.judge_body(gate, size, whole);
            }
        }
        if let (Step::Pass, Some(_)) = (&step, &config.bearer) {
            step = self.inject();
        }
        match step {
            Step::Pass => self.phase.set(Phase::Passing),
            Step::Wait(wait) => self.wait(wait),
            Step::Read => self.phase.set(Phase::Reading),
            Step::Refuse(refusal) => self.refuse(refusal),
        }
    }

    fn wait(&self, wait: Wait) {
        match self.phase.get() {
            Phase::Waiting(same, _) if same == wait => {}
            _ => {
                let bearer_wait =
                    self.plugin.config.bearer.as_ref().map(|Bearer { wait, .. }| *wait);
                let bound = match wait {
                    Wait::FirstBundle | Wait::NextToken => bearer_wait.unwrap_or(GATE_WAIT),
                    Wait::Replacement => REPORT_TIMEOUT,
                };
                let until = clock::monotonic().saturating_add(bound);
                self.phase.set(Phase::Waiting(wait, until));
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        self.phase.set(Phase::Answered);
        self.plugin.metrics.refused(refusal.code);
        let _ = hostcalls::set_property(vec![REFUSAL], Some(refusal.code.as_bytes()));
        let request_id = request_id::fresh();
        let headers = refusal.headers(request_id.as_deref());
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
            Phase::Reading | Phase::Answered | Phase::Ended => false,
        }
    }
}
