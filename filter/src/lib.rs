//! Torchbearer's filter: the policy as plain functions, and under it a thin proxy-wasm shell.
//!
//! The policy modules do no I/O, read no clock and keep no state of their own: bytes and times in,
//! a decision out. They build and test on any target. The shell, `envoy`, exists only in the Wasm
//! module; it turns host calls into arguments and decisions into host calls.

pub mod agenda;
pub mod bundle;
pub mod client;
pub mod config;
pub mod gate;
pub mod headers;
pub mod json;
pub mod limit;
pub mod management;
pub mod model;
pub mod refusal;
pub mod serving;
pub mod usage;
pub mod verdict;

#[cfg(target_os = "wasi")]
mod envoy;
