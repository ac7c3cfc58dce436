//! Where a worker's bundles come from: one for each cluster name, shared by all root contexts of
//! the VM, so that a gate and a bearer in one VM poll once.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::time::Duration;

use log::{debug, info, warn};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::clock;
use super::held::Held;
use super::metrics::Metrics;
use crate::agenda::{Agenda, Answer, Call, POLL_TIMEOUT, POLL_WAIT, REPORT_TIMEOUT, Report};
use crate::bundle::{
    BUNDLE_PATH, MAX_BYTES, REJECTIONS_PATH, Rejection, RejectionRefusal, WORKER_PARAMETER,
};
use crate::json;
use crate::serving::{Acceptance, Injection, Serving};

/// Tick periods: with requests waiting, and without.
const BUSY: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_millis(250);

/// How often the tokens are shown in the metrics.
const SHOW: Duration = Duration::from_secs(1);

thread_local! {
    static SOURCES: RefCell<Vec<Rc<Source>>> = RefCell::default();
}

/// Bundles from one cluster.
pub struct Source {
    cluster: String,
    /// By this random number the refresher tells this VM from others.
    worker: u64,
    serving: RefCell<Serving>,
    agenda: RefCell<Agenda>,
    calls: RefCell<Vec<Flight>>,
    waiting: RefCell<Vec<Rc<Held>>>,
    /// Whether the last poll failed: its reason is logged once, not twice a second.
    failing: Cell<bool>,
    /// When the tokens were shown in the metrics.
    shown: Cell<Duration>,
}

/// A call under way, and the root context that will hear its answer.
struct Flight {
    token: u32,
    call: Call,
    root: u32,
}

impl Source {
    /// The source of a cluster, the same for all who ask in this VM.
    pub fn of_cluster(cluster: &str) -> Rc<Self> {
        SOURCES.with_borrow_mut(|sources| {
            if let Some(source) = sources.iter().find(|source| source.cluster == cluster) {
                return Rc::clone(source);
            }
            let source = Rc::new(Self {
                cluster: cluster.to_owned(),
                worker: RandomState::new().hash_one(0),
                serving: RefCell::default(),
                agenda: RefCell::default(),
                calls: RefCell::default(),
                waiting: RefCell::default(),
                failing: Cell::new(false),
                shown: Cell::default(),
            });
            sources.push(Rc::clone(&source));
            source
        })
    }

    /// The key of the copy that outlives this VM. Other vendors' filters may share the same space.
    fn shared_key(&self) -> String {
        format!("torchbearer/bundle/{}", self.cluster)
    }

    /// Takes over the copy that an earlier VM, or another worker's, has left.
    pub fn adopt_shared(&self) {
        if let Ok((Some(document), _)) = hostcalls::get_shared_data(&self.shared_key()) {
            let accepted = self.serving.borrow_mut().accept(&document);
            debug!("torchbearer: bundle of an earlier VM: {accepted:?}");
        }
    }

    /// Looks at what is served. `read` must not come back to this source.
    pub fn serving<T>(&self, read: impl FnOnce(&Serving) -> T) -> T {
        read(&self.serving.borrow())
    }

    /// Notes that the upstream refused a token and sees to it that the refresher hears of it.
    /// `None`: a newer token is in force already.
    pub fn reject(&self, rejection: &Rejection) -> Option<Report> {
        let mut serving = self.serving.borrow_mut();
        serving.reject(&rejection.credential, rejection.generation);
        let rejected = serving.injection(&rejection.credential, 0);
        let Injection::Rejected { .. } = rejected else {
            return None;
        };
        Some(self.agenda.borrow_mut().report(rejection, clock::monotonic()))
    }

    /// Resumes or answers this request when its wait has an end.
    pub fn hold(&self, held: &Rc<Held>) {
        if !held.listed.replace(true) {
            self.waiting.borrow_mut().push(Rc::clone(held));
        }
    }

    /// Makes the calls that are due and ends the waits that are over. To be called on each tick
    /// of a root context. Returns the period in which it wants to be called again.
    pub fn drive(&self, root: u32, metrics: &Metrics) -> Duration {
        let now = clock::monotonic();
        self.show(metrics, now);
        self.call(root, now);
        self.wake(root, false);
        if self.waiting.borrow().is_empty() { CALM } else { BUSY }
    }

    /// Shows each token's age, once a second.
    fn show(&self, metrics: &Metrics, now: Duration) {
        if now < self.shown.get().saturating_add(SHOW) {
            return;
        }
        self.shown.set(now);
        let unix = clock::unix();
        for (credential, token) in self.serving.borrow().tokens() {
            metrics.token(credential, token.generation, token.expires_at, unix);
        }
    }

    fn call(&self, root: u32, now: Duration) {
        let due = self.agenda.borrow_mut().calls_due(now);
        for call in due {
            match self.dispatch(&call) {
                Ok(token) => self.calls.borrow_mut().push(Flight { token, call, root }),
                Err(reason) => {
                    self.failed(&reason);
                    let answer = Answer::Failed { retry_after: None };
                    self.agenda.borrow_mut().answered(&call, answer, now);
                }
            }
        }
    }

