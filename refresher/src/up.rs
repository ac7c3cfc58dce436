//! Everything on one machine: the sidecar, and an Envoy that it configures, starts, watches,
//! replaces and stops.

pub mod admin;
pub mod envoy;
pub mod files;
pub mod guard;
pub mod image;
pub mod keys;
pub mod log;
pub mod port;
pub mod process;
pub mod supervise;

use std::fs::{File, TryLockError};
use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::reload::{self, Source, Watcher};
use crate::serve::Sidecar;
use crate::signals::{Request, Signals};
use crate::status::{self, Report};
use crate::surroundings::Surroundings;
use crate::{bootstrap, chain, clock, notify, page, serve, store};
use envoy::Program;
use image::Image;
use keys::ClientKeys;
use process::Paths;
use supervise::Supervisor;

/// How often the log, the files of the configuration and an Envoy that was replaced are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why `up` cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another `up` has its Envoy's files where ours would be.
    #[error(
        "{path}: another refresher runs its Envoy from here; stop it, or choose another --state-dir"
    )]
    Alive {
        /// The file that it has locked.
        path: PathBuf,
    },
    /// The file that tells so cannot be locked.
    #[error("{path}: cannot be locked")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody has logged in.
    #[error("no login for {provider}: run \"refresher login --provider {provider}\"")]
    LoginRequired {
        /// The provider's name.
        provider: String,
    },
    /// Whoever reaches the listener would use the account.
    #[error(
        "client_keys: empty, while the listener {host} is not on loopback; accepted: a key made with \"refresher keys add NAME\", a [client_keys] entry or PROXY_API_KEY, or a loopback address as host"
    )]
    ClientKeysRequired {
        /// The listener's address.
        host: std::net::IpAddr,
    },
    /// The filter module is not there.
    #[error(
        "{path}: no filter there; accepted: the path of filter.wasm in --filter, TORCHBEARER_FILTER or envoy.filter"
    )]
    NoFilter {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// No port is free.
    #[error(
        "no free port among {first} to {last} on {host}; choose another with --port or PROXY_PORT"
    )]
    NoPort {
        /// The first that was tried.
        first: u16,
        /// The last that was tried.
        last: u16,
        /// The address.
        host: std::net::IpAddr,
    },
    /// The address cannot be listened on at all.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No suitable Envoy.
    #[error(transparent)]
    Program(#[from] envoy::Error),
    /// No configuration for it.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// A file of ours cannot be written or read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The sidecar.
    #[error(transparent)]
    Serve(#[from] serve::Error),
    /// Envoy does not start.
    #[error(transparent)]
    Envoy(#[from] process::Error),
    /// A changed configuration is not taken over.
    #[error(transparent)]
    Reload(#[from] reload::Error),
    /// Envoy is not replaced.
    #[error(transparent)]
    Unchanged(#[from] supervise::Unchanged),
}

/// Runs until a signal ends it. The address is written to `out` once requests are accepted.
///
/// # Errors
///
/// See [`Error`]. Nothing is left running.
pub async fn run(
    config: Arc<Config>,
    source: Source,
    out: &mut impl Write,
    signals: &mut Signals,
) -> Result<(), Error> {
    let client_keys = ClientKeys::count(&config, clock::now().unix());
    client_keys.require(config.listener.host)?;
    require_login(&status::collect(&config).await?)?;
    let paths = Paths::new(&config.state_dir);
    let _alone = alone(&paths)?;
    let program = Program::find(config.envoy.bin.as_deref())?;
    // Before anything is started: whether there is a filter and a bootstrap can be made of it all.
    Image::of(&config, &program, &paths, SocketAddr::new(config.listener.host, 0))?;
    program.check_once(&config.state_dir).await?;
    let mut sidecar = serve::start(config.clone()).await?;
    let surroundings = sidecar.surroundings().clone();
    let started = tokio::select! {
        started = start(&config, program, &surroundings) => started.map(Some),
        error = sidecar.failed() => Err(error.into()),
        () = signals.stop() => Ok(None),
    };
    let result = match started {
        Ok(Some(supervisor)) => {
            // After Envoy, whose port comes first.
            let page = match config.status_page.enabled {
                Some(false) => None,
                _ => page::start_or_warn(sidecar.service()).await,
            };
            announce(&config, supervisor.address(), client_keys, page.as_ref(), out);
            attend(&mut sidecar, supervisor, source, signals).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    sidecar.stop().await;
    result
}

/// What lies beside Envoy's bootstrap is of one Envoy and its successors. Nobody else starts one there
/// as long as the answer is kept.
fn alone(paths: &Paths) -> Result<File, Error> {
    let path = paths.bootstrap.with_file_name("up.lock");
    if let Some(directory) = path.parent() {
        store::create_private_directory(directory)?;
    }
    let failed = |source| Error::Lock { path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Alive { path }),
        Err(TryLockError::Error(source)) => Err(Error::Lock { path, source }),
    }
}

/// Checks that a listener that others can reach has client keys.
pub(crate) fn require_client_keys(config: &Config, unix: u64) -> Result<(), Error> {
    ClientKeys::count(config, unix).require(config.listener.host)
}

/// Says where clients, and the user's browser, go from here.
fn announce(
    config: &Config,
    address: SocketAddr,
    client_keys: ClientKeys,
    page: Option<&page::Page>,
    out: &mut impl Write,
) {
    let keys = client_keys.line();
    // A terminal that is gone is no reason to stop serving.
    let upstream = config.provider.upstream.as_str().trim_end_matches('/');
    let _ = writeln!(out, "listening on http://{address}/v1 for {upstream} ({keys})");
    if let Some(page) = page {
        let _ = writeln!(out, "{}", page.line(std::io::stdout().is_terminal()));
    }
    let _ = out.flush();
    notify::ready();
}

/// A token that is still valid serves to its end, but nobody should start with a dead grant.
fn require_login(report: &Report) -> Result<(), Error> {
    if report.login_required() {
        return Err(Error::LoginRequired { provider: report.provider.clone() });
    }
    Ok(())
}

/// Starts Envoy on the first port that is free.
async fn start(
    config: &Arc<Config>,
    program: Program,
    surroundings: &Surroundings,
) -> Result<Supervisor, Error> {
    let paths = Paths::new(&config.state_dir);
    let mut tried = None;
    loop {
        let address = port::free(config.listener, tried)?;
        surroundings.settle(address, &paths.admin);
        let image = Image::of(config, &program, &paths, address)?;
        match Supervisor::start(config.clone(), program.clone(), image, address).await {
            Ok(supervisor) => return Ok(supervisor),
            // Somebody was quicker than Envoy: on to the next port.
            Err(error @ process::Error::PortTaken) => {
                tracing::info!(%address, error = %chain::line(&error), "trying the next port");
                tried = Some(address.port());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Looks after Envoy and the configuration until a signal ends it, then drains.
async fn attend(
    sidecar: &mut Sidecar,
    mut supervisor: Supervisor,
    source: Source,
    signals: &mut Signals,
) -> Result<(), Error> {
    let config = supervisor.config().clone();
    let mut watcher = Watcher::new(source, &config, &supervisor.image().files());
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the configuration is to be read again, and whether that is told.
    let mut due = None;
    let result = loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break Ok(()),
                Request::Reload => due = Some(Occasion::Asked),
            },
            error = sidecar.failed() => break Err(error.into()),
            reason = supervisor.ended() => {
                tracing::error!(error = %chain::line(&reason), "envoy has ended");
                tokio::select! {
                    () = supervisor.revive() => {}
                    () = beat() => {}
                    () = signals.stop() => break Ok(()),
                }
            }
            _ = ticks.tick() => {
                supervisor.keep_house(clock::now()).await;
                notify::alive();
                if watcher.look() {
                    due = Some(Occasion::Changed);
                }
            }
        }
        if let Some(occasion) = due.take() {
            tokio::select! {
                again = reload(sidecar, &mut supervisor, &mut watcher, occasion) => due = again,
                () = beat() => {}
                () = signals.stop() => break Ok(()),
            }
        }
    };
    notify::stopping(supervisor.config().envoy.drain_timeout.as_secs() + 10);
    supervisor.stop(signals).await;
    result
}

/// Tells the service manager that all is well while something takes its time. Never ends.
async fn beat() {
    loop {
        notify::alive();
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// By a signal.
    Asked,
    /// A file of it has changed.
    Changed,
    /// Envoy could not be replaced a second ago.
    Waiting,
}

/// Reads the configuration again and puts it in force, or leaves the old one in force with an
/// alarm. Answers whether to try again with the next tick.
async fn reload(
    sidecar: &Sidecar,
    supervisor: &mut Supervisor,
    watcher: &mut Watcher,
    occasion: Occasion,
) -> Option<Occasion> {
    let waiting = occasion == Occasion::Waiting;
    if !waiting {
        notify::reloading();
    }
    let outcome = put_in_force(sidecar, supervisor, watcher).await;
    let again = matches!(&outcome, Err(Error::Unchanged(supervise::Unchanged::Draining { .. })));
    match outcome {
        Ok(None) => {
            tracing::info!(address = %supervisor.address(), "the configuration is in force");
            sidecar.alarm(None);
        }
        Ok(Some(postponed)) => {
            tracing::warn!("{postponed}");
            sidecar.alarm(Some(postponed));
        }
        Err(error) => {
            let alarm = reload::alarm(&error);
            if !waiting {
                tracing::error!(error = %alarm, "the configuration stays as it was");
            }
            sidecar.alarm(Some(alarm));
        }
    }
    if !waiting {
        notify::ready();
    }
    again.then_some(Occasion::Waiting)
}

/// All of it, or nothing; answers what needs a restart.
async fn put_in_force(
    sidecar: &Sidecar,
    supervisor: &mut Supervisor,
    watcher: &mut Watcher,
) -> Result<Option<String>, Error> {
    let old = supervisor.config().clone();
    let reload::Next { config, postponed } = watcher.next(&old, &supervisor.image().files())?;
    let config = Arc::new(config);
    ClientKeys::count(&config, clock::now().unix()).require(config.listener.host)?;
    let program = Program::find(config.envoy.bin.as_deref())?;
    program.check_once(&config.state_dir).await?;
    let address = match config.listener == old.listener {
        true => supervisor.address(),
        false => port::free(config.listener, None)?,
    };
    let image = Image::of(&config, &program, &Paths::new(&config.state_dir), address)?;
    watcher.follow(&config, &image.files());
    supervisor.change(config.clone(), program, image, address).await?;
    sidecar.surroundings().settle(address, &Paths::new(&config.state_dir).admin);
    sidecar.reconfigure(config);
    Ok(postponed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_envoy_at_a_time_has_its_files_there() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let first = alone(&paths).unwrap();
        assert!(matches!(alone(&paths), Err(Error::Alive { .. })));
        drop(first);
        assert!(alone(&paths).is_ok());
    }
}
