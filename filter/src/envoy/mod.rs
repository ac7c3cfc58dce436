//! The proxy-wasm shell: host calls in, decisions out, no policy.
//!
//! Two rules hold all over it. No borrow of shared state is kept over a host call that can come
//! back into this module. And every host call that can fail on a stream that has ended is used
//! through `hostcalls`, which returns the failure, not through the SDK's traits, which panic.

mod bearer;
mod clock;
mod gate;
mod held;
mod limits;
mod metrics;
mod request_id;
mod root;
mod source;
mod stream;

use proxy_wasm::hostcalls;
use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Debug);
    // The SDK's own hook prints the panic's message, which can quote header bytes.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let _ = hostcalls::log(LogLevel::Critical, &format!("torchbearer: panic at {place}"));
    }));
    proxy_wasm::set_root_context(|id| Box::new(root::Root::new(id)));
}}