    fn dispatch(&self, call: &Call) -> Result<u32, String> {
        let (method, path, body, timeout) = match call {
            Call::Poll => {
                let generation = self.serving.borrow().generation();
                let worker = self.worker;
                let path = format!(
                    "{BUNDLE_PATH}?generation={generation}&wait={POLL_WAIT}\
                     &{WORKER_PARAMETER}={worker:016x}"
                );
                ("GET", path, None, POLL_TIMEOUT)
            }
            Call::Report(rejection) => {
                let body = serde_json::to_vec(rejection).map_err(|error| error.to_string())?;
                ("POST", REJECTIONS_PATH.to_owned(), Some(body), REPORT_TIMEOUT)
            }
        };
        let headers = vec![
            (":method", method),
            (":path", &path),
            (":authority", "refresher"),
            ("content-type", "application/json"),
        ];
        hostcalls::dispatch_http_call(&self.cluster, headers, body.as_deref(), Vec::new(), timeout)
            .map_err(|status| format!("the call cannot be made: {status:?}"))
    }

    /// Takes the answer of a call. `headers` is 0 when there was none.
    pub fn answered(&self, root: u32, token: u32, headers: usize, metrics: &Metrics) {
        let Some(call) = self.landed(token) else {
            return;
        };
        let answer = read_answer(headers)
            .and_then(|(status, body)| self.take(&call, status, &body, metrics));
        let answer = match answer {
            Ok(answer) => {
                if self.failing.replace(false) {
                    info!("torchbearer: cluster {} answers again", self.cluster);
                }
                answer
            }
            Err(reason) => {
                self.failed(&reason);
                Answer::Failed { retry_after: None }
            }
        };
        let now = clock::monotonic();
        self.agenda.borrow_mut().answered(&call, answer, now);
        self.call(root, now);
        self.wake(root, answer != Answer::Nothing);
    }

    fn landed(&self, token: u32) -> Option<Call> {
        let mut calls = self.calls.borrow_mut();
        let index = calls.iter().position(|flight| flight.token == token)?;
        Some(calls.swap_remove(index).call)
    }

    fn take(
        &self,
        call: &Call,
        status: u16,
        body: &[u8],
        metrics: &Metrics,
    ) -> Result<Answer, String> {
        match (call, status) {
            (_, 200) => {
                let accepted =
                    self.serving.borrow_mut().accept(body).map_err(|error| error.to_string())?;
                if accepted == Acceptance::NotNewer {
                    return Ok(Answer::Nothing);
                }
                let _ = hostcalls::set_shared_data(&self.shared_key(), Some(body), None);
                let generation = self.serving.borrow().generation();
                metrics.serves(generation);
                debug!("torchbearer: bundle generation {generation} is in force");
                Ok(Answer::Newer)
            }
            (Call::Poll, 204) => Ok(Answer::Nothing),
            (Call::Report(_), 409) => Ok(Answer::LoginRequired),
            (Call::Report(_), 503) => {
                let refusal = json::read::<RejectionRefusal>(body);
                let retry_after = refusal.ok().and_then(|refusal| refusal.retry_after);
                Ok(Answer::Failed { retry_after })
            }
            (_, status) => Err(format!("status {status}")),
        }
    }

    fn failed(&self, reason: &str) {
        if !self.failing.replace(true) {
            warn!("torchbearer: no bundle from cluster {}: {reason}", self.cluster);
        }
    }

    /// Lets waiting requests go on: all of them after a change, else those whose time is over.
    fn wake(&self, root: u32, changed: bool) {
        let waiting = self.waiting.take();
        if waiting.is_empty() {
            return;
        }
        let now = clock::monotonic();
        let still = waiting.into_iter().filter(|held| {
            let waits = held.wake(changed, now);
            held.listed.set(waits);
            waits
        });
        let still: Vec<_> = still.collect();
        // Waking may have made further requests wait.
        self.waiting.borrow_mut().extend(still);
        let _ = hostcalls::set_effective_context(root);
    }

    /// A root context is gone, and with it the answers to its calls.
    pub fn abandon(&self, root: u32) {
        let mut calls = self.calls.borrow_mut();
        let mut agenda = self.agenda.borrow_mut();
        calls.retain(|flight| {
            if flight.root == root {
                agenda.abandoned(&flight.call, clock::monotonic());
            }
            flight.root != root
        });
    }
}

/// Status and body of the answer of the call that is being handled.
fn read_answer(headers: usize) -> Result<(u16, Vec<u8>), String> {
    if headers == 0 {
        return Err("no answer".to_owned());
    }
    let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status")
        .ok()
        .flatten()
        .and_then(|status| str::from_utf8(&status).ok()?.parse().ok())
        .ok_or("an answer without a status")?;
    // One byte more than is accepted, so that what is too large is seen to be.
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, MAX_BYTES + 1);
    Ok((status, body.ok().flatten().unwrap_or_default()))
}
