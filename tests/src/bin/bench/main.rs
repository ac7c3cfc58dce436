//! What can only be measured: `make bench` prints it and writes it to `target/bench/results.json`.
//! It exits with 1 when a bound is broken.

mod refusals;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(broken) => {
            broken.iter().for_each(|bound| eprintln!("bench: {bound}"));
            ExitCode::from(u8::from(!broken.is_empty()))
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything; gives the bounds that do not hold, in words.
async fn run() -> Result<Vec<String>> {
    let refusals = refusals::measure().await?;
    print!("{refusals}");
    std::fs::create_dir_all("target/bench")?;
    let results = json!({"refusals": refusals.json()});
    std::fs::write("target/bench/results.json", serde_json::to_string_pretty(&results)?)?;
    Ok(refusals.broken())
}
