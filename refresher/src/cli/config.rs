//! `config` and `envoy-config`: what the settings are, whether they are good, and what Envoy gets of
//! them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::Exit;
use super::output::{Output, complain};
use super::progress::Progress;
use crate::config::show::{self, Sources};
use crate::config::{self, Config, Overrides, Problems, check, example, schema};
use crate::up::envoy::Program;
use crate::{chain, clock};

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
    /// Write it as bootstrap.json into this directory instead, with the filter and the certificates
    /// to trust beside it, for an Envoy in another container
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
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
        complain(line);
    }
    Ok(Exit::Usage)
}

/// Why Envoy refuses what it would get.
#[derive(Debug, thiserror::Error)]
#[error("envoy does not accept the configuration that it would get: {0}")]
pub(super) struct Refused(String);

/// Has Envoy look at the bootstrap.
async fn validate(config: &Config) -> anyhow::Result<()> {
    let program = Program::find(config.envoy.bin.as_deref())?;
    program.check().await?;
    let listen = SocketAddr::new(config.listener.host, config.listener.port);
    let text = check::bootstrap(config, listen)?;
    let run = tokio::time::timeout(DEADLINE, program.validate(&text)).await;
    let output = run.map_err(|_| Refused("it does not answer".to_owned()))??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Refused(said).into())
}

pub(super) fn envoy_config(
    config: &Config,
    arguments: &EnvoyConfigArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let default = SocketAddr::new(config.listener.host, config.listener.port);
    let listen = arguments.listen.unwrap_or(default);
    match &arguments.output {
        None => output.text(&pretty(&check::bootstrap(config, listen)?)?)?,
        Some(folder) => {
            write_for_envoy(config, listen, &std::path::absolute(folder)?)?;
            let folder = folder.display();
            output.done(
                &json!({"folder": folder.to_string()}),
                &format!("wrote bootstrap.json, and the files that it names, to {folder}"),
            )?;
        }
    }
    Ok(Exit::Done)
}

fn pretty(bootstrap: &str) -> anyhow::Result<String> {
    let document: serde_json::Value = serde_json::from_str(bootstrap)?;
    Ok(format!("{document:#}\n"))
}

/// What the bootstrap names comes first, so that it never names what is not there.
fn write_for_envoy(config: &Config, listen: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    let copy = |path: &Path, name| {
        let bytes = std::fs::read(path);
        place(folder, name, &bytes.with_context(|| format!("{} cannot be read", path.display()))?)
    };
    let mut files = check::envoy_files(config)?;
    files.filter = copy(&files.filter, "filter.wasm")?;
    let certificates = files.trusted_ca.as_deref();
    files.trusted_ca = certificates.map(|path| copy(path, "trusted_ca.pem")).transpose()?;
    place(folder, "bootstrap.json", pretty(&files.bootstrap(config, listen)?)?.as_bytes())?;
    Ok(())
}

/// Writes a file whole, in the place of what was there; says where it is.
fn place(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let (draft, path) = (folder.join(format!(".{name}.new")), folder.join(name));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&draft, bytes))
        .and_then(|()| std::fs::rename(&draft, &path));
    written.with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_for_envoy_names_the_filter_and_the_sockets_that_it_can_see() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source.wasm");
        std::fs::write(&source, b"\0asm").unwrap();
        let authority = folder.path().join("ca.pem");
        std::fs::write(&authority, "certificates").unwrap();
        let document = format!(
            "state_dir = \"/var/lib/torchbearer\"\nsocket = \"/run/torchbearer/refresher.sock\"\n\
             [envoy]\nfilter = {source:?}\ntrusted_ca = {authority:?}\n\
             admin = \"/run/torchbearer/envoy-admin.sock\"\n"
        );
        let config = config::resolve(&document, &Overrides::default(), &|_| None).unwrap();
        let output = folder.path().join("for-envoy");
        let listen = SocketAddr::from(([0, 0, 0, 0], 9996));
        for _ in 0..2 {
            write_for_envoy(&config, listen, &output).unwrap();
        }
        let filter = output.join("filter.wasm");
        assert_eq!(std::fs::read(&filter).unwrap(), b"\0asm");
        let bootstrap = std::fs::read_to_string(output.join("bootstrap.json")).unwrap();
        for named in [
            format!("\"filename\": {filter:?}"),
            format!("\"filename\": {:?}", output.join("trusted_ca.pem")),
            "\"path\": \"/run/torchbearer/envoy-admin.sock\"".to_owned(),
            "\"path\": \"/run/torchbearer/refresher.sock\"".to_owned(),
            "\"address\": \"0.0.0.0\"".to_owned(),
        ] {
            assert!(bootstrap.contains(&named), "{named} is not in {bootstrap}");
        }
        assert!(!bootstrap.contains("/var/lib/torchbearer") && !bootstrap.contains("/ca.pem"));
        // Unset, the admin socket is where `serve` looks for it.
        let document =
            format!("socket = \"/run/other/refresher.sock\"\n[envoy]\nfilter = {source:?}\n");
        let config = config::resolve(&document, &Overrides::default(), &|name| {
            (name == "HOME").then(|| "/nowhere".to_owned())
        })
        .unwrap();
        let files = check::envoy_files(&config).unwrap();
        assert_eq!(files.admin, Path::new("/run/other/envoy-admin.sock"));
    }
}
