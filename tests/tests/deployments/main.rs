//! What is shipped under `envoy/`, each folder as its README says to use it: accepted by Envoy, and
//! carrying a real request.
//!
//! The shipped file is always the input. What a test changes in it are the places of this machine.

#![cfg(test)]

mod dynamic;
mod folder;
mod gateway;
mod istio;
mod kubernetes;
mod merge;
mod oldest;
mod proof;
mod schema;
mod sds;
mod shipped;
mod standalone;
