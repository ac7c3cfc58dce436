//! Settings: flags over environment over the TOML file over defaults, each parsed once into the
//! type that the program works with. All bad settings are reported together.

mod catalogue;
pub mod check;
mod client;
mod environment;
pub mod example;
mod file;
mod import;
mod problem;
mod provider;
mod proxy;
mod publish;
pub mod schema;
mod section;
pub mod show;
mod status_page;
mod value;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use environment::{Environment, require_text};
use filter::client::ClientKey;
pub use import::Import;
pub use problem::{Problem, Problems};
pub use proxy::Proxy;
pub use publish::{Publish, PublishTls};
pub use status_page::StatusPage;

use crate::admin::Admin;
use crate::keys::listing::Place;
use crate::provider::Provider;
use environment::{expand, home, path, text};
use file::File;

/// Everything that the program is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom we log in to.
    pub provider: Provider,
    /// Where grants, sockets and logs live. Default: `$XDG_STATE_HOME/torchbearer`, else
    /// `~/.local/state/torchbearer`.
    pub state_dir: PathBuf,
    /// The unix socket of `serve`. Default: `refresher.sock` in the state directory.
    pub socket: PathBuf,
    /// The grant file of the default credential, where it is not in the state directory.
    pub grant_file: Option<PathBuf>,
    /// Where `up` lets Envoy listen.
    pub listener: Listener,
    /// Who may call, besides those whose keys are made by command.
    pub client_keys: Vec<ClientKey>,
    /// Whether the last of them is that of `PROXY_API_KEY`.
    pub api_key: bool,
    /// When the token is refreshed.
    pub rotation: Rotation,
    /// Where other programs keep their logins.
    pub import: Import,
    /// What the proxy does with requests.
    pub proxy: Proxy,
    /// The API's path that the check of the whole way asks for. Default: `/v1/models`.
    pub check_path: String,
    /// How `up` runs Envoy.
    pub envoy: Envoy,
    /// The status page.
    pub status_page: StatusPage,
    /// The ways to the token besides the socket.
    pub publish: Publish,
}

/// Where `up` lets Envoy listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Default: 127.0.0.1.
    pub host: IpAddr,
    /// The first port to try; 0 lets the kernel choose. Default: 9996.
    pub port: u16,
}

/// When the token is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Seconds before expiry; unset: at half of the token's life. At least 30.
    pub window_s: Option<u64>,
    /// The shortest time between two scheduled refreshes, in seconds. Default: 60; at least 1.
    pub spacing_s: u64,
}

/// How `up` runs Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// The program; unset: `envoy` beside this program, else on `PATH`.
    pub bin: Option<PathBuf>,
    /// The filter module; unset: `filter.wasm` beside this program.
    pub filter: Option<PathBuf>,
    /// Worker threads; unset: Envoy's default, one for each core.
    pub concurrency: Option<u32>,
    /// Trust store for the upstream, PEM; unset: the system's.
    pub trusted_ca: Option<PathBuf>,
    /// The admin interface of an Envoy that `up` did not start; unset: `envoy-admin.sock` beside the
    /// refresher's socket, as in the shipped bootstrap.
    pub admin: Option<Admin>,
    /// How long requests under way may go on when `up` is stopped. 0 to 86400 s, default 10.
    pub drain_timeout: Duration,
    /// How long requests that began under an earlier configuration may go on after a reload.
    /// 10 to 604800 s, default 900.
    pub reload_timeout: Duration,
    /// At which size Envoy's log is rotated. Bytes, 65536 to 1073741824, default 16777216.
    pub log_max_bytes: u64,
    /// How many files of log there are, the present one included. 2 to 100, default 5.
    pub log_files: u32,
}

impl Default for Envoy {
    fn default() -> Self {
        Self {
            bin: None,
            filter: None,
            concurrency: None,
            trusted_ca: None,
            admin: None,
            drain_timeout: Duration::from_secs(10),
            reload_timeout: Duration::from_secs(900),
            log_max_bytes: 16 << 20,
            log_files: 5,
        }
    }
}

/// The first port that `up` tries.
pub const DEFAULT_PORT: u16 = 9996;

/// What most APIs in the OpenAI dialect have.
const DEFAULT_CHECK_PATH: &str = "/v1/models";

/// The client whose key is `PROXY_API_KEY`.
const API_KEY_CLIENT: &str = "default";

/// The shortest client key for a listener that is not on loopback, in bytes.
pub const MIN_KEY_BYTES: usize = 16;

impl Config {
    /// Where one of the client keys stands.
    pub fn place_of(&self, key: &ClientKey) -> Place {
        match self.client_keys.last() {
            Some(last) if self.api_key && std::ptr::eq(last, key) => Place::Environment,
            _ => Place::Configuration,
        }
    }
}

