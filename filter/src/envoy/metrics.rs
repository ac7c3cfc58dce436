//! Counters and gauges, shared by all root contexts of the VM.
//!
//! A name carries its tags as `;tag=value`, which the bootstrap's `stats_tags` take out again. Every
//! tag has few values: clients are those of the configuration and the bundle, models are bounded by
//! configuration, the rest is fixed.

use std::cell::RefCell;
use std::rc::Rc;

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::usage::{Usage, label};

/// How many clients get metrics of their own in one VM; keys come and go for years.
const MAX_CLIENTS: usize = 1000;

/// The tag of a client, or a model, that comes after the most that there can be.
const OTHER: &str = "other";

/// The tag of requests without a client key.
const NOBODY: &str = "(none)";

thread_local! {
    static SHARED: Rc<Metrics> = Rc::new(Metrics {
        generation: Metric::gauge("torchbearer_generation"),
        requests: RefCell::default(),
        responses: RefCell::default(),
        tokens: RefCell::default(),
        others: RefCell::default(),
    });
}

/// A metric's handle; nothing when the host would not define it.
#[derive(Clone, Copy, Debug)]
struct Metric(Option<u32>);

impl Metric {
    fn counter(name: &str) -> Self {
        Self::define(MetricType::Counter, name)
    }

    fn gauge(name: &str) -> Self {
        Self::define(MetricType::Gauge, name)
    }

    fn define(kind: MetricType, name: &str) -> Self {
        let id = hostcalls::define_metric(kind, name);
        if let Err(status) = id {
            error!("torchbearer: metric {name} cannot be defined: {status:?}");
        }
        Self(id.ok())
    }

    fn add(self, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        if let Some(id) = self.0.filter(|_| number > 0) {
            let _ = hostcalls::increment_metric(id, number);
        }
    }

    fn record(self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }
}

/// All metrics of the filter.
#[derive(Debug)]
pub struct Metrics {
    generation: Metric,
    /// By client: answers of each status class, 1xx to 5xx.
    requests: RefCell<Vec<(String, [Option<Metric>; 5])>>,
    /// By method and status: answers of every kind.
    responses: RefCell<Vec<(&'static str, u16, Metric)>>,
    /// By client and model: prompt, completion, reasoning and cached tokens.
    tokens: RefCell<Vec<(String, String, [Metric; 4])>>,
    /// What is counted rarely, by name.
    others: RefCell<Vec<(String, Metric)>>,
}

impl Metrics {
    /// Those of this VM.
    pub fn shared() -> Rc<Self> {
        SHARED.with(Rc::clone)
    }

    /// Counts an answer, the API's or one that was given here. `method` is one of few.
    pub fn responded(&self, method: &'static str, status: u16) {
        if !(100..600).contains(&status) {
            return;
        }
        let mut responses = self.responses.borrow_mut();
        let known = responses.iter().find(|(m, s, _)| *m == method && *s == status);
        let metric = known.map(|(_, _, metric)| *metric).unwrap_or_else(|| {
            let metric = Metric::counter(&format!(
                "torchbearer_responses_total;method={method};status={status}"
            ));
            responses.push((method, status, metric));
            metric
        });
        metric.add(1);
    }

    /// Counts an answer to a client.
    pub fn answered(&self, client: Option<&str>, status: u16) {
        let client = client.unwrap_or(NOBODY);
        let class = usize::from(status / 100).wrapping_sub(1);
        let mut requests = self.requests.borrow_mut();
        let known = requests.iter().position(|(name, _)| name == client);
        let index = known.unwrap_or_else(|| {
            let name = if requests.len() < MAX_CLIENTS { client } else { OTHER };
            let index = requests.iter().position(|(known, _)| known == name);
            index.unwrap_or_else(|| {
                requests.push((name.to_owned(), [None; 5]));
                requests.len() - 1
            })
        });
        let Some((name, classes)) = requests.get_mut(index) else { return };
        let Some(metric) = classes.get_mut(class) else { return };
        metric
            .get_or_insert_with(|| {
                let class = class + 1;
                Metric::counter(&format!(
                    "torchbearer_requests_total;client={name};status={class}xx"
                ))
            })
            .add(1);
    }

    /// Counts the tokens of an answer.
    pub fn used(&self, client: Option<&str>, model: &str, usage: Usage, max_models: usize) {
        let client = client.unwrap_or(NOBODY);
        let model = label(model);
        let mut tokens = self.tokens.borrow_mut();
        let known = |model: &str| tokens.iter().any(|(_, known, _)| known == model);
        let models = {
            let mut models: Vec<_> = tokens.iter().map(|(_, model, _)| model).collect();
            models.sort_unstable();
            models.dedup();
            models.len()
        };
        let model = if known(&model) || models < max_models { model } else { OTHER.to_owned() };
        let clients = tokens.iter().filter(|(_, known, _)| *known == model).count();
        let find = |tokens: &[(String, String, [Metric; 4])], client: &str| {
            tokens.iter().find(|(c, m, _)| c == client && *m == model).map(|(_, _, kinds)| *kinds)
        };
        let client = match find(&tokens, client) {
            None if clients >= MAX_CLIENTS => OTHER,
            _ => client,
        };
        let kinds = find(&tokens, client).unwrap_or_else(|| {
            let kinds = ["prompt", "completion", "reasoning", "cached"].map(|kind| {
                Metric::counter(&format!(
                    "torchbearer_tokens_total;client={client};model={model};kind={kind}"
                ))
            });
            tokens.push((client.to_owned(), model.clone(), kinds));
            kinds
        });
        let counts = [usage.prompt, usage.completion, usage.reasoning, usage.cached];
        for (metric, count) in kinds.into_iter().zip(counts) {
            metric.add(count);
        }
    }

    /// Counts a request that was answered here with an error.
    pub fn refused(&self, code: &str) {
        self.other(MetricType::Counter, "torchbearer_refusals_total", "code", code).add(1);
    }

    /// Counts an answer by which the upstream refused a token.
    pub fn rejected(&self, credential: &str) {
        let name = "torchbearer_rejections_total";
        self.other(MetricType::Counter, name, "credential", credential).add(1);
    }

    /// Counts a replay that was asked of the router.
    pub fn replayed(&self, credential: &str) {
        let name = "torchbearer_replays_total";
        self.other(MetricType::Counter, name, "credential", credential).add(1);
    }

    /// Shows the generation of the bundle that is in force.
    pub fn serves(&self, generation: u64) {
        self.generation.record(generation);
    }

    /// Shows a credential's token; times in Unix seconds.
    pub fn token(&self, credential: &str, generation: u64, expires_at: u64, now: u64) {
        // A generation is the time of its publication.
        let age = now.saturating_sub(generation / 1000);
        for (name, value) in [
            ("torchbearer_token_generation", generation),
            ("torchbearer_token_expires_at_seconds", expires_at),
            ("torchbearer_token_age_seconds", age),
        ] {
            self.other(MetricType::Gauge, name, "credential", credential).record(value);
        }
    }

    fn other(&self, kind: MetricType, name: &str, tag: &str, value: &str) -> Metric {
        let name = format!("{name};{tag}={value}");
        let mut others = self.others.borrow_mut();
        if let Some((_, metric)) = others.iter().find(|(known, _)| *known == name) {
            return *metric;
        }
        let metric = Metric::define(kind, &name);
        others.push((name, metric));
        metric
    }
}
