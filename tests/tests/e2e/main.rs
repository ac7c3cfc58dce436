//! End to end: a real Envoy with the real filter, the real refresher, a strict provider.
//!
//! The names of the tests begin with the case that they prove, where there is one.

#![cfg(test)]

mod certificates;
mod clients;
mod closed;
mod doctor;
mod errors;
mod guard;
mod headers;
mod keys;
mod limits;
mod live_keys;
mod load;
mod login;
mod models;
mod observe;
mod page;
mod policy;
mod proof;
mod recipes;
mod remote;
mod restart;
mod retries;
mod sds;
mod secrets;
mod service;
mod settings;
mod socket;
mod status;
mod token;
mod trap;
mod up;
mod usage;
mod websocket;
