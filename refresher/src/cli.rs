//! The command line: what can be asked for, and how each command ends.

mod args;
mod doctor;
mod exit;
mod handover;
mod keys;
mod page;
mod status;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::config::{self, Config};
use crate::login::terminal::Display;
use crate::login::{browser, device};
use crate::{chain, login, logout, serve, up};
use args::{Arguments, Command, LoginArguments};

pub use exit::Exit;

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Guard { parent, program, arguments } = &arguments.command {
        let error = up::guard::become_program(*parent, program, arguments);
        eprintln!("refresher: envoy cannot be started: {error}");
        return Exit::Other.into();
    }
    // Whatever a program makes by itself, sockets included, is the user's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let outcome = log_level().and_then(|level| {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_target(false)
            .init();
        run(arguments)
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            for line in format!("{error:#}").lines() {
                eprintln!("refresher: {line}");
            }
            Exit::of(&error).into()
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let command = arguments.command.modern();
    let overrides = arguments.common.overrides(&command);
    if let Command::Doctor(arguments) = &command {
        // It looks at the settings itself.
        return runtime()?.block_on(doctor::perform(&overrides, arguments));
    }
    let config = config::load(&overrides, &|name| std::env::var(name).ok())?;
    runtime()?.block_on(perform(command, Arc::new(config)))
}

/// One thread: the work is a few requests a minute.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
}

async fn perform(command: Command, config: Arc<Config>) -> anyhow::Result<Exit> {
    match command {
        Command::Login(arguments) => log_in(&config, &arguments).await,
        Command::Logout { credential } => {
            let farewell = logout::run(&config, &credential).await?;
            let line = farewell.line(&credential, &config.provider.name);
            if let logout::Farewell::Untold(_) = farewell {
                eprintln!("refresher: {line}");
                return Ok(Exit::Network);
            }
            println!("{line}");
            Ok(Exit::Done)
        }
        Command::Import(arguments) => handover::import(&config, arguments).await,
        Command::Export(arguments) => handover::export(&config, arguments).await,
        Command::Transfer(arguments) => handover::transfer(&config, arguments).await,
        Command::Keys { command } => keys::perform(&config, command).await,
        Command::Serve(_) => {
            let mut sidecar = serve::start(config.clone()).await?;
            let _page = match config.status_page.enabled {
                Some(true) => crate::page::start_or_warn(config, sidecar.service()).await,
                _ => None,
            };
            tokio::select! {
                () = stopped() => {}
                error = sidecar.failed() => return Err(error.into()),
            }
            sidecar.stop().await;
            Ok(Exit::Done)
        }
        Command::Up(_) => {
            up::run(config, &mut std::io::stdout(), stopped()).await?;
            Ok(Exit::Done)
        }
        Command::Page { no_browser } => page::perform(&config, no_browser).await,
        Command::Status(arguments) => status::perform(&config, &arguments).await,
        // All of them are done with by now; see `Command::modern`, `run` and `main`.
        Command::LoginDevice(_) | Command::Doctor(_) | Command::Guard { .. } => Ok(Exit::Other),
    }
}

async fn log_in(config: &Config, arguments: &LoginArguments) -> anyhow::Result<Exit> {
    let out = &mut std::io::stdout();
    let credential = &arguments.credential;
    let work = async {
        if arguments.device {
            let terminal = std::io::stdout().is_terminal();
            let display = if terminal { Display::Terminal } else { Display::Plain };
            device::login(config, credential, display, out).await
        } else {
            let options =
                browser::Options { open: !arguments.no_browser, timeout: arguments.timeout() };
            browser::login(config, credential, options, out).await
        }
    };
    tokio::select! {
        result = work => result?,
        () = stopped() => return Err(login::Error::Cancelled.into()),
    }
    println!("logged in to {} as credential {credential}", config.provider.name);
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
