//! The files that Envoy is told of, and the one place where a configuration becomes its bootstrap.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Error;
use super::process::Paths;
use crate::bootstrap::{self, Settings};
use crate::config::Config;

/// The files that an Envoy of ours is told of, by absolute paths: Envoy resolves others by its own
/// working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The filter's module.
    pub filter: PathBuf,
    /// The certificates that the API's is checked against.
    pub trusted_ca: Option<PathBuf>,
    /// The refresher's socket.
    pub socket: PathBuf,
    /// The socket of Envoy's admin interface.
    pub admin: PathBuf,
}

impl Files {
    /// The files of a configuration: those that it names, else the usual ones.
    ///
    /// # Errors
    ///
    /// When there is no filter.
    pub fn of(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            filter: filter(config)?,
            trusted_ca: trusted_ca(config),
            socket: absolute(&config.socket),
            admin: Paths::new(&config.state_dir).admin,
        })
    }

    /// The bootstrap of this configuration, for an Envoy that listens there.
    ///
    /// # Errors
    ///
    /// When none can be made.
    pub fn bootstrap(
        &self,
        config: &Config,
        listen: SocketAddr,
    ) -> Result<String, bootstrap::Error> {
        bootstrap::render(&Settings {
            listen,
            upstream: &config.provider.upstream,
            filter: &self.filter,
            socket: &self.socket,
            admin: &self.admin,
            trusted_ca: self.trusted_ca.as_deref(),
            client_keys: &config.client_keys,
            upstream_headers: &config.provider.upstream_headers,
            dead_token: &config.provider.dead_token,
            proxy: &config.proxy,
        })
    }
}

/// The filter's module: the configured one, else the one beside this program.
fn filter(config: &Config) -> Result<PathBuf, Error> {
    let path = config.envoy.filter.clone().unwrap_or_else(|| {
        let program = std::env::current_exe().unwrap_or_default();
        program.with_file_name("filter.wasm")
    });
    let path = absolute(&path);
    if path.is_file() { Ok(path) } else { Err(Error::NoFilter { path }) }
}

/// The certificates that the API's is checked against: the configured ones, else the system's, where
/// the usual systems keep them.
pub(crate) fn trusted_ca(config: &Config) -> Option<PathBuf> {
    let usual = || {
        let bundles = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        bundles.iter().map(Path::new).find(|bundle| bundle.is_file()).map(Path::to_owned)
    };
    config.envoy.trusted_ca.as_deref().map(absolute).or_else(usual)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
