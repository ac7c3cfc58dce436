//! One request at one place: at the gate, at the bearer (once for each attempt), or at both.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::gate::CLIENT;
use super::held::Held;
use super::root::Plugin;
use crate::config::Gate;
use crate::headers::{Policy, REPLAY, Reason};
use crate::refusal::quota_headers;
use crate::usage::Counter;
use crate::verdict::{INSPECTED_BYTES, Verdict};

/// A stream as the SDK sees it.
pub struct Stream {
    held: Rc<Held>,
    response: Response,
}

enum Response {
    Passing,
    /// The body of a 403 is looked into, with the answer held back or not.
    Inspecting {
        held: bool,
        seen: Vec<u8>,
    },
    /// Its tokens are counted, for this client.
    Counting(Counter, Option<String>),
}

/// What the phases after the request's need of an answer's head.
struct Head {
    status: u16,
    content_type: Vec<u8>,
    is_encoded: bool,
}

impl Stream {
    /// A stream of a plugin configuration.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Self {
        Self { held: Rc::new(Held::new(id, plugin)), response: Response::Passing }
    }

    fn request_action(&self) -> Action {
        if self.held.waits() {
            self.held.plugin.source.hold(&self.held);
            self.held.plugin.tick_at_once();
        }
        if self.held.passes() { Action::Continue } else { Action::Pause }
    }

    /// The head of an answer that is on its way to the client, less what must not reach it.
    fn clean(&self, gate: &Gate) -> Head {
        const MAP: MapType = MapType::HttpResponseHeaders;
        let mut head = Head { status: 0, content_type: Vec::new(), is_encoded: false };
        let headers = hostcalls::get_map_bytes(MAP).unwrap_or_default();
        for (name, value) in &headers {
            match name.as_str() {
                ":status" => head.status = parsed(value),
                "content-type" => head.content_type.clone_from(value),
                "content-encoding" => head.is_encoded = true,
                // The end of a WebSocket's handshake.
                "connection" | "upgrade" if head.status == 101 => continue,
                _ => {}
            }
            if gate.headers.of_response(name).is_some() {
                let _ = hostcalls::remove_map_value(MAP, name);
            }
        }
        // A 429 of the API itself tells of the API's own limits, which the account has used up.
        if let Some(quota) = self.held.quota.get().filter(|_| head.status != 429) {
            for (name, value) in quota_headers(&quota) {
                let _ = hostcalls::set_map_value(MAP, name, Some(&value));
            }
        }
        self.held.plugin.metrics.responded(self.held.method.get(), head.status);
        if self.held.passes() {
            self.held.plugin.metrics.answered(self.held.client_name(), head.status);
        }
        head
    }

    /// Takes out of trailers what is taken out of headers.
    fn clean_trailers(&self, map: MapType, of: fn(&Policy, &str) -> Option<Reason>) {
        let Some(gate) = &self.held.plugin.config.gate else { return };
        for (name, _) in hostcalls::get_map_bytes(map).unwrap_or_default() {
            if of(&gate.headers, &name).is_some() {
                let _ = hostcalls::remove_map_value(map, &name);
            }
        }
    }

    /// Takes a part of the body. Where the answer is held back, each part begins at the start.
    fn look(&mut self, size: usize) {
        const BODY: BufferType = BufferType::HttpResponseBody;
        match &mut self.response {
            Response::Passing => {}
            Response::Inspecting { held, seen } => {
                if *held {
                    seen.clear();
                }
                let read = size.min(INSPECTED_BYTES.saturating_sub(seen.len()));
                let part = hostcalls::get_buffer(BODY, 0, read);
                seen.extend_from_slice(&part.ok().flatten().unwrap_or_default());
            }
            Response::Counting(counter, _) => {
                if let Ok(Some(part)) = hostcalls::get_buffer(BODY, 0, size) {
                    counter.read(&part);
                }
            }
        }
    }

    /// Adds up the tokens of an answer that has ended, or that nobody waits for any more.
    fn add_up(&mut self) {
        let response = std::mem::replace(&mut self.response, Response::Passing);
        let Response::Counting(counter, client) = response else { return };
        let plugin = &self.held.plugin;
        if let (Some((model, usage)), Some(config)) = (counter.total(), &plugin.config.usage) {
            plugin.metrics.used(client.as_deref(), &model, usage, config.max_models);
        }
    }

    /// The request's client, as this gate or the one before it has found it.
    fn client(&self) -> Option<String> {
        if self.held.plugin.config.gate.is_some() {
            return self.held.client_name().map(str::to_owned);
        }
        String::from_utf8(hostcalls::get_property(vec![CLIENT]).ok().flatten()?).ok()
    }

    /// Judges the body once it is whole, or as long as it is looked at.
    fn judge(&mut self, whole: bool) -> Action {
        match &self.response {
            Response::Inspecting { seen, held } if !whole && seen.len() < INSPECTED_BYTES => {
                return if *held { Action::Pause } else { Action::Continue };
            }
            Response::Inspecting { seen, .. } => {
                let bearer = self.held.plugin.config.bearer.as_ref();
                if bearer.is_some_and(|bearer| bearer.dead_token.refuses(seen)) {
                    self.held.token_refused(403);
                }
            }
            Response::Counting(..) if whole => self.add_up(),
            Response::Counting(..) | Response::Passing => return Action::Continue,
        }
        self.response = Response::Passing;
        Action::Continue
    }
}

