//! The sidecar: one keeper for each credential, and the socket server.

pub mod desk;
pub mod exchange;
pub mod keeper;
pub mod keyring;
mod ways;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use filter::bundle::DEFAULT_CREDENTIAL;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check::Checker;
use crate::config::Config;
use crate::page::access::Door;
use crate::publish::sds::Secrets;
use crate::publish::server::{Service, Tokens, router};
use crate::publish::workers::Workers;
use crate::publish::{Publisher, remote, socket, tls};
use crate::reload::{self, Next, Source, Watcher};
use crate::signals::{Request, Signals};
use crate::store::{self, Store};
use crate::surroundings::Surroundings;
use crate::{chain, clock, import, notify, page};
use desk::Desk;
use keeper::Keeper;
use keyring::Keyring;
use ways::Ways;

/// How often the state directory is searched for credentials that are new, and for other client keys.
const SEARCH: Duration = Duration::from_secs(1);

/// Why the sidecar cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The grants' directory.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// A further way to the token.
    #[error(transparent)]
    Listen(#[from] remote::Error),
    /// What mutual TLS needs.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The server stopped.
    #[error("the server on the socket stopped")]
    Server(#[source] std::io::Error),
}

/// A sidecar that serves.
#[derive(Debug)]
pub struct Sidecar {
    service: Service,
    stop: watch::Sender<bool>,
    config: watch::Sender<Arc<Config>>,
    publisher: Publisher,
    keyring: Keyring,
    socket: PathBuf,
    surroundings: Surroundings,
    keepers: tokio::task::JoinHandle<()>,
    imports: tokio::task::JoinHandle<()>,
    /// Closed with this.
    _ways: Ways,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Starts the sidecar on the running tokio runtime.
///
/// # Errors
///
/// See [`Error`].
pub async fn start(config: Arc<Config>) -> Result<Sidecar, Error> {
    store::create_private_directory(&config.state_dir)?;
    let listener = socket::listen(&config.socket).await?;
    let generations = config.state_dir.join("generation");
    let surroundings = Surroundings::of(&config);
    // Where the system has no randomness, no check gets through a gate that asks for keys.
    let bits = clock::random_bits().ok();
    let bits = bits.as_ref().map(|bits| bits.as_slice());
    let clock = clock::Clock::system();
    let checker = Checker::new(&config.check_path, bits, surroundings.clone(), clock);
    let publisher = Publisher::new(generations, checker.probe());
    if let Some(directory) = &config.publish.sds_dir {
        publisher.write_secrets(Secrets::open(directory)?);
    }
    // Before the first credential, so that no bundle is without them.
    let keyring = Keyring::open(&config, publisher.clone(), clock::now())?;
    let desk = Desk::default();
    let (stop, stopping) = watch::channel(false);
    let (changes, current) = watch::channel(config.clone());
    let mut keepers = Keepers {
        config: current.clone(),
        publisher: publisher.clone(),
        desk: desk.clone(),
        keyring: keyring.clone(),
        stopping: stopping.clone(),
        tasks: JoinSet::new(),
        known: BTreeMap::new(),
    };
    keepers.hire(DEFAULT_CREDENTIAL)?;
    keepers.search();
    publisher.empty_other_secrets()?;
    let started_at = clock::now().unix();
    let service = Service {
        config: current.clone(),
        publisher: publisher.clone(),
        desk,
        keyring: keyring.clone(),
        started_at,
        workers: Workers::default(),
        surroundings: surroundings.clone(),
        checker,
        door: Door::default(),
        tokens: match config.publish.sds_dir {
            Some(_) => Tokens::BySds,
            None => Tokens::Bundled,
        },
    };
    let ways = Ways::open(&service).await?;
    let routes = router(service.clone());
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let keepers = tokio::spawn(keepers.run());
    let imports = tokio::spawn(take_over(current, stopping));
    tracing::info!(socket = %config.socket.display(), provider = %config.provider.name, "serving");
    let socket = config.socket.clone();
    Ok(Sidecar {
        service,
        stop,
        config: changes,
        publisher,
        keyring,
        socket,
        surroundings,
        keepers,
        imports,
        _ways: ways,
        server,
    })
}

/// Runs the sidecar until a signal ends it, and puts changes of the configuration in force.
///
/// # Errors
///
/// See [`Error`].
pub async fn run(config: Arc<Config>, source: Source, signals: &mut Signals) -> Result<(), Error> {
    let mut sidecar = start(config.clone()).await?;
    let _page = match config.status_page.enabled {
        Some(true) => page::start_or_warn(sidecar.service()).await,
        _ => None,
    };
    let mut watcher = Watcher::new(source, &config, &[]);
    notify::ready();
    let result = loop {
        let asked = tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break Ok(()),
                Request::Reload => true,
            },
            error = sidecar.failed() => break Err(error),
            () = tokio::time::sleep(SEARCH) => {
                notify::alive();
                watcher.look()
            }
        };
        if asked {
            notify::reloading();
            sidecar.reload(&mut watcher);
            notify::ready();
        }
    };
    notify::stopping(30);
    sidecar.stop().await;
    result
}

