//! A filter that does nothing, in any place: the host's own cost of calling a Wasm filter.

#[cfg(target_os = "wasi")]
mod nothing;
