//! What the end-to-end tests and the demo are made of: real processes, started and stopped.
//!
//! [`Stack`] is a provider simulator, a refresher that is logged in to it, and an Envoy with the
//! shipped bootstrap, on ports that the kernel chose. Logs go to files, and are printed only when
//! a test fails.

mod artefacts;
mod browser;
mod canary;
mod clock;
mod h2raw;
mod message;
mod metrics;
mod process;
mod publisher;
mod raw;
mod stack;

pub use artefacts::{
    envoy_binary, filter_module, python, refresher_binary, screenshots, webdriver,
};
pub use browser::Browser;
pub use canary::Canaries;
pub use clock::{Stopwatch, eventually, unix_now};
pub use h2raw::{Http2, Parts, literals, repeated};
pub use message::{Field, Http2Message, Message, Outcome, Protocol};
pub use metrics::{Metrics, Sample};
pub use process::{Keyboard, Process, allow_open_files};
pub use publisher::Publisher;
pub use raw::{Answer, http_client, raw_bytes, raw_request, unix_request};
pub use stack::{Plan, Stack, free_port, own_port};
