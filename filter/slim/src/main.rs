//! `slim IN.wasm OUT.wasm`: takes the callbacks that the filter does not use out of its module.
//!
//! The SDK exports every callback of the ABI. A host calls each that is exported, on every stream
//! and every chunk, so an unused one costs time as well as size. With the exports goes the code
//! that only they reach.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use walrus::{ModuleConfig, passes};

/// Callbacks without a use for an HTTP filter that makes HTTP calls.
const UNUSED: &[&str] = &[
    "proxy_on_downstream_connection_close",
    "proxy_on_done",
    "proxy_on_downstream_data",
    "proxy_on_foreign_function",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_log",
    "proxy_on_new_connection",
    "proxy_on_queue_ready",
    "proxy_on_upstream_connection_close",
    "proxy_on_upstream_data",
];

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(input), Some(output), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("accepted are two paths: slim IN.wasm OUT.wasm");
    };
    let mut config = ModuleConfig::new();
    config.generate_name_section(false).generate_producers_section(false);
    let mut module = config
        .parse_file(&input)
        .with_context(|| format!("{} is not a Wasm module", input.display()))?;
    for name in UNUSED {
        // What is not there any more should not stay on the list.
        module.exports.remove(name).with_context(|| format!("the module exports no {name}"))?;
    }
    passes::gc::run(&mut module);
    module.emit_wasm_file(&output).with_context(|| format!("{} not written", output.display()))
}
