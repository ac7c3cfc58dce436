//! The command line: what can be asked for, and how each command ends.

mod args;
mod config;
mod doctor;
mod exit;
mod handover;
mod keys;
mod output;
mod page;
mod pages;
mod progress;
mod service;
mod status;

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::config::{self as settings, Config};
use crate::login::terminal::Display;
use crate::login::{browser, device};
use crate::reload::Source;
use crate::signals::Signals;
use crate::{chain, login, logout, serve, up};
use args::{Arguments, Command, LoginArguments};
use output::Output;
use progress::Progress;

pub use exit::Exit;

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Guard { parent, program, arguments } = &arguments.command {
        let error = up::guard::become_program(*parent, program, arguments);
        output::complain(format_args!("envoy cannot be started: {error}"));
        return Exit::Other.into();
    }
    // Whatever a program makes by itself, sockets included, is the user's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let quiet = arguments.common.quiet;
    let outcome = log_level().and_then(|level| {
        let level = if quiet { level.min(LevelFilter::ERROR) } else { level };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_target(false)
            // It would tell standard error of a standard error that is gone, and panic.
            .log_internal_errors(false)
            .init();
        run(arguments)
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            for line in format!("{error:#}").lines() {
                output::complain(line);
            }
            Exit::of(&error).into()
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let command = arguments.command.modern();
    let output = Output { quiet: arguments.common.quiet, json: false };
    match &command {
        Command::Completions { shell } => return Ok(pages::completions(*shell, output)?),
        Command::Man { command } => return pages::manual(command, output),
        _ => {}
    }
    settings::require_text(&|name| std::env::var_os(name))?;
    let overrides = arguments.common.overrides(&command);
    if let Command::Doctor(arguments) = &command {
        // It looks at the settings itself.
        return runtime()?.block_on(doctor::perform(&overrides, arguments, output));
    }
    if let Command::Config { command } = &command {
        return runtime()?.block_on(config::perform(command, &overrides, output));
    }
    let source = Source::new(overrides);
    let config = match (&command, source.load()) {
        // To take something away, settings need not be good.
        (Command::Service { command }, Err(_)) if command.needs_no_settings() => {
            settings::resolve("", source.overrides(), &|name| std::env::var(name).ok())?
        }
        (_, config) => config?,
    };
    runtime()?.block_on(perform(command, Arc::new(config), source, output))
}

/// One thread: the work is a few requests a minute.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
}

async fn perform(
    command: Command,
    config: Arc<Config>,
    source: Source,
    output: Output,
) -> anyhow::Result<Exit> {
    match command {
        Command::Login(arguments) => log_in(&config, &arguments, output).await,
        Command::Logout { credential, json } => {
            let output = Output { json, ..output };
            let farewell = logout::run(&config, &credential);
            let progress = Progress::new(output);
            let farewell = progress.during("revoking the login at the provider", farewell).await?;
            let line = farewell.line(&credential, &config.provider.name);
            let told = !matches!(farewell, logout::Farewell::Untold(_));
            let result = json!({"provider": config.provider.name, "credential": credential,
                "forgotten": !matches!(farewell, logout::Farewell::Nothing), "provider_told": told});
            if !told {
                if json {
                    output.result(&result, "")?;
                }
                output::complain(&line);
                return Ok(Exit::Network);
            }
            output.done(&result, &line)?;
            Ok(Exit::Done)
        }
        Command::Import(arguments) => handover::import(&config, arguments, output).await,
        Command::Export(arguments) => handover::export(&config, arguments, output).await,
        Command::Transfer(arguments) => handover::transfer(&config, arguments, output).await,
        Command::Keys { command } => keys::perform(&config, command, output).await,
        Command::EnvoyConfig(arguments) => config::envoy_config(&config, &arguments, output),
        Command::Service { command } => service::perform(&config, &source, &command),
        Command::Serve(_) => {
            serve::run(config, source, &mut Signals::new()?).await?;
            Ok(Exit::Done)
        }
        Command::Up(_) => {
            up::run(config, source, &mut std::io::stdout(), &mut Signals::new()?).await?;
            Ok(Exit::Done)
        }
        Command::Page { no_browser } => page::perform(&config, no_browser).await,
        Command::Status(arguments) => status::perform(&config, &arguments, output).await,
        // They are done, or other commands, by now; see `run`, `Command::modern` and `main`.
        Command::Config { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::LoginDevice(_)
        | Command::Doctor(_)
        | Command::Guard { .. } => Ok(Exit::Other),
    }
}

async fn log_in(
    config: &Config,
    arguments: &LoginArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let output = Output { json: arguments.json, ..output };
    // What a person is to do is said where a program does not read a result.
    let out: &mut dyn Write =
        if output.json { &mut std::io::stderr() } else { &mut std::io::stdout() };
    let mut out = out;
    let credential = &arguments.credential;
    let work = async {
        if arguments.device {
            let display = match !output.json && std::io::stdout().is_terminal() {
                _ if output.quiet => Display::Quiet,
                true => Display::Terminal,
                false => Display::Plain,
            };
            device::login(config, credential, display, &mut out).await
        } else {
            let options =
                browser::Options { open: !arguments.no_browser, timeout: arguments.timeout() };
            browser::login(config, credential, options, &mut out).await
        }
    };
    tokio::select! {
        result = work => result?,
        () = stopped() => return Err(login::Error::Cancelled.into()),
    }
    let provider = &config.provider.name;
    output.done(
        &json!({"provider": provider, "credential": credential}),
        &format!("logged in to {provider} as credential {credential}"),
    )?;
    Ok(Exit::Done)
}

/// Ends at the first signal that asks us to.
async fn stopped() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(error) => {
                tracing::error!(error = %chain::line(&error), "signals cannot be awaited");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

/// `LOG_LEVEL`, with the words of the Python predecessor.
fn log_level() -> anyhow::Result<LevelFilter> {
    let name = std::env::var("LOG_LEVEL").unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "" | "info" => Ok(LevelFilter::INFO),
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "warning" | "warn" => Ok(LevelFilter::WARN),
        "error" | "critical" => Ok(LevelFilter::ERROR),
        "off" => Ok(LevelFilter::OFF),
        _ => Err(exit::BadLogLevel(name).into()),
    }
}
