//! The shipped module in a Wasm interpreter, under histories that a real Envoy seldom makes.
//!
//! The host answers as Envoy does. Whatever happens, in whatever order: no call traps, and the
//! invariants hold that can be seen from the host's side. `PROPTEST_CASES` asks for more histories.

#![cfg(test)]

mod abi;
mod bundles;
mod checks;
mod control;
mod cost;
mod history;
mod host;
mod memory;
mod strategies;
mod streams;
mod traffic;
mod vm;
mod world;

use std::cell::RefCell;

use anyhow::Result;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use strategies::history;
use world::{Seen, World};

/// How many histories are played where `PROPTEST_CASES` says nothing.
const HISTORIES: u32 = 2000;

fn config() -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let persistence = FileFailurePersistence::WithSource("proptest-regressions");
    let config = Config::default();
    Config {
        cases: if asked { config.cases } else { HISTORIES },
        failure_persistence: Some(Box::new(persistence)),
        source_file: Some(file!()),
        ..config
    }
}

#[test]
fn no_history_traps_or_breaks_an_invariant() -> Result<()> {
    let config = config();
    let enough = config.cases >= HISTORIES;
    let sum = RefCell::new(Seen::default());
    let played = TestRunner::new(config).run(&history(), |history| {
        let seen = World::play(&history).map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
        sum.borrow_mut().add(seen);
        Ok(())
    });
    played.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let sum = sum.into_inner();
    let Seen { through: [gate, bearer, both], resumed, refused, released, replays } = sum;
    let rarest = [gate, bearer, both, resumed, refused, released, replays].into_iter().min();
    assert!(!enough || rarest > Some(0), "histories come to nothing: {sum:?}");
    Ok(())
}
