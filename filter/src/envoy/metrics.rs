//! Counters and gauges, defined once for each root context.

use log::error;
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

/// A metric's handle; nothing when the host would not define it.
#[derive(Clone, Copy, Debug)]
pub struct Metric(Option<u32>);

impl Metric {
    fn define(kind: MetricType, name: &str) -> Self {
        let id = hostcalls::define_metric(kind, name);
        if let Err(status) = id {
            error!("torchbearer: metric {name} cannot be defined: {status:?}");
        }
        Self(id.ok())
    }

    /// Adds one to a counter.
    pub fn increment(self) {
        if let Some(id) = self.0 {
            let _ = hostcalls::increment_metric(id, 1);
        }
    }

    /// Sets a gauge.
    pub fn record(self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }
}

/// All metrics of the filter.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Gauge: the generation of the bundle that was accepted last.
    pub generation: Metric,
    /// Counter: requests that were answered here with an error.
    pub refusals: Metric,
    /// Counter: answers by which the upstream refused a token.
    pub rejections: Metric,
    /// Counter: replays that were asked of the router.
    pub replays: Metric,
}

impl Metrics {
    /// Defines them; of the same name, the host gives the same metric.
    pub fn define() -> Self {
        Self {
            generation: Metric::define(MetricType::Gauge, "torchbearer.generation"),
            refusals: Metric::define(MetricType::Counter, "torchbearer.refusals"),
            rejections: Metric::define(MetricType::Counter, "torchbearer.rejections"),
            replays: Metric::define(MetricType::Counter, "torchbearer.replays"),
        }
    }
}