/// Takes over other programs' logins, as the configuration of the moment says.
async fn take_over(mut config: watch::Receiver<Arc<Config>>, stopping: watch::Receiver<bool>) {
    loop {
        let current = config.borrow_and_update().clone();
        // An import under way is all or nothing. Where nothing is to be watched, this ends at once.
        let watched = async {
            import::watch::run(current, stopping.clone()).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = watched => {}
            changed = config.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

impl Sidecar {
    /// What it knows, for a status page.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// Ends when the server does, which it never does by itself.
    ///
    /// # Errors
    ///
    /// Always: why it stopped.
    pub async fn failed(&mut self) -> Error {
        match (&mut self.server).await {
            Ok(Err(error)) => Error::Server(error),
            _ => Error::Server(std::io::Error::other("its task has ended")),
        }
    }

    /// Where the sidecar looks for Envoy.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Puts another configuration in force: tokens and polls under way are not touched.
    pub fn reconfigure(&self, config: Arc<Config>) {
        self.keyring.configure(&config, clock::now());
        self.config.send_replace(config);
    }

    /// Says what is wrong with the configuration, for as long as that is so.
    pub fn alarm(&self, alarm: Option<String>) {
        self.publisher.raise_config_alarm(alarm);
    }

    /// Reads the configuration again and puts it in force, or leaves the old one in force with an
    /// alarm.
    fn reload(&self, watcher: &mut Watcher) {
        let old = self.config.borrow().clone();
        match watcher.next(&old, &[]) {
            Ok(Next { config, postponed }) => {
                self.reconfigure(Arc::new(config));
                match &postponed {
                    None => tracing::info!("the configuration is in force"),
                    Some(postponed) => tracing::warn!("{postponed}"),
                }
                self.alarm(postponed);
            }
            Err(error) => {
                let alarm = reload::alarm(&error);
                tracing::error!(error = %alarm, "the configuration stays as it was");
                self.alarm(Some(alarm));
            }
        }
    }

    /// Stops: an exchange under way is finished and stored first.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.keepers.await.is_err() {
            tracing::error!("a keeper of a credential failed");
        }
        // An import under way is all or nothing.
        self.imports.abort();
        self.server.abort();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the socket was not removed");
        }
    }
}

struct Keepers {
    config: watch::Receiver<Arc<Config>>,
    publisher: Publisher,
    desk: Desk,
    keyring: Keyring,
    stopping: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    known: BTreeMap<String, ()>,
}

impl Keepers {
    async fn run(mut self) {
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(SEARCH) => {
                    self.search();
                    self.keyring.look(clock::now());
                }
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn search(&mut self) {
        let config = self.config.borrow().clone();
        for name in Store::credentials(&config) {
            if let Err(error) = self.hire(&name) {
                tracing::error!(credential = %name, error = %chain::line(&error), "not served");
            }
        }
    }

    fn hire(&mut self, name: &str) -> Result<(), store::Error> {
        if self.known.contains_key(name) {
            return Ok(());
        }
        let config = self.config.borrow_and_update().clone();
        let store = Store::open(&config, name)?;
        self.known.insert(name.to_owned(), ());
        let commands = self.desk.register(name);
        let mut keeper =
            Keeper::new(name, store, &config, self.publisher.clone(), clock::Clock::system());
        // The first state is there before the first request.
        keeper.load(clock::now());
        self.tasks.spawn(keeper.run(commands, self.config.clone(), self.stopping.clone()));
        Ok(())
    }
}
