//! Torchbearer's sidecar: it logs in to an OAuth 2.0 provider, keeps the access token fresh, and
//! publishes it to the filter in Envoy over a unix socket.
//!
//! Decisions are plain functions over plain types: [`oauth`] builds requests and reads answers,
//! [`rotation`] says when to spend a grant, [`schedule`] when that is due, [`config`] what a
//! setting means, [`keys`] what a change of the client keys does. Time, randomness, sockets and files are met at the edge only: [`clock`],
//! [`http`], [`store`], [`serve`], [`up`] and the interactive half of [`login`].

mod accept;
pub mod admin;
pub mod bootstrap;
pub mod chain;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod export;
pub mod http;
pub mod import;
pub mod keys;
pub mod login;
pub mod logout;
pub mod memory;
pub mod notify;
pub mod oauth;
pub mod overview;
pub mod page;
pub mod provider;
pub mod publish;
pub mod reload;
pub mod rotation;
pub mod schedule;
pub mod secret;
pub mod serve;
pub mod service;
pub mod signals;
pub mod status;
pub mod store;
pub mod surroundings;
pub mod transfer;
pub mod up;
