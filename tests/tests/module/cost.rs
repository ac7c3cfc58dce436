//! What a good request asks of the host: each call costs, and one that returns something costs most,
//! since the host calls back for memory.

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::host::{Faults, Headers, REQUEST_BODY, RESPONSE_BODY, RESPONSE_HEADERS, Shared};
use super::vm::{CONTINUE, Vm};

const KEY: &str = "a-key-of-one-client";

/// Unix seconds.
const NOW: u64 = 1_779_000_100;

fn map(pairs: &[(&str, &str)]) -> Headers {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).into());
    pairs.iter().map(owned).collect()
}

fn request() -> Headers {
    map(&[
        (":authority", "127.0.0.1:9996"),
        (":path", "/v1/chat/completions"),
        (":method", "POST"),
        (":scheme", "http"),
        ("accept-encoding", "gzip, deflate"),
        ("authorization", &format!("Bearer {KEY}")),
        ("content-type", "application/json"),
        ("content-length", "2"),
        ("x-forwarded-proto", "http"),
    ])
}

fn answer() -> Headers {
    map(&[(":status", "200"), ("content-type", "application/json"), ("content-length", "2")])
}

/// A VM with a gate and a bearer, and a bundle that an earlier VM has left.
fn vm(bearer: &str) -> Result<(Vm, [u32; 2])> {
    let bundle = json!({"version": 1, "generation": 7, "credentials": {"default": {
        "state": "ready", "access_token": "token", "token_type": "Bearer",
        "expires_at": NOW + 3600, "generation": 7}}});
    let shared = ("torchbearer/bundle/refresher".to_owned(), (bundle.to_string().into(), 1));
    let mut vm = Vm::start(NOW * 1_000_000_000, Shared::from([shared]), Faults::default())?;
    let sha256: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let gate = json!({"gate": {"client_keys": [{"id": "alice", "sha256": sha256}]}}).to_string();
    let mut root = |text: &str| vm.root(text.as_bytes())?.context("a good configuration");
    let roots = [root(&gate)?, root(bearer)?];
    Ok((vm, roots))
}

/// The calls of the host in each phase of a request that finds all that it needs, and how many of
/// them return something.
fn phases(bearer: &str) -> Result<Vec<(&'static str, [u32; 2])>> {
    let (mut vm, [gate, bearer]) = vm(bearer)?;
    let mut phases = Vec::new();
    // The first defines metrics, and the second is like all after it.
    for number in 0..2 {
        phases.clear();
        vm.host().log.clear();
        let mut before = vm.host().asked;
        let mut phase = |vm: &mut Vm, name, action| {
            assert_eq!(action, CONTINUE, "{name}");
            let after = vm.host().asked;
            phases.push((name, [after[0] - before[0], after[1] - before[1]]));
            before = after;
        };
        let (down, action) = vm.begin(gate, number, request(), false)?;
        phase(&mut vm, "gate, request", action);
        let (up, action) = vm.begin(bearer, number, request(), false)?;
        phase(&mut vm, "bearer, request", action);
        for (id, name) in [(down, "gate, body"), (up, "bearer, body")] {
            let action = vm.body(id, REQUEST_BODY, b"{}", true)?;
            phase(&mut vm, name, action);
        }
        for (id, name) in [(up, "bearer, answer"), (down, "gate, answer")] {
            let action = vm.headers(id, RESPONSE_HEADERS, answer(), false)?;
            phase(&mut vm, name, action);
        }
        for (id, name) in [(up, "bearer, answer's body"), (down, "gate, answer's body")] {
            let action = vm.body(id, RESPONSE_BODY, b"{}", true)?;
            phase(&mut vm, name, action);
        }
        for (id, name) in [(up, "bearer, end"), (down, "gate, end")] {
            vm.delete(id)?;
            phase(&mut vm, name, CONTINUE);
        }
    }
    assert_eq!(vm.host().log, Vec::<String>::new(), "a good request writes nothing into the log");
    Ok(phases)
}

#[test]
fn a_good_request_asks_little_of_the_host() -> Result<()> {
    let expected = [
        // The headers, the time, two names for the log, and the removal of what must not leave.
        ("gate, request", [6, 1]),
        // The gate's mark, the time, two changes of headers, the generation for the log.
        ("bearer, request", [5, 1]),
        ("gate, body", [0, 0]),
        ("bearer, body", [0, 0]),
        // The removal of a mark that the API could have sent, and the status.
        ("bearer, answer", [2, 1]),
        // The headers, and two counters.
        ("gate, answer", [3, 1]),
        ("bearer, answer's body", [0, 0]),
        ("gate, answer's body", [0, 0]),
        ("bearer, end", [0, 0]),
        ("gate, end", [0, 0]),
    ];
    assert_eq!(phases(r#"{"bearer": {}}"#)?, expected);
    Ok(())
}

#[test]
fn counting_tokens_asks_for_the_answer_besides() -> Result<()> {
    let count = |phases: Vec<(&str, [u32; 2])>| {
        phases.iter().fold([0, 0], |[calls, returning], (_, [c, r])| [calls + c, returning + r])
    };
    let without = count(phases(r#"{"bearer": {}}"#)?);
    let with = count(phases(r#"{"bearer": {}, "usage": {}}"#)?);
    // Its type, its encoding (there is none, so nothing returns), the client, its one part.
    assert_eq!([with[0] - without[0], with[1] - without[1]], [4, 3]);
    Ok(())
}
