//! Histories: what may happen to a module, in any order.

use std::fmt;

use filter::client::Digest;

use super::bundles::Wanted;
use super::host::{Faults, Headers};

/// The clients' keys. `s3cret` is in everything that must not be seen again.
pub const KEYS: [&str; 2] = ["key-s3cret-alice", "key-s3cret-bob"];

/// Which sections a place has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Gate,
    Bearer,
    Both,
}

/// A history from the start of a VM.
#[derive(Clone, Debug)]
pub struct History {
    pub faults: Faults,
    /// Of the gate, the bearer, and the place that is both.
    pub configurations: [usize; 3],
    pub events: Vec<Event>,
}

/// Numbers choose among what there is at that time.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request at a place: through the listener, or at a bearer that no gate stands before.
    Request {
        place: Place,
        headers: Lines,
        end: bool,
    },
    /// The router sends a request that a gate has let through, once more or for the first time.
    Attempt(usize),
    Body(usize, Bytes, bool),
    Trailers(usize, Lines),
    /// An answer: the upstream's, or Envoy's own while the request is held.
    Response {
        stream: usize,
        status: Bytes,
        headers: Lines,
        end: bool,
    },
    ResponseBody(usize, Bytes, bool),
    ResponseTrailers(usize, Lines),
    /// The stream ends, in whatever state it is.
    Reset(usize),
    /// Milliseconds pass.
    Tick(u64),
    /// The refresher answers a call.
    Answer(usize, Answer),
    /// Another worker publishes a bundle, or leaves something else in shared data.
    OtherWorker(Wanted),
    Garble(usize, Bytes),
    /// Another configuration for a place, good or bad.
    Configure(Place, usize),
    Invalid(Bytes),
    /// The VM is lost and another starts.
    Reload,
}

/// Bytes that print as text, and not at length.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

/// Headers that print so.
#[derive(Clone)]
pub struct Lines(pub Headers);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        let shown = bytes.get(..100).unwrap_or(bytes);
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < bytes.len() { write!(f, " of {} bytes", bytes.len()) } else { Ok(()) }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|(name, value)| (name, Bytes(value.clone())));
        let mut map = f.debug_map();
        map.entries(lines.take(20));
        if self.0.len() > 20 { map.finish_non_exhaustive() } else { map.finish() }
    }
}

/// What comes back from a call.
#[derive(Clone, Debug)]
pub enum Answer {
    /// None: reset, or timed out.
    Failure,
    Bundle(Wanted),
    /// A generation that is not newer.
    Old(Wanted),
    /// The beginning of a bundle, so many of 256.
    Cut(Wanted, u8),
    Other {
        status: Bytes,
        body: Bytes,
    },
    WithoutStatus,
}

/// The configurations of a place.
pub fn configurations(place: Place) -> Vec<String> {
    let digests = KEYS.map(|key| Digest::of(key.as_bytes()).to_string());
    let [alice, bob] = digests;
    let keys = format!(
        r#""client_keys": [{{"id": "alice", "sha256": "{alice}", "requests_per_minute": 3}},
            {{"id": "bob", "sha256": "{bob}", "credential": "bob", "concurrency": 1,
              "models": ["grok-4*"], "paths": ["/v1/"]}},
            {{"id": "eve", "subject_alt_name": "spiffe://eve"}}]"#
    );
    let limited =
        format!(r#"{{{keys}, "max_inspected_body_bytes": 64, "headers": {{"strip": ["x-*"]}}}}"#);
    let gates = ["{}".to_owned(), format!("{{{keys}}}"), limited];
    let bearers = [
        r#""bearer": {}, "usage": {}"#,
        r#""bearer": {"wait_ms": 0}, "usage": {"max_models": 1}"#,
        r#""bearer": {"wait_ms": 10000, "dead_token": {"statuses": [419], "codes": ["x", ""]}}"#,
    ];
    let both = || gates.iter().flat_map(|gate| bearers.map(|bearer| (gate, bearer)));
    match place {
        Place::Gate => gates.iter().map(|gate| format!(r#"{{"gate": {gate}}}"#)).collect(),
        Place::Bearer => bearers.map(|bearer| format!("{{{bearer}}}")).to_vec(),
        Place::Both => {
            both().map(|(gate, bearer)| format!(r#"{{"gate": {gate}, {bearer}}}"#)).collect()
        }
    }
}
