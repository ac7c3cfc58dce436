//! Everything on one machine: the sidecar, and an Envoy that it configures, starts, watches and
//! stops.

pub mod envoy;
pub mod guard;
pub mod port;
pub mod supervise;

use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::keys::listing::State;
use crate::keys::{KeyFile, Ring};
use crate::publish::server::Service;
use crate::status::{self, Report};
use crate::{bootstrap, chain, clock, page, serve, store};
use envoy::Program;
use supervise::{Envoy, Paths};

/// Why `up` cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    Envoy(#[from] supervise::Error),
}

/// Runs until `stop` completes. The address is written to `out` once requests are accepted.
///
/// # Errors
///
/// See [`Error`]. Nothing is left running.
pub async fn run(
    config: Arc<Config>,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let client_keys = ClientKeys::count(&config, clock::now().unix());
    client_keys.require(config.listener.host)?;
    require_login(&status::collect(&config).await?)?;
    let filter = filter(&config)?;
    let program = Program::find(config.envoy.bin.as_deref())?;
    program.check().await?;
    let mut sidecar = serve::start(config.clone()).await?;
    let service = sidecar.service();
    let mut stop = std::pin::pin!(stop);
    let result = tokio::select! {
        result = attend(&config, service, program, filter, client_keys, out, stop.as_mut()) => result,
        error = sidecar.failed() => Err(error.into()),
    };
    sidecar.stop().await;
    result
}

/// Checks that a listener that others can reach has client keys.
pub(crate) fn require_client_keys(config: &Config, unix: u64) -> Result<(), Error> {
    ClientKeys::count(config, unix).require(config.listener.host)
}

/// How many client keys there are at the start.
#[derive(Clone, Copy, Debug)]
struct ClientKeys {
    required: bool,
    usable: usize,
}

impl ClientKeys {
    fn count(config: &Config, unix: u64) -> Self {
        let stored = match KeyFile::find(&config.state_dir) {
            Ok(None) => Ok(None),
            Ok(Some(file)) => file.load(unix),
            Err(error) => Err(error.into()),
        };
        let ring = stored.unwrap_or_else(|error| {
            // To the sidecar neither, and it keeps the gate closed to them.
            tracing::error!(error = %chain::line(&error), "the client keys cannot be read");
            Some(Ring::default())
        });
        let stored = ring.iter().flat_map(Ring::entries).map(|entry| &entry.key);
        let keys = config.client_keys.iter().chain(stored);
        let usable = keys.filter(|key| State::of(key, unix) != State::Expired).count();
        Self { required: ring.is_some() || !config.client_keys.is_empty(), usable }
    }

    /// Invariant: a listener that others can reach does not serve without client keys.
    fn require(self, host: std::net::IpAddr) -> Result<(), Error> {
        if self.usable > 0 || host.is_loopback() {
            Ok(())
        } else {
            Err(Error::ClientKeysRequired { host })
        }
    }

    fn line(self) -> String {
        match self.usable {
            0 if !self.required => "no client key needed on this machine".to_owned(),
            0 => "a client key is required: refresher keys add NAME".to_owned(),
            1 => "1 client key".to_owned(),
            several => format!("{several} client keys"),
        }
    }
}

/// A token that is still valid serves to its end, but nobody should start with a dead grant.
fn require_login(report: &Report) -> Result<(), Error> {
    if report.login_required() {
        return Err(Error::LoginRequired { provider: report.provider.clone() });
    }
    Ok(())
}

/// The filter's module, by an absolute path: the configured one, else the one beside this program.
pub(crate) fn filter(config: &Config) -> Result<PathBuf, Error> {
    let path = config.envoy.filter.clone().unwrap_or_else(|| {
        let program = std::env::current_exe().unwrap_or_default();
        program.with_file_name("filter.wasm")
    });
    // Envoy resolves a relative path by its own working directory.
    let path = std::path::absolute(&path).unwrap_or(path);
    if path.is_file() { Ok(path) } else { Err(Error::NoFilter { path }) }
}

/// The system's certificates, where the usual systems keep them.
pub(crate) fn system_certificates() -> Option<PathBuf> {
    let bundles = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    bundles.into_iter().map(PathBuf::from).find(|bundle| bundle.is_file())
}

/// Starts Envoy on the first port that is free, and looks after it until `stop`.
async fn attend(
    config: &Arc<Config>,
    service: Service,
    program: Program,
    filter: PathBuf,
    client_keys: ClientKeys,
    out: &mut impl Write,
    mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Error> {
    let paths = Paths::new(&config.state_dir);
    let trusted_ca = config.envoy.trusted_ca.clone().or_else(system_certificates);
    let mut tried = None;
    let (envoy, address) = loop {
        let address = port::free(config.listener, tried)?;
        service.surroundings.settle(address, &paths.admin);
        let settings = bootstrap::Settings {
            listen: address,
            upstream: &config.provider.upstream,
            filter: &filter,
            socket: &config.socket,
            admin: &paths.admin,
            trusted_ca: trusted_ca.as_deref(),
            client_keys: &config.client_keys,
            upstream_headers: &config.provider.upstream_headers,
            dead_token: &config.provider.dead_token,
            proxy: &config.proxy,
        };
        let text = bootstrap::render(&settings)?;
        store::replace_private(&paths.bootstrap, text.as_bytes())?;
        // What a restart adds to is the log of this run.
        let _ = std::fs::remove_file(&paths.log);
        let mut envoy = Envoy::start(&program, &paths, config.envoy.concurrency)?;
        tokio::select! {
            ready = envoy.ready(address) => match ready {
                Ok(()) => break (envoy, address),
                // Somebody was quicker than Envoy: on to the next port.
                Err(error @ supervise::Error::PortTaken) => {
                    tracing::info!(%address, error = %chain::line(&error), "trying the next port");
                    tried = Some(address.port());
                }
                Err(error) => return Err(error.into()),
            },
            () = stop.as_mut() => {
                envoy.stop().await;
                return Ok(());
            }
        }
    };
    let keys = client_keys.line();
    // A terminal that is gone is no reason to stop serving.
    let upstream = config.provider.upstream.as_str().trim_end_matches('/');
    let _ = writeln!(out, "listening on http://{address}/v1 for {upstream} ({keys})");
    // After Envoy, whose port comes first.
    let page = match config.status_page.enabled {
        Some(false) => None,
        _ => page::start_or_warn(config.clone(), service).await,
    };
    if let Some(page) = &page {
        let _ = writeln!(out, "{}", page.line(std::io::stdout().is_terminal()));
    }
    let _ = out.flush();
    envoy.look_after(&program, &paths, config.envoy.concurrency, address, stop, clock::now).await;
    Ok(())
}
