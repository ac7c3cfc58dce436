//! One request at one place: at the gate, at the bearer (once for each attempt), or at both.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::held::Held;
use super::root::Plugin;
use crate::config::Bearer;
use crate::headers::{request_reason, response_reason};
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
}

impl Stream {
    /// A stream of a plugin configuration.
    pub fn new(id: u32, plugin: Rc<Plugin>) -> Self {
        Self { held: Rc::new(Held::new(id, plugin)), response: Response::Passing }
    }

    fn request_action(&self) -> Action {
        if self.held.passes() { Action::Continue } else { Action::Pause }
    }

    /// Takes a part of the body. Where the answer is held back, each part begins at the start.
    fn look(&mut self, size: usize) {
        if let Response::Inspecting { held, seen } = &mut self.response {
            if *held {
                seen.clear();
            }
            let read = size.min(INSPECTED_BYTES.saturating_sub(seen.len()));
            let part = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, read);
            seen.extend_from_slice(&part.ok().flatten().unwrap_or_default());
        }
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
            Response::Passing => {}
        }
        self.response = Response::Passing;
        Action::Continue
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        self.held.advance();
        if self.held.waits() {
            self.held.plugin.source.hold(Rc::clone(&self.held));
            self.held.plugin.tick_at_once();
        }
        self.request_action()
    }

    fn on_http_request_body(&mut self, _size: usize, _end: bool) -> Action {
        self.request_action()
    }

    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        if self.held.plugin.config.gate.is_some() {
            let trailers = hostcalls::get_map_bytes(MapType::HttpRequestTrailers);
            for (name, _) in trailers.unwrap_or_default() {
                if request_reason(&name).is_some() {
                    let _ = hostcalls::remove_map_value(MapType::HttpRequestTrailers, &name);
                }
            }
        }
        self.request_action()
    }

    fn on_http_response_headers(&mut self, _headers: usize, end: bool) -> Action {
        let config = &self.held.plugin.config;
        if config.gate.is_some() {
            let headers = hostcalls::get_map_bytes(MapType::HttpResponseHeaders);
            for (name, _) in headers.unwrap_or_default() {
                if response_reason(&name).is_some() {
                    let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, &name);
                }
            }
        }
        let (Some(Bearer { dead_token, .. }), Some(_)) = (&config.bearer, self.held.injected.get())
        else {
            return Action::Continue;
        };
        let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status");
        let status = status.ok().flatten();
        let status = status.and_then(|status| str::from_utf8(&status).ok()?.parse().ok());
        let status = status.unwrap_or(0);
        match dead_token.of_status(status) {
            Verdict::Dead => self.held.token_refused(status),
            Verdict::Inspect if !end => {
                // Only where the replay is possible is there a reason to hold the headers.
                let held = config.gate.is_none();
                self.response = Response::Inspecting { held, seen: Vec::new() };
                if held {
                    return Action::Pause;
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
        self.judge(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.held.end();
    }
}
