//! What can be wrong although each setting is accepted: files that are not there or not safe, and a
//! bootstrap that cannot be made of it all.

use std::path::Path;

use super::{Config, Problems};
use crate::admin::Admin;
use crate::bootstrap;
use crate::chain;
use crate::keys::KeyFile;
use crate::publish::tls::Tls;
use crate::store;
use crate::surroundings;
use crate::up::{self, files::Files};

/// Looks at the files that are named, and renders the bootstrap. Nothing is written.
pub fn files(config: &Config, unix: u64) -> Problems {
    let mut problems = Problems::default();
    let provider = &config.provider;
    let own = |field: &str| format!("providers.{}.{field}", provider.name);
    if let Some(path) = &provider.client_secret_file
        && let Err(error) = store::read_secret(path)
    {
        let accepted = "a file of yours with one line, that nobody else can read (chmod 600)";
        problems.unaccepted(&own("client_secret_file"), &chain::line(&error), accepted);
    }
    if let Some(path) = &provider.ca_file {
        certificates(&own("ca_file"), path, &mut problems);
    }
    if let Some(path) = &config.envoy.trusted_ca {
        certificates("envoy.trusted_ca", path, &mut problems);
    }
    if let Some(tls) = &config.publish.tls
        && let Err(error) = Tls::load(tls, unix)
    {
        problems.unaccepted(error.setting(), &error.found(), error.accepted());
    }
    if let Some(path) = &config.envoy.bin
        && !path.is_file()
    {
        problems.unaccepted("envoy.bin", &format!("no file at {}", path.display()), "a program");
    }
    let state = &config.state_dir;
    match std::fs::metadata(state) {
        Ok(found) if !found.is_dir() => {
            problems.unaccepted("state_dir", "not a directory", "a directory of yours");
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            problems.unaccepted("state_dir", &error.to_string(), "a directory of yours");
        }
        _ => {}
    }
    let stored = match KeyFile::find(state) {
        Ok(Some(file)) => file.load(unix).map(drop).map_err(|error| chain::line(&error)),
        Ok(None) => Ok(()),
        Err(error) => Err(chain::line(&error)),
    };
    if let Err(error) = stored {
        let accepted = "what `refresher keys` has written, in a directory that is only yours";
        problems.unaccepted("client-keys.json", &error, accepted);
    }
    if let Err(error) = up::require_client_keys(config, unix) {
        let accepted = "a key made with `refresher keys add NAME`, [client_keys], PROXY_API_KEY, or a \
                        loopback address as listener.host";
        let found = match error {
            up::Error::ClientKeysRequired { host } => {
                format!("none that holds, while the listener {host} is not on loopback")
            }
            error => chain::line(&error),
        };
        problems.unaccepted("client_keys", &found, accepted);
    }
    if let Err(error) =
        bootstrap(config, std::net::SocketAddr::from((config.listener.host, config.listener.port)))
    {
        problems.unaccepted(error.setting(), &error.found(), error.accepted());
    }
    problems
}

fn certificates(setting: &str, path: &Path, problems: &mut Problems) {
    const ACCEPTED: &str = "a PEM file with at least one certificate";
    match std::fs::read(path) {
        Ok(bytes) if bytes.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") => {}
        Ok(_) => problems.unaccepted(setting, "no certificate in it", ACCEPTED),
        Err(error) => {
            problems.unaccepted(setting, &format!("{}: {error}", path.display()), ACCEPTED);
        }
    }
}

/// Why no bootstrap can be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum NoBootstrap {
    /// A file that Envoy needs is not there: the filter's module.
    #[error(transparent)]
    Files(up::Error),
    /// It cannot be rendered.
    #[error(transparent)]
    Render(#[from] bootstrap::Error),
}

impl NoBootstrap {
    fn setting(&self) -> &'static str {
        match self {
            Self::Files(_) => "envoy.filter",
            Self::Render(_) => "upstream",
        }
    }

    fn found(&self) -> String {
        match self {
            Self::Files(up::Error::NoFilter { path }) => format!("no file at {}", path.display()),
            error => chain::line(error),
        }
    }

    fn accepted(&self) -> &'static str {
        match self {
            Self::Files(_) => "the path of filter.wasm, or filter.wasm beside this program",
            Self::Render(_) => "what Envoy can be configured with",
        }
    }
}

/// The bootstrap of these settings, for an Envoy that listens there.
///
/// # Errors
///
/// See [`NoBootstrap`].
pub fn bootstrap(config: &Config, listen: std::net::SocketAddr) -> Result<String, NoBootstrap> {
    Ok(envoy_files(config)?.bootstrap(config, listen)?)
}

/// The files of an Envoy that `up` does not start: its admin interface is where the settings say.
///
/// # Errors
///
/// See [`NoBootstrap`].
pub fn envoy_files(config: &Config) -> Result<Files, NoBootstrap> {
    let mut files = Files::of(config).map_err(NoBootstrap::Files)?;
    if let Admin::Socket(path) = surroundings::admin_of(config) {
        files.admin = std::path::absolute(&path).unwrap_or(path);
    }
    Ok(files)
}
