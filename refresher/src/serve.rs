//! The sidecar: one keeper for each credential, and the socket server.

pub mod desk;
pub mod exchange;
pub mod keeper;
pub mod keyring;

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
use crate::publish::server::{Service, router};
use crate::publish::workers::Workers;
use crate::publish::{Publisher, socket};
use crate::store::{self, Store};
use crate::surroundings::Surroundings;
use crate::{chain, clock, import};
use desk::Desk;
use keeper::Keeper;
use keyring::Keyring;

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
    /// The server stopped.
    #[error("the server on the socket stopped")]
    Server(#[source] std::io::Error),
}

/// A sidecar that serves.
#[derive(Debug)]
pub struct Sidecar {
    service: Service,
    stop: watch::Sender<bool>,
    socket: PathBuf,
    surroundings: Surroundings,
    keepers: tokio::task::JoinHandle<()>,
    imports: tokio::task::JoinHandle<()>,
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
    // Before the first credential, so that no bundle is without them.
    let keyring = Keyring::open(&config, publisher.clone(), clock::now())?;
    let desk = Desk::default();
    let (stop, stopping) = watch::channel(false);
    let mut keepers = Keepers {
        config: config.clone(),
        publisher: publisher.clone(),
        desk: desk.clone(),
        keyring: keyring.clone(),
        stopping: stopping.clone(),
        tasks: JoinSet::new(),
        known: BTreeMap::new(),
    };
    keepers.hire(DEFAULT_CREDENTIAL)?;
    keepers.search();
    let provider = Arc::new(config.provider.clone());
    let started_at = clock::now().unix();
    let service = Service {
        provider,
        publisher,
        desk,
        keyring,
        started_at,
        workers: Workers::default(),
        surroundings: surroundings.clone(),
        checker,
        door: Door::default(),
    };
    let routes = router(service.clone());
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let keepers = tokio::spawn(keepers.run());
    let imports = tokio::spawn(import::watch::run(config.clone(), stopping));
    tracing::info!(socket = %config.socket.display(), provider = %config.provider.name, "serving");
    let socket = config.socket.clone();
    Ok(Sidecar { service, stop, socket, surroundings, keepers, imports, server })
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
    config: Arc<Config>,
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
        for name in Store::credentials(&self.config) {
            if let Err(error) = self.hire(&name) {
                tracing::error!(credential = %name, error = %chain::line(&error), "not served");
            }
        }
    }

    fn hire(&mut self, name: &str) -> Result<(), store::Error> {
        if self.known.contains_key(name) {
            return Ok(());
        }
        let store = Store::open(&self.config, name)?;
        self.known.insert(name.to_owned(), ());
        let commands = self.desk.register(name);
        let mut keeper =
            Keeper::new(name, store, &self.config, self.publisher.clone(), clock::Clock::system());
        // The first state is there before the first request.
        keeper.load(clock::now());
        self.tasks.spawn(keeper.run(commands, self.stopping.clone()));
        Ok(())
    }
}
