//! What the module's host keeps: contexts, header maps, buffers, shared data, calls, metrics.
//!
//! It answers as Envoy does (`source/extensions/common/wasm/context.cc`, and `exports.cc` of the
//! proxy-wasm C++ host), down to the status codes: the SDK panics on those that it does not expect.

use std::collections::{BTreeMap, VecDeque};

use wasmi::{Memory, TypedFunc};

/// A header map: names and values in order.
pub type Headers = Vec<(String, Vec<u8>)>;

/// Shared data: it outlives the VM. Values, each with the number that a swap has to name.
pub type Shared = BTreeMap<String, (Vec<u8>, u32)>;

/// `proxy_status_t`.
pub mod status {
    pub const OK: u32 = 0;
    pub const NOT_FOUND: u32 = 1;
    pub const BAD_ARGUMENT: u32 = 2;
    pub const SERIALIZATION_FAILURE: u32 = 3;
    pub const CAS_MISMATCH: u32 = 8;
    pub const INTERNAL_FAILURE: u32 = 10;
}

/// `proxy_map_type_t`, as far as streams have them.
pub const REQUEST_HEADERS: usize = 0;
pub const REQUEST_TRAILERS: usize = 1;
pub const RESPONSE_HEADERS: usize = 2;
pub const RESPONSE_TRAILERS: usize = 3;
pub const CALL_HEADERS: u32 = 6;

/// `proxy_buffer_type_t`.
pub const REQUEST_BODY: usize = 0;
pub const RESPONSE_BODY: usize = 1;
pub const CALL_BODY: u32 = 4;
pub const PLUGIN_CONFIGURATION: u32 = 7;

/// One context of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    pub root: u32,
    /// The request that it belongs to: filter state is the request's.
    pub request: usize,
    /// `None`: not there now, and using it is an error.
    pub maps: [Option<Headers>; 4],
    pub buffers: [Option<Vec<u8>>; 2],
}

/// A call under way.
#[derive(Clone, Debug)]
pub struct Call {
    pub root: u32,
    pub cluster: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// What Envoy does only after the module has returned.
#[derive(Clone, Debug)]
pub enum Deferred {
    /// The request goes on, with these headers, unless it had gone on before.
    Resume {
        context: u32,
        headers: Option<Headers>,
    },
    Reply {
        context: u32,
        code: u32,
        headers: Headers,
        body: Vec<u8>,
    },
}

#[derive(Debug, Default)]
pub struct Host {
    /// Nanoseconds since the Unix epoch, and since the start.
    pub wall: u64,
    pub monotonic: u64,
    pub current: u32,
    pub effective: u32,
    /// Root contexts and their tick periods, in milliseconds.
    pub roots: BTreeMap<u32, u32>,
    pub streams: BTreeMap<u32, Stream>,
    pub filter_state: BTreeMap<(usize, Vec<u8>), Vec<u8>>,
    /// What Envoy knows of the connections.
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    pub shared: Shared,
    pub calls: BTreeMap<u32, Call>,
    /// The answer that is being handled.
    pub answer: Option<(Headers, Vec<u8>)>,
    pub configuration: Option<Vec<u8>>,
    /// Kinds and names.
    pub metrics: Vec<(u32, String)>,
    pub log: Vec<String>,
    pub deferred: VecDeque<Deferred>,
    pub faults: Faults,
    pub memory: Option<Memory>,
    pub allocate: Option<TypedFunc<u32, u32>>,
    pub issued: u32,
    /// How often it was called, and how often it had something to hand over.
    pub asked: [u32; 2],
}

impl Host {
    /// The context that host calls are about.
    pub fn context(&self) -> u32 {
        let known = |id| self.streams.contains_key(&id) || self.roots.contains_key(&id);
        if self.effective != 0 && known(self.effective) { self.effective } else { self.current }
    }

    pub fn stream(&mut self) -> Option<&mut Stream> {
        let id = self.context();
        self.streams.get_mut(&id)
    }

    /// The root context of the context that host calls are about.
    pub fn root(&self) -> u32 {
        let id = self.context();
        self.streams.get(&id).map_or(id, |stream| stream.root)
    }

    pub fn map(&self, kind: u32) -> Option<&Headers> {
        if kind == CALL_HEADERS {
            return self.answer.as_ref().map(|(headers, _)| headers);
        }
        self.streams.get(&self.context())?.maps.get(kind as usize)?.as_ref()
    }

    /// Answers of calls cannot be changed.
    pub fn map_mut(&mut self, kind: u32) -> Option<&mut Headers> {
        self.stream()?.maps.get_mut(kind as usize)?.as_mut()
    }

    pub fn buffer(&self, kind: u32) -> Option<&Vec<u8>> {
        match kind {
            CALL_BODY => self.answer.as_ref().map(|(_, body)| body),
            PLUGIN_CONFIGURATION => self.configuration.as_ref(),
            _ => self.streams.get(&self.context())?.buffers.get(kind as usize)?.as_ref(),
        }
    }

    pub fn issue(&mut self) -> u32 {
        self.issued += 1;
        self.issued
    }
}

/// Errors at random, where Envoy can answer them in a call that is right:
///
/// - `proxy_get_property`: what is asked for does not exist on this connection (`NotFound`), or
///   does not turn into bytes (`SerializationFailure`, `InternalFailure`);
/// - `proxy_set_shared_data` with a number: another worker was quicker (`CasMismatch`);
/// - `proxy_http_call`: the cluster is not there now (`BadArgument`), or the call cannot even begin
///   (`InternalFailure`).
///
/// The others fail only for a reason that this host knows: a map is not there at this moment
/// (`BadArgument`; the pairs of such a map are none), a header, buffer, key or metric does not exist
/// (`NotFound`), a context has ended (`BadArgument`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// One in so many; 0: none.
    pub one_in: u32,
    pub seed: u64,
}

impl Faults {
    /// One of these errors, now and then.
    pub fn any(&mut self, errors: &[u32]) -> Option<u32> {
        let drawn = self.draw();
        if drawn.checked_rem(self.one_in)? != 0 {
            return None;
        }
        errors.get((drawn / self.one_in) as usize % errors.len()).copied()
    }

    /// Randomness for the module, the same in each run of a history.
    pub fn byte(&mut self) -> u8 {
        self.draw().to_le_bytes()[3]
    }

    fn draw(&mut self) -> u32 {
        // Knuth's linear congruential generator.
        let next = self.seed.wrapping_mul(6_364_136_223_846_793_005);
        self.seed = next.wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as u32
    }
}
