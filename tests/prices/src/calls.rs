//! The calls.

use proxy_wasm::hostcalls::{self, get_map_bytes, get_map_value_bytes, remove_map_value};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, MapType, MetricType, Status};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Prices::default()));
}}

/// Filter state.
const MARK: &str = "prices.mark";

/// As long as many an access token.
const TOKEN: [u8; 700] = [b'x'; 700];

/// A call: of the host, with the number of a counter.
type Call = fn(u32) -> Result<(), Status>;

/// By their names in the report.
const CALLS: [(&str, Call); 9] = [
    ("nothing", |_| Ok(())),
    ("clock", |_| hostcalls::get_current_time().map(drop)),
    ("counter", |counter| hostcalls::increment_metric(counter, 1)),
    ("headers", |_| get_map_bytes(MapType::HttpRequestHeaders).map(drop)),
    ("header", |_| get_map_value_bytes(MapType::HttpRequestHeaders, "content-type").map(drop)),
    ("remove_header", |_| remove_map_value(MapType::HttpRequestHeaders, "x-absent")),
    ("set_header", |_| {
        let map = MapType::HttpRequestHeaders;
        hostcalls::set_map_value_bytes(map, "authorization", Some(&TOKEN))
    }),
    ("set_property", |_| hostcalls::set_property(vec![MARK], Some(b"default"))),
    ("property", |_| hostcalls::get_property(vec!["destination", "address"]).map(drop)),
];

#[derive(Clone, Copy)]
struct Prices {
    call: Call,
    times: u32,
    counter: u32,
}

impl Default for Prices {
    fn default() -> Self {
        Self { call: |_| Ok(()), times: 0, counter: 0 }
    }
}

impl Context for Prices {}

impl HttpContext for Prices {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let done = (0..self.times).try_for_each(|_| (self.call)(self.counter));
        // What has failed is no price.
        if done.is_ok() { Action::Continue } else { Action::Pause }
    }
}

impl RootContext for Prices {
    fn on_configure(&mut self, _: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        let text = String::from_utf8(configuration).unwrap_or_default();
        let Some((name, times)) = text.split_once(' ') else { return false };
        let call = CALLS.iter().find(|(known, _)| *known == name).map(|(_, call)| *call);
        let counter = hostcalls::define_metric(MetricType::Counter, "prices");
        let (Some(call), Ok(times), Ok(counter)) = (call, times.parse(), counter) else {
            return false;
        };
        *self = Self { call, times, counter };
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(*self))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
