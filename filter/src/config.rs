//! The plugin configuration: JSON in, valid types out.
//!
//! ```json
//! {
//!   "refresher": {"cluster": "refresher"},
//!   "gate": {"client_keys": [{"id": "alice", "sha256": "…64 hexadecimal digits…"}],
//!            "headers": {"strip": ["x-tenant"], "keep": ["cookie"]}},
//!   "bearer": {"wait_ms": 2000},
//!   "usage": {}
//! }
//! ```
//!
//! The presence of a section switches its job on. Envoy prints a plugin's configuration in
//! `/config_dump`, so it holds digests and no secret.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::client::ClientKey;
use crate::headers::Policy;
use crate::json;
use crate::management::PublicPaths;
use crate::verdict::Rule;

/// What one place of the filter is to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where bundles come from.
    #[serde(default)]
    pub refresher: Refresher,
    /// Strip, authenticate, refuse. For the HTTP filters of a listener.
    pub gate: Option<Gate>,
    /// Inject the bearer. For the upstream HTTP filters of a cluster, or beside `gate` where a
    /// mesh has no such place.
    pub bearer: Option<Bearer>,
    /// Count the tokens that answers say they used. Beside `bearer`, or beside `gate` where
    /// another filter injects.
    pub usage: Option<Usage>,
}

impl Config {
    /// Reads a plugin configuration.
    ///
    /// # Errors
    ///
    /// When it is not JSON of the documented shape, or has no section.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::read(document)?;
        if config.gate.is_none() && config.bearer.is_none() {
            return Err(ConfigError::NoSection);
        }
        if config.refresher.cluster.is_empty() {
            return Err(ConfigError::NoCluster);
        }
        Ok(config)
    }
}

/// The JSON Schema of a plugin configuration.
#[cfg(feature = "schema")]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Config);
    schema.insert("title".to_owned(), "Plugin configuration of Torchbearer's filter".into());
    let sections = ["gate", "bearer"].map(|section| {
        serde_json::json!({"required": [section], "properties": {section: {"type": "object"}}})
    });
    schema.insert("anyOf".to_owned(), sections.to_vec().into());
    schema.into()
}

/// Why a plugin configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of the documented shape.
    #[error("plugin configuration: {0}")]
    Shape(#[from] json::Error),
    /// Neither job is switched on.
    #[error("plugin configuration: has neither a section \"gate\" nor \"bearer\"")]
    NoSection,
    /// The refresher cannot be reached without a cluster.
    #[error("plugin configuration: refresher.cluster must name a cluster")]
    NoCluster,
}

/// Where bundles come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Refresher {
    /// Name of Envoy's cluster that leads to the refresher. Default `refresher`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1), extend("default" = "refresher")))]
    pub cluster: String,
}

impl Default for Refresher {
    fn default() -> Self {
        Self { cluster: "refresher".to_owned() }
    }
}

/// The section `gate`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Client keys, in addition to those of the bundle. Without any, only loopback is served.
    #[serde(default, deserialize_with = "shared")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<ClientKey>"))]
    pub client_keys: Vec<Rc<ClientKey>>,
    /// Which headers pass.
    #[serde(default)]
    pub headers: Policy,
    /// The largest body that is read for its model, where a client key is limited to some; a larger
    /// one is refused. Bytes, 1 to 67108864, default 1048576. The listener's
    /// `per_connection_buffer_limit_bytes`, which is as large by default, has to allow it.
    #[serde(default = "default_body", deserialize_with = "bounded_body")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 0x400_0000)))]
    pub max_inspected_body_bytes: usize,
    /// Pages of the refresher that need no client key: exact request targets, of
    /// [`crate::management::PAGES`]. Default: none. They open no way to the API.
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "Vec<String>",
            inner(regex(pattern = r"^(/health|/health\?deep=1|/ready|/metrics)$"))
        )
    )]
    pub public_paths: PublicPaths,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            client_keys: Vec::new(),
            headers: Policy::default(),
            max_inspected_body_bytes: default_body(),
            public_paths: PublicPaths::default(),
        }
    }
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rc<ClientKey>>, D::Error> {
    Ok(Vec::deserialize(deserializer)?.into_iter().map(Rc::new).collect())
}

