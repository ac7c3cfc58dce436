//! `import`, `export` and `transfer`: logins that come from other programs or go elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use url::Url;

use super::Exit;
use super::args::credential;
use super::output::Output;
use super::progress::Progress;
use crate::config::Config;
use crate::export;
use crate::import::format::Format;
use crate::import::judge::is_client;
use crate::import::{self, Options, Outcome};
use crate::transfer::script::{Restart, is_command};
use crate::transfer::{self, Destination, Event, HOST_RULE, Host, Plan};

const FORMATS: &str = "hermes, grok-cli, python-proxy, rust-proxy or torchbearer";

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// The file, - for standard input [default: HERMES_AUTH_PATH, ~/.hermes/auth.json or
    /// ~/.grok/auth.json, the first that exists]
    path: Option<PathBuf>,
    /// Whose file it is: hermes, grok-cli, python-proxy, rust-proxy or torchbearer [default: told
    /// from its content]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    from: Option<Format>,
    /// The name to store the login under
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
    credential: String,
    /// The client that the login was granted to [default: told from the file, else the provider's]
    #[arg(long, value_name = "ID", value_parser = client)]
    client_id: Option<String>,
    /// Replace a stored login even if it is newer
    #[arg(long)]
    force: bool,
    /// Tell the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// The name that the login is stored under
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
    credential: String,
    /// Show the secrets even if standard output is a terminal
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct TransferArguments {
    /// The machine to send the login to, as ssh knows it; no password is asked for
    #[arg(long, value_name = "USER@SERVER", value_parser = host)]
    host: Host,
    /// The key to log in there with (ssh -i)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The port of ssh there (ssh -p)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How refresher is called there, flags such as --provider included; its shell reads this
    #[arg(long, value_name = "CMD", default_value = "refresher", value_parser = command)]
    remote_command: String,
    /// What to restart there afterwards: a systemd unit or a command. A refresher that serves needs
    /// none
    #[arg(long, value_name = "CMD|UNIT", value_parser = restart)]
    restart: Option<Restart>,
    /// An address that must answer with success afterwards, asked from there for half a minute
    #[arg(long, value_name = "URL", value_parser = health_url)]
    health_url: Option<Url>,
    /// The name that the login is stored under, here and there
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
    credential: String,
    /// Replace a login there even if it is newer
    #[arg(long)]
    force: bool,
    /// Only print the command that logs in anew there, by a code in any browser
    #[arg(long)]
    print_reauth_command: bool,
    /// Tell the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn import(
    config: &Config,
    arguments: ImportArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let ImportArguments { path, from, credential, client_id, force, json } = arguments;
    let output = Output { json, ..output };
    let source = import::locate(path.as_deref(), from, config)?;
    let options = Options { from, client_id, force };
    let provider = &config.provider.name;
    let result = |format: Format, imported: bool| {
        json!({"provider": provider, "credential": credential, "from": format.name(),
               "imported": imported})
    };
    let taken = import::run(config, &credential, &source, &options);
    match Progress::new(output).during("asking the provider for its endpoints", taken).await? {
        Outcome::Imported(format) => {
            let line = format!(
                "imported the login of {} to {provider} as credential {credential}",
                format.name()
            );
            output.done(&result(format, true), &line)?;
            output.note(format!("warning: {}", sharing(format)));
        }
        Outcome::Unchanged(format) => {
            let line = format!(
                "credential {credential} of {provider} is the login of {} already",
                format.name()
            );
            output.done(&result(format, false), &line)?;
        }
    }
    Ok(Exit::Done)
}

fn sharing(format: Format) -> String {
    let other = match format {
        Format::Torchbearer => "the refresher that it was exported from".to_owned(),
        other => other.name().to_owned(),
    };
    format!(
        "{other} has the same refresh token, and each is good for one refresh: whichever of the \
         two refreshes first ends the login of the other. Stop using one of them, without logging \
         it out."
    )
}

pub(super) async fn export(
    config: &Config,
    arguments: ExportArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout();
    if out.is_terminal() && !arguments.force {
        return Err(export::Error::Terminal.into());
    }
    let document = export::document(config, &arguments.credential).await?;
    out.write_all(&document)?;
    out.flush()?;
    output.note(format!(
        "warning: this is the login itself: keep it private and delete it after use. {COMPETING}"
    ));
    Ok(Exit::Done)
}

const COMPETING: &str = "From the first refresh on only one of the two copies works: stop the \
                         refresher here before the other one starts. `logout` would end both.";

pub(super) async fn transfer(
    config: &Config,
    arguments: TransferArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let TransferArguments { host, identity, port, credential, json, .. } = arguments;
    let output = Output { json, ..output };
    let plan = Plan {
        destination: Destination { host, identity, port },
        credential,
        remote_command: arguments.remote_command,
        force: arguments.force,
        restart: arguments.restart,
        health_url: arguments.health_url,
    };
    if arguments.print_reauth_command {
        output.text(&format!("{}\n", transfer::reauth_command(&plan)))?;
        return Ok(Exit::Done);
    }
    let host = plan.destination.host.as_str();
    let progress = Progress::new(output);
    let tell = |event: Event<'_>| match event {
        Event::Begins(step) => progress.begin(&format!("waiting for {step} on {host}")),
        // Not a result of ours.
        Event::Printed(_) if output.quiet => {}
        Event::Printed(bytes) | Event::Said(bytes) => progress.pass(bytes),
    };
    tokio::select! {
        result = progress.watch(transfer::run(config, &plan, tell)) => result?,
        () = super::stopped() => {
            progress.end();
            return Ok(Exit::Cancelled);
        }
    }
    let result =
        json!({"provider": config.provider.name, "credential": plan.credential, "host": host});
    output.done(&result, &format!("credential {} is on {host}", plan.credential))?;
    output.note(format!("warning: {COMPETING}"));
    Ok(Exit::Done)
}

fn format(name: &str) -> Result<Format, String> {
    Format::named(name).ok_or_else(|| format!("accepted: {FORMATS}"))
}

fn client(id: &str) -> Result<String, String> {
    let accepted = || "accepted: 1 to 256 visible ASCII characters".to_owned();
    if is_client(id) { Ok(id.to_owned()) } else { Err(accepted()) }
}

fn host(text: &str) -> Result<Host, String> {
    Host::parse(text).ok_or_else(|| format!("accepted: {HOST_RULE}"))
}

fn command(text: &str) -> Result<String, String> {
    let accepted = || "accepted: a command in one line".to_owned();
    if is_command(text) { Ok(text.to_owned()) } else { Err(accepted()) }
}

fn restart(text: &str) -> Result<Restart, String> {
    Restart::parse(text)
        .ok_or_else(|| "accepted: a systemd unit, or a command in one line".to_owned())
}

fn health_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // It stands in the arguments of a program there.
    let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
    url.ok_or_else(|| "accepted: an http or https URL without user name".to_owned())
}