fn response_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten()
}

fn parsed(status: &[u8]) -> u16 {
    str::from_utf8(status).ok().and_then(|status| status.parse().ok()).unwrap_or(0)
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, end: bool) -> Action {
        self.held.begin(end);
        self.request_action()
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.held.read(size, end);
        self.request_action()
    }

    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        self.clean_trailers(MapType::HttpRequestTrailers, Policy::of_request);
        self.held.read_trailers();
        self.request_action()
    }

    fn on_http_response_headers(&mut self, _headers: usize, end: bool) -> Action {
        let config = &self.held.plugin.config;
        if config.gate.is_none() && config.bearer.is_some() {
            // Only this filter asks for the replay, not the API.
            let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, REPLAY);
        }
        let head = config.gate.as_ref().map(|gate| self.clean(gate));
        let bearer = config.bearer.as_ref().filter(|_| self.held.injected.get().is_some());
        if end && bearer.is_none() || !self.held.passes() {
            return Action::Continue;
        }
        let status = head.as_ref().map_or_else(
            || parsed(&response_header(":status").unwrap_or_default()),
            |head| head.status,
        );
        match bearer.map_or(Verdict::Accepted, |bearer| bearer.dead_token.of_status(status)) {
            Verdict::Dead => self.held.token_refused(status),
            Verdict::Inspect if !end => {
                // Only where the replay is possible is there a reason to hold the headers.
                let held = config.gate.is_none();
                self.response = Response::Inspecting { held, seen: Vec::new() };
                if held {
                    return Action::Pause;
                }
            }
            Verdict::Accepted if !end && config.usage.is_some() => {
                let head = head.unwrap_or_else(|| Head {
                    status,
                    content_type: response_header("content-type").unwrap_or_default(),
                    is_encoded: response_header("content-encoding").is_some(),
                });
                let counter = Counter::of(head.status, &head.content_type, head.is_encoded);
                if let Some(counter) = counter {
                    self.response = Response::Counting(counter, self.client());
                }
            }
            Verdict::Inspect | Verdict::Accepted => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.look(size);
        self.judge(end)
    }

    fn on_http_response_trailers(&mut self, _trailers: usize) -> Action {
        self.clean_trailers(MapType::HttpResponseTrailers, Policy::of_response);
        self.judge(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.add_up();
        self.held.end();
    }
}