fn default_body() -> usize {
    1 << 20
}

fn bounded_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        bytes @ 1..=0x400_0000 => Ok(bytes),
        bytes => Err(de::Error::custom(format!(
            "max_inspected_body_bytes is {bytes}, accepted are 1 to 67108864"
        ))),
    }
}

/// The section `bearer`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// How long a request waits for a credential that is not there yet. Milliseconds, 0 to
    /// 10000, default 2000.
    #[serde(rename = "wait_ms", default = "default_wait", deserialize_with = "bounded_wait")]
    #[cfg_attr(feature = "schema", schemars(with = "u64", range(max = 10_000), extend("default" = 2000)))]
    pub wait: Duration,
    /// Which answers say that the token was refused.
    #[serde(default)]
    pub dead_token: Rule,
    /// The login whose token Envoy's own filter `credential_injector`, behind this place, puts in.
    /// Then this place puts in none, and refuses requests with another login. Default: none.
    #[serde(default)]
    pub credential_injector: Option<String>,
}

/// The section `usage`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// How many models get metrics of their own in one worker; those that come later are counted
    /// together as `other`. 1 to 1000, default 32.
    #[serde(default = "default_models", deserialize_with = "bounded_models")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub max_models: usize,
}

fn default_models() -> usize {
    32
}

fn bounded_models<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        models @ 1..=1000 => Ok(models),
        models => Err(de::Error::custom(format!("max_models is {models}, accepted are 1 to 1000"))),
    }
}

fn default_wait() -> Duration {
    Duration::from_secs(2)
}

fn bounded_wait<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match u64::deserialize(deserializer)? {
        wait @ 0..=10_000 => Ok(Duration::from_millis(wait)),
        wait => Err(de::Error::custom(format!("wait_ms is {wait}, accepted are 0 to 10000"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn sections_switch_jobs_on() {
        let config = Config::parse(br#"{"gate": {}, "usage": {}}"#).unwrap();
        assert_eq!(config.usage, Some(Usage { max_models: 32 }));
        assert_eq!(config.gate, Some(Gate::default()));
        assert_eq!(config.bearer, None);
        assert_eq!(config.refresher.cluster, "refresher");
        let config =
            Config::parse(br#"{"refresher": {"cluster": "r"}, "bearer": {"wait_ms": 0}}"#).unwrap();
        assert_eq!(config.gate, None);
        let bearer =
            Bearer { wait: Duration::ZERO, dead_token: Rule::default(), credential_injector: None };
        assert_eq!(config.bearer, Some(bearer));
        assert_eq!(config.refresher.cluster, "r");
    }

    #[test]
    fn an_offence_is_named_with_what_would_be_accepted() {
        for (document, said) in [
            ("", "not JSON"),
            ("{}", "neither a section \"gate\" nor \"bearer\""),
            (r#"{"gait": {}}"#, "expected one of `refresher`, `gate`, `bearer`, `usage`"),
            (r#"{"gate": {"keys": []}}"#, "expected one of `client_keys`, `headers`"),
            (r#"{"gate": {"headers": {"keep": ["authorization"]}}}"#, "cannot be kept"),
            (r#"{"gate": {"max_inspected_body_bytes": 0}}"#, "accepted are 1 to 67108864"),
            (
                r#"{"gate": {"public_paths": ["/v1/models"]}}"#,
                "public_paths accepts /health, /health?deep=1",
            ),
            (r#"{"gate": {}, "usage": {"max_models": 0}}"#, "accepted are 1 to 1000"),
            (r#"{"gate": {"client_keys": [{"id": "a", "sha256": "x"}]}}"#, "64 hexadecimal"),
            (r#"{"bearer": {"wait_ms": 10001}}"#, "accepted are 0 to 10000"),
            (r#"{"bearer": {}, "refresher": {"cluster": ""}}"#, "must name a cluster"),
        ] {
            let error = Config::parse(document.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{document}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(document in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Config::parse(&document);
        }
    }
}
