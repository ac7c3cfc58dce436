//! What is known of everything that runs, in one document: `status`, `doctor`, the status page and
//! the metrics page all show this. Without secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::publish::health::Health;

/// Where a running refresher tells it: on its socket only, not through Envoy.
pub const OVERVIEW_PATH: &str = "/v1/overview";

/// What is known at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// The refresher's version.
    pub version: String,
    /// When the refresher started, in Unix seconds.
    pub started_at: u64,
    /// When this was collected, in Unix seconds.
    pub at: u64,
    /// The credentials.
    pub health: Health,
    /// The VMs of Envoy's workers that have asked for bundles lately.
    pub workers: Vec<Worker>,
    /// Whether the refresher starts Envoy itself, as `up` does; unknown of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_envoy: Option<bool>,
    /// What Envoy says of itself; absent where its admin interface is not known, or does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy: Option<Envoy>,
}

/// A filter VM that fetches bundles: one for each worker of each Envoy, and one for its main thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// A random name that the VM gave itself.
    pub id: String,
    /// The name in the certificate of the Envoy that it belongs to; absent for an Envoy beside the
    /// refresher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy: Option<String>,
    /// The generation of the bundle that it serves.
    pub generation: u64,
    /// How long after its publication the VM had that bundle, in milliseconds; absent when it had
    /// one already at its first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// When it last asked, in Unix seconds.
    pub seen_at: u64,
}

/// What Envoy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envoy {
    /// Its version.
    pub version: String,
    /// Its state: `LIVE`, `DRAINING`, `PRE_INITIALIZING` or `INITIALIZING`.
    pub state: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Requests that were answered, by client and status class (`2xx`).
    pub requests: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests that the filter refused, by code.
    pub refusals: BTreeMap<String, u64>,
    /// Tokens that answers told, by client, model and kind.
    pub tokens: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
    /// Requests under way.
    pub active_requests: u64,
}
