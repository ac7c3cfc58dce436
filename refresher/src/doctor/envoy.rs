//! Envoy, the filter's module, and whether the one accepts the configuration with the other.

use std::io::Read as _;
use std::net::SocketAddr;

use super::report::Finding;
use super::short;
use crate::chain;
use crate::config::Config;
use crate::up::envoy::{Error, OLDEST, Program};
use crate::up::files::Files;

/// How a Wasm module of the one version that there is begins.
const MAGIC: [u8; 8] = *b"\0asm\x01\0\0\0";

pub(super) async fn program(config: &Config) -> (Finding, Option<Program>) {
    match find(config).await {
        Ok((program, version)) => {
            let says = format!("{}: Envoy {version}, with V8", program.path().display());
            (Finding::ok(says), Some(program))
        }
        Err(error) => {
            let remedy = match &error {
                Error::NoWasm { .. } | Error::TooOld { .. } => {
                    format!(
                        "get an Envoy {}.{} or later with V8, and name it in ENVOY_BIN or envoy.bin",
                        OLDEST.0, OLDEST.1
                    )
                }
                _ => "name an Envoy in ENVOY_BIN or envoy.bin".to_owned(),
            };
            (Finding::fail(chain::line(&error), remedy), None)
        }
    }
}

async fn find(config: &Config) -> Result<(Program, String), Error> {
    let program = Program::find(config.envoy.bin.as_deref())?;
    let version = program.version().await?;
    program.check().await?;
    Ok((program, version))
}

pub(super) fn filter(config: &Config) -> (Finding, Option<Files>) {
    const REMEDY: &str =
        "name filter.wasm in TORCHBEARER_FILTER or envoy.filter, or put it beside this program";
    let files = match Files::of(config) {
        Ok(files) => files,
        Err(error) => return (Finding::fail(chain::line(&error), REMEDY), None),
    };
    let shown = files.filter.display();
    let begins = std::fs::File::open(&files.filter).and_then(|mut file| {
        let mut begins = Vec::new();
        file.by_ref().take(8).read_to_end(&mut begins)?;
        Ok((begins, file.metadata()?.len()))
    });
    match begins {
        Err(error) => {
            let says = format!("{shown}: cannot be read: {error}");
            (Finding::fail(says, format!("chmod a+r {shown}")), None)
        }
        Ok((begins, _)) if begins != MAGIC => {
            (Finding::fail(format!("{shown}: is no Wasm module"), REMEDY), None)
        }
        Ok((_, bytes)) => {
            (Finding::ok(format!("{shown}: a Wasm module of {bytes} bytes")), Some(files))
        }
    }
}

/// Has Envoy check what `up` would start it with.
pub(super) async fn bootstrap(config: &Config, program: &Program, files: &Files) -> Finding {
    let listen = SocketAddr::new(config.listener.host, config.listener.port);
    let text = match files.bootstrap(config, listen) {
        Ok(text) => text,
        Err(error) => {
            let says = format!("cannot be made from the settings: {}", chain::line(&error));
            return Finding::fail(says, "change the setting that is named");
        }
    };
    let says = match validate(program, &text).await {
        Ok(None) => return Finding::ok("Envoy accepts what the settings make of it"),
        Ok(Some(reason)) => format!("Envoy refuses it: {reason}"),
        Err(error) => format!("Envoy cannot be asked: {error}"),
    };
    Finding::fail(
        says,
        "change the setting that this is about, or use an Envoy of the version that is documented",
    )
}

/// The same where there is nothing to check it with, and nothing that needs it.
pub(super) fn bootstrap_elsewhere() -> Finding {
    Finding::warn(
        "not looked at: your Envoy has its own",
        "where that Envoy is: envoy --mode validate -c FILE",
    )
}

/// The reason if it is refused.
async fn validate(program: &Program, text: &str) -> std::io::Result<Option<String>> {
    let output = program.validate(text).await?;
    if output.status.success() {
        return Ok(None);
    }
    let log = String::from_utf8_lossy(&output.stderr);
    let told = log.lines().rev().find(|line| !line.trim().is_empty());
    Ok(Some(told.map_or_else(|| output.status.to_string(), short)))
}
