//! The flags of `keys`.

use clap::{Args, Subcommand};
use filter::client::{ClientId, InvalidClientId};

use crate::cli::args::credential;
use crate::keys::duration;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeysCommand {
    /// Make a key for a client, and print it, once
    Add(AddArguments),
    /// Show all client keys, but not the keys themselves
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End all keys of a client that were made by command, at once
    Revoke {
        /// The client's name
        #[arg(value_parser = name)]
        name: ClientId,
        /// Tell the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make another key for a client, with the same restrictions and length of life, and print it,
    /// once
    Rotate(RotateArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArguments {
    /// The client's name, as the access log and the metrics show it
    #[arg(value_parser = name)]
    pub(super) name: ClientId,
    /// How long the key holds, such as 12h or 30d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(super) expires: Option<u64>,
    /// What the paths begin with that the key is good for; may be repeated [default: all]
    #[arg(long = "path", value_name = "PREFIX")]
    pub(super) paths: Vec<String>,
    /// A model that the key is good for, with * at the end as a wildcard; may be repeated
    /// [default: all]
    #[arg(long = "model", value_name = "PATTERN")]
    pub(super) models: Vec<String>,
    /// The login whose token the client's requests get
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
    pub(super) credential: String,
    /// Requests a minute [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rpm: Option<u32>,
    /// Requests at the same time [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) concurrency: Option<u32>,
    /// Instead of a key, a verified TLS client certificate with this URI or DNS name
    #[arg(long, value_name = "NAME", conflicts_with = "stdin")]
    pub(super) subject_alt_name: Option<String>,
    /// Read the key from standard input instead of making one: 16 to 1024 visible ASCII characters
    #[arg(long)]
    pub(super) stdin: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateArguments {
    /// The client's name
    #[arg(value_parser = name)]
    pub(super) name: ClientId,
    /// How long the keys that the client has still hold; 0: they end at once
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = overlap)]
    pub(super) overlap: u64,
    /// Read the new key from standard input instead of making one
    #[arg(long)]
    pub(super) stdin: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn name(text: &str) -> Result<ClientId, String> {
    text.parse().map_err(|error: InvalidClientId| error.to_string())
}

fn lifetime(text: &str) -> Result<u64, String> {
    duration::parse(text)
        .filter(|&seconds| seconds > 0)
        .ok_or_else(|| format!("accepted: {}", duration::RULE))
}

fn overlap(text: &str) -> Result<u64, String> {
    duration::parse(text).ok_or_else(|| format!("accepted: {}; or 0", duration::RULE))
}
