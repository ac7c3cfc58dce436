//! `config` and `envoy-config`: what the settings are, whether they are good, and what Envoy gets of
//! them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Exit;
use super::output::Output;
use super::progress::Progress;
use crate::config::show::{self, Sources};
use crate::config::{self, Config, Overrides, Problems, check, example, schema};
use crate::up::envoy::Program;
use crate::{chain, clock, store};

/// How long Envoy may look at its configuration.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read all settings, look at the files that they name, and report everything that is wrong at
    /// once; exits with 2 if something is
    Check {
        /// Have Envoy look at the configuration that it would get, too
        #[arg(long)]
        envoy: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what holds, as TOML, and where each of it comes from; secrets are not shown
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a complete configuration file, with what each setting means
    Example,
    /// Print the JSON Schema of the configuration file
    Schema {
        /// That of the filter's plugin configuration
        #[arg(long)]
        plugin: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct EnvoyConfigArguments {
    /// Where Envoy is to listen [default: listener.host and listener.port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// What needs no configuration. None: the command does.
pub(super) fn print(command: &ConfigCommand) -> Option<String> {
    match command {
        ConfigCommand::Example => Some(example::file()),
        ConfigCommand::Schema { plugin: false } => Some(format!("{:#}\n", schema::of_file())),
        ConfigCommand::Schema { plugin: true } => Some(format!("{:#}\n", schema::of_plugin())),
        ConfigCommand::Check { .. } | ConfigCommand::Show { .. } => None,
    }
}

pub(super) async fn perform(
    command: &ConfigCommand,
    flags: &Overrides,
    output: Output,
) -> anyhow::Result<Exit> {
    if let Some(text) = print(command) {
        output.text(&text)?;
        return Ok(Exit::Done);
    }
    let env = |name: &str| std::env::var(name).ok();
    match command {
        ConfigCommand::Check { envoy, json } => {
            let output = Output { json: *json, ..output };
            let (problems, config) = match config::load(flags, &env) {
                Ok(config) => (check::files(&config, clock::now().unix()), Some(config)),
                Err(config::Error::Settings(problems)) => (problems, None),
                Err(error) => {
                    let line = chain::line(&error);
                    let mut problems = Problems::default();
                    problems.unaccepted("configuration", &line, "a file in TOML that can be read");
                    (problems, None)
                }
            };
            if let (true, true, Some(config)) = (*envoy, problems.is_empty(), &config) {
                let validated = validate(config);
                Progress::new(output).during("having Envoy look at it", validated).await?;
            }
            report(&problems, config.as_ref(), output)
        }
        ConfigCommand::Show { json } => {
            let output = Output { json: *json, ..output };
            let file = config::read(flags, &env)?;
            let document = file.as_ref().map_or("", |(_, document)| document);
            let config = config::resolve(document, flags, &env)?;
            let file = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
            let all = show::effective(&config, &Sources { file, flags, env: &env });
            output.result(&json!({"settings": all}), &show::toml(&all))?;
            Ok(Exit::Done)
        }
        ConfigCommand::Example | ConfigCommand::Schema { .. } => Ok(Exit::Done),
    }
}

fn report(problems: &Problems, config: Option<&Config>, output: Output) -> anyhow::Result<Exit> {
    if problems.is_empty() {
        let provider = config.map_or("", |config| &config.provider.name);
        let text = format!("the configuration is good; the provider is {provider}\n");
        output.result(&json!({"good": true, "problems": []}), &text)?;
        return Ok(Exit::Done);
    }
    if output.json {
        output.result(&json!({"good": false, "problems": problems}), "")?;
    }
    for line in problems.to_string().lines() {
        eprintln!("refresher: {line}");
    }
    Ok(Exit::Usage)
}

/// Why Envoy refuses what it would get.
#[derive(Debug, thiserror::Error)]
#[error("envoy does not accept the configuration that it would get: {0}")]
pub(super) struct Refused(String);

/// Has Envoy look at the bootstrap, in a private file, and forgets it.
async fn validate(config: &Config) -> anyhow::Result<()> {
    let program = Program::find(config.envoy.bin.as_deref())?;
    program.check().await?;
    let listen = SocketAddr::new(config.listener.host, config.listener.port);
    let text = check::bootstrap(config, listen)?;
    let name = format!("torchbearer-check-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let file = folder.join("bootstrap.json");
    let outcome = async {
        store::replace_private(&file, text.as_bytes())?;
        let run = tokio::process::Command::new(program.path())
            .args(["--mode", "validate", "--log-level", "error", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let run = tokio::time::timeout(DEADLINE, run).await;
        let output = run.map_err(|_| Refused("it does not answer".to_owned()))??;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Refused(said).into())
    };
    let outcome = outcome.await;
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

pub(super) fn envoy_config(
    config: &Config,
    arguments: &EnvoyConfigArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let default = SocketAddr::new(config.listener.host, config.listener.port);
    let text = check::bootstrap(config, arguments.listen.unwrap_or(default))?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    output.text(&format!("{document:#}\n"))?;
    Ok(Exit::Done)
}
