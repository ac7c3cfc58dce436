//! Logins that come from other programs, go elsewhere and come back, against a simulated provider.

#![cfg(test)]

mod formats;
#[expect(dead_code, reason = "each test program uses its part")]
#[path = "../harness/mod.rs"]
mod harness;
mod transfer;
mod watch;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use filter::bundle::Credential;
use refresher::store::Grant;
use serde_json::{Value, json};
use simulator::{Options, Simulator};
use tokio::io::AsyncWriteExt as _;

use harness::SOON;
use harness::program::{Place, Program};

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the program to its end with `input` on standard input.
async fn run(place: &Place, arguments: &[&str], input: &[u8], path: Option<&Path>) -> Ended {
    let mut command = tokio::process::Command::from(place.command());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("HOME", place.path()).env("LOG_LEVEL", "info");
    let path = path.map_or_else(|| "/usr/bin:/bin".into(), Path::to_path_buf);
    let mut child = command.env("PATH", path).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses at once does not read it.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn import(place: &Place, arguments: &[&str], document: &Value) -> Ended {
    let arguments: Vec<&str> = ["import", "-"].iter().chain(arguments).copied().collect();
    run(place, &arguments, document.to_string().as_bytes(), None).await
}

async fn simulator(options: Options) -> (Simulator, Place) {
    let simulator = Simulator::start(options).await.unwrap();
    let place = Place::new(simulator.url(), "");
    (simulator, place)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn hermes(url: &str, answer: &Value) -> Value {
    json!({
        "version": 1,
        "providers": {"xai-oauth": {
            "tokens": answer,
            "discovery": {"token_endpoint": format!("{url}/oauth2/token")},
            "last_refresh": now(),
        }},
    })
}

fn now() -> u64 {
    refresher::clock::now().unix()
}

/// Starts `serve` and waits until the refresh token has been exchanged for a new one.
async fn rotates(place: &Place, grant: &Grant) {
    let mut program = Program::serve(place.command(), place.socket("s.sock"));
    let search = async {
        while place.stored().unwrap().refresh_token == grant.refresh_token {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, search).await.expect("rotates soon");
    let ready = program.settle(|state| matches!(state, Credential::Ready(_))).await;
    assert!(ready.is_some());
}
