//! Requests and streams that go on whatever happens, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::Stack;
use tokio::task::JoinSet;

/// Callers of whole answers, and of streams.
const CALLERS: usize = 4;
const READERS: usize = 8;

/// A caller's pause between two requests, so that the run loads a machine without filling it.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Counters {
    stop: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
    logged_out: AtomicU64,
    streams: AtomicU64,
    streams_cut: AtomicU64,
}

/// What became of the traffic.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    pub failures: u64,
    /// Requests that were refused for want of a login.
    pub logged_out: u64,
    pub streams: u64,
    pub streams_cut: u64,
    pub without_bearer: u64,
    /// The first few failures, in words.
    pub examples: Vec<String>,
}

/// Traffic that runs.
pub struct Traffic {
    counters: Arc<Counters>,
    tasks: JoinSet<Vec<String>>,
    /// The last request of the provider's log that was looked at.
    seen: u64,
    without_bearer: u64,
}

impl Traffic {
    /// Starts all callers.
    pub fn start(stack: &Stack) -> Self {
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        for number in 0..CALLERS + READERS {
            let caller = Caller {
                client: stack.client.clone(),
                url: stack.url("/v1/chat/completions"),
                counters: Arc::clone(&counters),
                stream: number >= CALLERS,
            };
            tasks.spawn(caller.run());
        }
        Self { counters, tasks, seen: 0, without_bearer: 0 }
    }

    /// Looks through what reached the API since the last time.
    pub fn observe(&mut self, stack: &Stack) {
        for request in stack.provider().requests() {
            if request.sequence > self.seen {
                self.seen = request.sequence;
                // A token that is dead is still the account's; anything else is not.
                let bearer = matches!(request.authorization.as_slice(), [one] if one != "invalid");
                self.without_bearer += u64::from(!bearer);
            }
        }
    }

    /// Stops all callers and counts.
    pub async fn stop(mut self, stack: &Stack) -> Counts {
        self.counters.stop.store(true, Ordering::Relaxed);
        let mut examples = Vec::new();
        while let Some(failures) = self.tasks.join_next().await {
            examples.extend(failures.unwrap_or_else(|error| vec![error.to_string()]));
        }
        examples.truncate(10);
        self.observe(stack);
        let counters = &self.counters;
        Counts {
            requests: counters.requests.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            logged_out: counters.logged_out.load(Ordering::Relaxed),
            streams: counters.streams.load(Ordering::Relaxed),
            streams_cut: counters.streams_cut.load(Ordering::Relaxed),
            without_bearer: self.without_bearer,
            examples,
        }
    }
}

struct Caller {
    client: reqwest::Client,
    url: String,
    counters: Arc<Counters>,
    stream: bool,
}

impl Caller {
    async fn run(self) -> Vec<String> {
        let mut failures = Vec::new();
        while !self.counters.stop.load(Ordering::Relaxed) {
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            if let Err(failure) = self.call().await {
                let logged_out = failure.contains("login_required");
                let counter =
                    if logged_out { &self.counters.logged_out } else { &self.counters.failures };
                counter.fetch_add(1, Ordering::Relaxed);
                failures.push(failure);
                failures.truncate(10);
            }
            tokio::time::sleep(PAUSE).await;
        }
        failures
    }

    async fn call(&self) -> Result<(), String> {
        // A stream lasts longer than a token is used, so that each sees a rotation.
        let delay = if self.stream { 500 } else { 0 };
        let body: Value = json!({
            "model": "grok-4", "stream": self.stream, "x_delay_ms": delay,
            "messages": [{"role": "user", "content": "hello"}]
        });
        let answer = self.client.post(&self.url).json(&body).send().await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        let text = answer.text().await;
        if self.stream && status == 200 {
            self.counters.streams.fetch_add(1, Ordering::Relaxed);
            let whole = text.is_ok_and(|text| text.trim_end().ends_with("data: [DONE]"));
            self.counters.streams_cut.fetch_add(u64::from(!whole), Ordering::Relaxed);
            return Ok(());
        }
        match (status.as_u16(), text) {
            (200, Ok(_)) => Ok(()),
            (status, text) => Err(format!("{status}: {text:?}")),
        }
    }
}