/// What the command line says; it overrides the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The provider's name.
    pub provider: Option<String>,
    /// The state directory.
    pub state_dir: Option<PathBuf>,
    /// The unix socket.
    pub socket: Option<PathBuf>,
    /// The listener's address.
    pub host: Option<String>,
    /// The listener's first port.
    pub port: Option<u16>,
    /// The filter module.
    pub filter: Option<PathBuf>,
    /// Envoy's program.
    pub envoy_bin: Option<PathBuf>,
}

impl Overrides {
    /// Whether a flag was given.
    fn has(&self, flag: &str) -> bool {
        match flag {
            "--provider" => self.provider.is_some(),
            "--state-dir" => self.state_dir.is_some(),
            "--socket" => self.socket.is_some(),
            "--host" => self.host.is_some(),
            "--port" => self.port.is_some(),
            "--filter" => self.filter.is_some(),
            "--envoy" => self.envoy_bin.is_some(),
            _ => false,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration is not valid TOML at line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Settings that are unknown or not accepted.
    #[error("{0}")]
    Settings(Problems),
}

/// Where the configuration file is, or would be, and whether it was named, so that it has to be
/// there.
pub fn locate(overrides: &Overrides, env: Environment<'_>) -> Option<(PathBuf, bool)> {
    let named =
        overrides.config.clone().or_else(|| text(env, "TORCHBEARER_CONFIG").map(Into::into));
    let usual = || {
        let dir = home(env, "XDG_CONFIG_HOME", ".config")?;
        Some((dir.join("torchbearer/config.toml"), false))
    };
    named.map(|path| (path, true)).or_else(usual)
}

/// Finds and reads the configuration.
///
/// # Errors
///
/// See [`Error`].
pub fn load(overrides: &Overrides, env: Environment<'_>) -> Result<Config, Error> {
    let document = read(overrides, env)?.map(|(_, document)| document).unwrap_or_default();
    resolve(&document, overrides, env)
}

/// Finds and reads the configuration file: its path and content. None: there is none.
///
/// # Errors
///
/// When it cannot be read.
pub fn read(
    overrides: &Overrides,
    env: Environment<'_>,
) -> Result<Option<(PathBuf, String)>, Error> {
    let Some(path) = file_path(overrides, env) else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(document) => Ok(Some((path, document))),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// The configuration file: the one that is named, whether it is there or not, else the usual one,
/// unless it is certain that it is not there.
pub fn file_path(overrides: &Overrides, env: Environment<'_>) -> Option<PathBuf> {
    locate(overrides, env).filter(|(path, named)| *named || !is_absent(path)).map(|(path, _)| path)
}

/// One that cannot be looked at may say who is let in; so may one that a link no longer leads to.
fn is_absent(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let found = path.symlink_metadata();
    found.is_err_and(|error| [NotFound, NotADirectory].contains(&error.kind()))
}

/// Resolves a configuration from its three sources.
///
/// # Errors
///
/// See [`Error`].
pub fn resolve(
    document: &str,
    overrides: &Overrides,
    env: Environment<'_>,
) -> Result<Config, Error> {
    let mut problems = Problems::default();
    let mut file = file::read(document, &mut problems)?;
    let listener = listener(&file, overrides, env, &mut problems);
    let (client_keys, api_key) = client_keys(&file, env, listener.host, &mut problems);
    let rotation = rotation(&file, env, &mut problems);
    let import = import::resolve(&file, env, &mut problems);
    let mut proxy = proxy::resolve(&mut file, env, &mut problems);
    let state_dir =
        path(overrides.state_dir.as_ref(), env, "TORCHBEARER_STATE_DIR", file.state_dir).or_else(
            || home(env, "XDG_STATE_HOME", ".local/state").map(|dir| dir.join("torchbearer")),
        );
    let state_dir = state_dir.unwrap_or_else(|| {
        problems.unaccepted("state_dir", "unset", "a directory, or HOME in the environment");
        PathBuf::new()
    });
    let socket = path(overrides.socket.as_ref(), env, "TORCHBEARER_SOCKET", file.socket)
        .unwrap_or_else(|| state_dir.join("refresher.sock"));
    // Both predecessors' variables for the same thing.
    let grant_file = text(env, "GROK_PROXY_AUTH_STATE")
        .or_else(|| text(env, "XAI_PROXY_TOKEN_PATH"))
        .map(|path| expand(&path, env));
    let publish = publish(file.publish, env);
    proxy.sds_dir.clone_from(&publish.sds_dir);
    let envoy = Envoy {
        bin: path(overrides.envoy_bin.as_ref(), env, "ENVOY_BIN", file.envoy.bin),
        filter: path(overrides.filter.as_ref(), env, "TORCHBEARER_FILTER", file.envoy.filter),
        admin: file.envoy.admin.map(|admin| match admin {
            Admin::Socket(path) => {
                Admin::Socket(path.to_str().map_or(path.clone(), |path| expand(path, env)))
            }
            admin => admin,
        }),
        ..file.envoy
    };
    let name = overrides.provider.clone().or_else(|| text(env, "TORCHBEARER_PROVIDER"));
    let name = name.or(file.provider).unwrap_or_else(|| "xai".to_owned());
    let provider = provider::choose(&name, file.providers, &mut problems).map(|mut provider| {
        for path in [&mut provider.client_secret_file, &mut provider.ca_file].into_iter().flatten()
        {
            *path = path.to_str().map_or_else(|| path.clone(), |text| expand(text, env));
        }
        provider
    });
    match provider {
        Some(provider) if problems.is_empty() => Ok(Config {
            provider,
            state_dir,
            socket,
            grant_file,
            listener,
            client_keys,
            api_key,
            rotation,
            import,
            proxy,
            check_path: file.check_path.unwrap_or_else(|| DEFAULT_CHECK_PATH.to_owned()),
            envoy,
            status_page: file.status_page,
            publish,
        }),
        _ => Err(Error::Settings(problems)),
    }
}

fn listener(
    file: &File,
    overrides: &Overrides,
    env: Environment<'_>,
    problems: &mut Problems,
) -> Listener {
    let default = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let host = match (&overrides.host, text(env, "PROXY_HOST")) {
        (Some(flag), _) => problems.take("--host", value::host(flag)),
        (None, Some(variable)) => problems.take("PROXY_HOST", value::host(&variable)),
        (None, None) => file.host,
    };
    let port = match (overrides.port, text(env, "PROXY_PORT")) {
        (Some(flag), _) => Some(flag),
        (None, Some(variable)) => problems.take("PROXY_PORT", value::port(&variable)),
        (None, None) => file.port,
    };
    Listener { host: host.unwrap_or(default), port: port.unwrap_or(DEFAULT_PORT) }
}

/// The keys of the file and the environment, and whether the environment has one.
fn client_keys(
    file: &File,
    env: Environment<'_>,
    host: IpAddr,
    problems: &mut Problems,
) -> (Vec<ClientKey>, bool) {
    let mut keys = file.client_keys.clone();
    let Some(key) = text(env, "PROXY_API_KEY") else {
        client::tell_apart(&keys, problems);
        return (keys, false);
    };
    // Of a file that became a variable, the end of its line.
    let key = key.strip_suffix('\n').map_or(key.as_str(), |key| key.trim_end_matches('\r'));
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let found = "empty, or has other characters than can be sent in a header";
        problems.unaccepted("PROXY_API_KEY", found, "visible ASCII characters, in one line");
        return (keys, true);
    }
    if !host.is_loopback() && key.len() < MIN_KEY_BYTES {
        problems.unaccepted(
            "PROXY_API_KEY",
            "too short for a listener that is not on loopback",
            &format!("a key of at least {MIN_KEY_BYTES} characters"),
        );
    }
    let id = API_KEY_CLIENT.parse();
    keys.extend(id.ok().map(|id| ClientKey::of_key(id, key.as_bytes())));
    client::tell_apart(&keys, problems);
    (keys, true)
}

fn rotation(file: &File, env: Environment<'_>, problems: &mut Problems) -> Rotation {
    let window_s = match text(env, "TOKEN_REFRESH_WINDOW") {
        Some(variable) => problems.take("TOKEN_REFRESH_WINDOW", value::window(&variable)),
        None => file.window_s,
    };
    Rotation { window_s, spacing_s: file.spacing_s.unwrap_or(60) }
}

/// Its paths as they are opened, and as Envoy finds them, which has another working directory.
fn publish(mut publish: Publish, env: Environment<'_>) -> Publish {
    let tls = publish.tls.iter_mut();
    let files =
        tls.flat_map(|tls| [&mut tls.certificate, &mut tls.private_key, &mut tls.client_ca]);
    for path in files.chain(publish.sds_dir.as_mut()) {
        let expanded = path.to_str().map_or_else(|| path.clone(), |text| expand(text, env));
        *path = std::path::absolute(&expanded).unwrap_or(expanded);
    }
    publish
}

/// An unset and an empty variable are the same, as in the predecessors.
#[cfg(test)]
mod tests;
