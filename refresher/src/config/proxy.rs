//! What the proxy does with requests: which headers pass, what is tried again, what is counted.

use std::path::PathBuf;
use std::time::Duration;

use filter::headers::Policy;
use filter::json;
use filter::management::PublicPaths;
use serde_json::{Value, json};

use super::file::File;
use super::problem::Problems;
use super::section::Section;
use super::{Environment, text, value};

/// What the proxy does with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Request headers that are stripped besides those of the table, `*` at the end as a wildcard.
    pub strip_headers: Vec<String>,
    /// Headers of the table that pass all the same, credentials excepted.
    pub keep_headers: Vec<String>,
    /// How often a request that only reads is tried again. 0 to 10, default 2.
    pub retry_attempts: u32,
    /// The longest pause before that. 0.025 to 60 s, default 1.
    pub retry_delay: Duration,
    /// The largest body that can be sent a second time after a refused token. Bytes, 1 to 67108864,
    /// default 4194304.
    pub max_replay_body_bytes: u32,
    /// What Envoy holds for one connection of a client: of a body that is read for its model or that
    /// waits for the first token, and of an answer that the client does not read. Bytes, 65536 to
    /// 67108864, default 1048576.
    pub buffer_bytes: u32,
    /// Whether the tokens that answers say they used are counted. Default: yes.
    pub usage: bool,
    /// Beginnings of the paths on which WebSockets may be opened. Default: none.
    pub websocket_paths: Vec<String>,
    /// Pages of the refresher that need no client key. Default: none.
    pub public_paths: PublicPaths,
    /// Where the token is for Envoy's own filter to put in, in place of ours. Default: nowhere.
    pub sds_dir: Option<PathBuf>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            strip_headers: Vec::new(),
            keep_headers: Vec::new(),
            retry_attempts: 2,
            retry_delay: Duration::from_secs(1),
            max_replay_body_bytes: 4 << 20,
            buffer_bytes: 1 << 20,
            usage: true,
            websocket_paths: Vec::new(),
            public_paths: PublicPaths::default(),
            sds_dir: None,
        }
    }
}

impl Proxy {
    /// The header policy as the plugin configuration has it.
    pub fn header_policy(&self) -> Value {
        json!({"strip": self.strip_headers, "keep": self.keep_headers})
    }
}

/// The settings of the file.
#[derive(Default)]
pub(super) struct Stated {
    strip_headers: Option<Vec<String>>,
    keep_headers: Option<Vec<String>>,
    retry_attempts: Option<u32>,
    retry_delay: Option<Duration>,
    max_replay_body_bytes: Option<u32>,
    pub(super) buffer_bytes: Option<u32>,
    usage: Option<bool>,
    websocket_paths: Option<Vec<String>>,
    pub(super) public_paths: PublicPaths,
}

pub(super) fn read(root: &mut Section, problems: &mut Problems) -> Stated {
    let mut stated = Stated::default();
    let mut headers = root.section("headers", problems);
    stated.strip_headers = headers.texts("strip", problems);
    stated.keep_headers = headers.texts("keep", problems);
    headers.finish(problems);

    let mut retry = root.section("retry", problems);
    let attempts = retry.number("attempts", 0..=10, value::ATTEMPTS, problems);
    stated.retry_attempts = attempts.and_then(|number| u32::try_from(number).ok());
    stated.retry_delay = retry.seconds("delay", value::delay_of, value::DELAY, problems);
    retry.finish(problems);

    let mut replay = root.section("replay", problems);
    const BYTES: &str = "bytes from 1 to 67108864";
    let bytes = replay.number("max_body_bytes", 1..=0x400_0000, BYTES, problems);
    stated.max_replay_body_bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok());
    replay.finish(problems);

    let mut usage = root.section("usage", problems);
    stated.usage = usage.switch("enabled", problems);
    usage.finish(problems);

    let mut websocket = root.section("websocket", problems);
    stated.websocket_paths = websocket.texts("paths", problems);
    websocket.finish(problems);
    stated
}

pub(super) fn resolve(file: &mut File, env: Environment<'_>, problems: &mut Problems) -> Proxy {
    let default = Proxy::default();
    let stated = std::mem::take(&mut file.proxy);
    let attempts = match text(env, "UPSTREAM_RETRY_ATTEMPTS") {
        Some(variable) => problems.take("UPSTREAM_RETRY_ATTEMPTS", value::attempts(&variable)),
        None => stated.retry_attempts,
    };
    let delay = match text(env, "UPSTREAM_RETRY_DELAY") {
        Some(variable) => problems.take("UPSTREAM_RETRY_DELAY", value::delay(&variable)),
        None => stated.retry_delay,
    };
    let proxy = Proxy {
        strip_headers: stated.strip_headers.unwrap_or_default(),
        keep_headers: stated.keep_headers.unwrap_or_default(),
        retry_attempts: attempts.unwrap_or(default.retry_attempts),
        retry_delay: delay.unwrap_or(default.retry_delay),
        max_replay_body_bytes: stated
            .max_replay_body_bytes
            .unwrap_or(default.max_replay_body_bytes),
        buffer_bytes: stated.buffer_bytes.unwrap_or(default.buffer_bytes),
        usage: stated.usage.unwrap_or(default.usage),
        websocket_paths: stated.websocket_paths.unwrap_or_default(),
        public_paths: stated.public_paths,
        sds_dir: None,
    };
    // The filter knows best what it accepts.
    if let Err(reason) = json::read::<Policy>(proxy.header_policy().to_string().as_bytes()) {
        let reason = reason.to_string();
        let (found, accepted) =
            reason.split_once("; accepted: ").unwrap_or((&reason, "header names"));
        problems.unaccepted("headers", found, accepted);
    }
    for path in &proxy.websocket_paths {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            let accepted = "beginnings of paths, such as \"/v1/realtime\"";
            problems.unaccepted("websocket.paths", &format!("{path:?}"), accepted);
        }
    }
    proxy
}
