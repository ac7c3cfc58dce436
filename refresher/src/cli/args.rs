//! Commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::config::{ConfigCommand, EnvoyConfigArguments};
use super::doctor::DoctorArguments;
use super::handover::{ExportArguments, ImportArguments, TransferArguments};
use super::keys::KeysCommand;
use super::service::ServiceCommand;
use super::status::StatusArguments;
use crate::config::Overrides;
use crate::login::browser::DEFAULT_TIMEOUT;
use crate::store::{NAME_RULE, is_name};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed, for a reason that is printed
  2    a flag or a setting is not accepted
  3    a login is required
  4    the login was denied
  5    a login, or what was waited for, was not completed in time
  6    the provider, or the host of a transfer, cannot be reached
  130  interrupted

Settings come from flags, then the environment, then the configuration file:
--config, else TORCHBEARER_CONFIG, else ~/.config/torchbearer/config.toml.";

/// Logs in to an OAuth provider, keeps the access token fresh, and hands it to Envoy.
#[derive(Debug, Parser)]
#[command(name = "refresher", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Common {
    /// The configuration file (TORCHBEARER_CONFIG)
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The provider: xai, demo, or one of the configuration file (TORCHBEARER_PROVIDER) [default: xai]
    #[arg(long, global = true, value_name = "NAME")]
    provider: Option<String>,
    /// Where grants and logs live (TORCHBEARER_STATE_DIR) [default: ~/.local/state/torchbearer]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The unix socket of the sidecar (TORCHBEARER_SOCKET) [default: refresher.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Say nothing but errors, and results that were asked for
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Log in, with a browser on this machine or by a code in any browser
    Login(LoginArguments),
    /// Revoke a login at the provider and forget it; exits with 6 if the provider was not told
    Logout {
        /// The name that it is stored under
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
        credential: String,
        /// Tell the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Run the sidecar: rotate the token and publish it on the unix socket
    Serve(ServeArguments),
    /// Run the sidecar and an Envoy in front of the API, on 127.0.0.1:9996 or the next free port
    Up(UpArguments),
    /// Make, list, replace and revoke client keys, while everything runs
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Run `up` as a service of this user or machine: systemd, or launchd on macOS
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Take over a login from Hermes, the Grok CLI, a predecessor, or an export
    Import(ImportArguments),
    /// Write a login to standard output, for `import` elsewhere
    Export(ExportArguments),
    /// Send a login to another machine over ssh, and import it there
    Transfer(TransferArguments),
    /// Show the login and what a running sidecar makes of it; exits with 3 if a login is required
    Status(StatusArguments),
    /// Open the status page of a running refresher in a browser, and print its address, which is
    /// good for one use
    Page {
        /// Only print the address, do not open a browser
        #[arg(long)]
        no_browser: bool,
    },
    /// Look at everything that a request needs, and say what is wrong and what mends it
    Doctor(DoctorArguments),
    /// Check, show and describe the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print Envoy's bootstrap for these settings, as JSON, for an Envoy of yours
    EnvoyConfig(EnvoyConfigArguments),
    /// Print what a shell needs to complete this command line
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of this program, or of one of its commands
    Man {
        /// The command, such as `keys add`
        command: Vec<String>,
    },
    /// As `login --device`
    #[command(hide = true)]
    LoginDevice(LoginArguments),
    /// Become Envoy, and end with the process that asked for it
    #[command(hide = true)]
    Guard {
        parent: u32,
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(super) struct LoginArguments {
    /// Enter a code in any browser (RFC 8628), instead of a browser on this machine
    #[arg(long)]
    pub(super) device: bool,
    /// The name to store the login under, for several side by side
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = credential)]
    pub(super) credential: String,
    /// Only print the address, do not open a browser
    #[arg(long)]
    pub(super) no_browser: bool,
    /// Tell the result as JSON; what is to be done is told on standard error then
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for the browser, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl LoginArguments {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// As `up --port`
    #[arg(long, hide = true)]
    port: Option<u16>,
}

#[derive(Debug, Default, Args)]
pub(super) struct UpArguments {
    /// The address to listen on; one that is not on loopback needs client keys (PROXY_HOST) [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The first of 20 ports to try; 0 lets the kernel choose (PROXY_PORT) [default: 9996]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The filter module (TORCHBEARER_FILTER) [default: filter.wasm beside this program]
    #[arg(long, value_name = "PATH")]
    filter: Option<PathBuf>,
    /// The Envoy to run, 1.37 or newer (ENVOY_BIN) [default: envoy beside this program, else on PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

impl Command {
    /// The present command for one of the predecessor's.
    pub(super) fn modern(self) -> Self {
        match self {
            Self::LoginDevice(arguments) => {
                Self::Login(LoginArguments { device: true, ..arguments })
            }
            Self::Serve(ServeArguments { port: Some(port) }) => {
                Self::Up(UpArguments { port: Some(port), ..UpArguments::default() })
            }
            other => other,
        }
    }
}

impl Common {
    pub(super) fn overrides(self, command: &Command) -> Overrides {
        let mut overrides = Overrides {
            config: self.config,
            provider: self.provider,
            state_dir: self.state_dir,
            socket: self.socket,
            ..Overrides::default()
        };
        if let Command::Up(up) = command {
            overrides.host.clone_from(&up.host);
            overrides.port = up.port;
            overrides.filter.clone_from(&up.filter);
            overrides.envoy_bin.clone_from(&up.envoy);
        }
        overrides
    }
}

pub(super) fn credential(name: &str) -> Result<String, String> {
    if is_name(name) { Ok(name.to_owned()) } else { Err(format!("accepted: {NAME_RULE}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_predecessors_calls_are_understood() {
        let parse = |line: &[&str]| Arguments::try_parse_from(line).unwrap().command.modern();
        assert!(matches!(parse(&["refresher", "login-device"]), Command::Login(l) if l.device));
        let serve = parse(&["refresher", "serve", "--port", "9997"]);
        assert!(matches!(serve, Command::Up(up) if up.port == Some(9997)));
        assert!(matches!(parse(&["refresher", "serve"]), Command::Serve(_)));
    }
}
