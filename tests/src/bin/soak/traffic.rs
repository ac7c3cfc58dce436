//! Requests and streams that go on whatever happens, and what became of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use simulator::Control;
use tests::{Stack, Stopwatch};
use tokio::task::JoinSet;

use crate::allowance::{Failed, Failure};
use crate::plan::Fault;

/// Callers of whole answers, and of streams.
const CALLERS: usize = 4;
const READERS: usize = 8;

/// A caller's pause between two requests, so that three runs load a machine of two cores without
/// filling it; and after a failure.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How long a client keeps a connection that it does not use. Less than the time in which an Envoy
/// that is replaced says in its answers that it closes the connection, so that each client hears it.
const IDLE: Duration = Duration::from_secs(2);

/// How far apart the events of a stream are, in milliseconds. The stream lasts longer than a token is
/// used, so that each sees a rotation.
const EVENTS_APART_MS: u64 = 550;

/// What has become of the traffic so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The latest fault.
    pub during: Option<Fault>,
    /// Requests by the latest fault at their end.
    pub requests: BTreeMap<Option<Fault>, u64>,
    /// Streams that began.
    pub streams: u64,
    pub failures: Vec<Failed>,
}

/// A record that every caller writes.
#[derive(Clone, Debug)]
pub struct Recorder {
    record: Arc<Mutex<Record>>,
    watch: Stopwatch,
}

impl Recorder {
    fn new() -> Self {
        Self { record: Arc::default(), watch: Stopwatch::start() }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start of the run.
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// From now on, what happens does so during this fault.
    pub fn begin(&self, fault: Option<Fault>) {
        self.lock().during = fault;
    }

    /// Counts a request that began at `began` and has ended.
    pub fn ended(&self, began: Duration, streams: bool, result: Result<(), (Failure, String)>) {
        let ended = self.elapsed();
        let mut record = self.lock();
        let during = record.during;
        *record.requests.entry(during).or_default() += 1;
        let began_to_stream =
            result.as_ref().map_or_else(|(failure, _)| *failure == Failure::Cut, |()| true);
        record.streams += u64::from(streams && began_to_stream);
        if let Err((failure, seen)) = result {
            record.failures.push(Failed { began, ended, during, failure, seen });
        }
    }
}

/// Traffic that runs.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    recorder: Recorder,
    provider: Control,
    /// The last request of the provider's log that was looked at, and how many there were.
    seen: u64,
    looked_at: u64,
    without_bearer: u64,
}

impl Traffic {
    /// Starts all callers.
    pub fn start(stack: &Stack) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let recorder = Recorder::new();
        let client = reqwest::Client::builder().no_proxy().pool_idle_timeout(IDLE).build()?;
        let mut tasks = JoinSet::new();
        for number in 0..CALLERS + READERS {
            let caller = Caller {
                client: client.clone(),
                url: stack.url("/v1/chat/completions"),
                recorder: recorder.clone(),
                stop: Arc::clone(&stop),
                streams: number >= CALLERS,
            };
            tasks.spawn(caller.run());
        }
        let provider = stack.provider().clone();
        Ok(Self { stop, tasks, recorder, provider, seen: 0, looked_at: 0, without_bearer: 0 })
    }

    /// Where to write what becomes of other requests.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Looks through what reached the API since the last time.
    pub fn observe(&mut self) {
        for request in self.provider.requests_after(self.seen) {
            self.seen = request.sequence;
            self.looked_at += 1;
            // A token that is dead is still the account's; anything else is not.
            let bearer = matches!(request.authorization.as_slice(), [one] if one != "invalid");
            self.without_bearer += u64::from(!bearer);
        }
    }

    /// Stops all callers. Gives the record, and how many requests reached the API without the
    /// account's token.
    ///
    /// # Errors
    ///
    /// When not all that reached the API has been looked at.
    pub async fn stop(mut self) -> Result<(Record, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        self.observe();
        let arrived = self.provider.summary().api_requests;
        let looked_at = self.looked_at;
        ensure!(looked_at == arrived, "{arrived} requests reached the API, {looked_at} were seen");
        Ok((self.recorder.lock().clone(), self.without_bearer))
    }
}

struct Caller {
    client: reqwest::Client,
    url: String,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    streams: bool,
}

impl Caller {
    async fn run(self) {
        while !self.stop.load(Ordering::Relaxed) {
            let began = self.recorder.elapsed();
            let result = self.call().await;
            let pause = if result.is_ok() { PAUSE } else { PAUSE_AFTER_FAILURE };
            self.recorder.ended(began, self.streams, result);
            tokio::time::sleep(pause).await;
        }
    }

    async fn call(&self) -> Result<(), (Failure, String)> {
        let broken = |error: reqwest::Error| (Failure::Connection, format!("{error:?}"));
        let delay = if self.streams { EVENTS_APART_MS } else { 0 };
        let body: Value = json!({
            "model": "grok-4", "stream": self.streams, "x_delay_ms": delay,
            "messages": [{"role": "user", "content": "hello"}]
        });
        let answer = self.client.post(&self.url).json(&body).send().await.map_err(broken)?;
        let status = answer.status();
        let text = answer.text().await;
        if self.streams && status == 200 {
            return match text {
                Ok(text) if is_whole(&text) => Ok(()),
                other => Err((Failure::Cut, format!("a stream broke off: {other:?}"))),
            };
        }
        let text = text.map_err(broken)?;
        match status.as_u16() {
            200 => Ok(()),
            status if text.contains("login_required") => {
                Err((Failure::LoginRequired, format!("{status}: {text}")))
            }
            status => Err((Failure::Answer, format!("{status}: {text}"))),
        }
    }
}

/// Whether a stream has come to its end.
pub fn is_whole(stream: &str) -> bool {
    stream.trim_end().ends_with("data: [DONE]")
}
