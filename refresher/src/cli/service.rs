//! `service`: what is asked for on the command line, as a plan.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::Exit;
use super::output::complain;
use crate::config::Config;
use crate::reload::Source;
use crate::service::{self, Kind, Plan, Role, Scope, manager};
use crate::up::envoy::Program;

/// What the service keeps of the environment of `install`: settings, and no secret.
const SETTINGS: [&str; 18] = [
    "GROK_PROXY_AUTH_STATE",
    "HERMES_AUTH_PATH",
    "HERMES_POLL_INTERVAL",
    "LOG_LEVEL",
    "NO_PROXY",
    "PROXY_HOST",
    "PROXY_PORT",
    "TOKEN_REFRESH_WINDOW",
    "TORCHBEARER_CONFIG",
    "TORCHBEARER_FILTER",
    "TORCHBEARER_PROVIDER",
    "TORCHBEARER_SOCKET",
    "TORCHBEARER_STATE_DIR",
    "UPSTREAM_RETRY_ATTEMPTS",
    "UPSTREAM_RETRY_DELAY",
    "XAI_PROXY_TOKEN_PATH",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
];

/// What it does not keep, since anybody on the machine can read a service's file.
const SECRETS: [(&str, &str); 2] = [
    ("PROXY_API_KEY", "make a key with \"refresher keys add NAME\""),
    ("HTTPS_PROXY", "it may hold a password; if not, add it with \"systemctl edit\""),
];

/// Where the state of a service of the system is.
const SYSTEM_STATE: &str = "/var/lib/torchbearer";

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the service, load it and start it; with --print only show it
    Install(InstallArguments),
    /// Stop the service and remove it; logins and client keys stay
    Uninstall(Target),
    /// Say what is installed, enabled and running; exits with 1 unless it runs
    Status(Target),
}

#[derive(Debug, Args)]
pub(super) struct InstallArguments {
    #[command(flatten)]
    target: Target,
    /// Run the sidecar alone, for an Envoy of yours
    #[arg(long)]
    serve: bool,
    /// Only print the service's file
    #[arg(long, visible_alias = "dry-run")]
    print: bool,
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// A service of this user [default, except for root]
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// A service of the machine [default for root]
    #[arg(long)]
    system: bool,
    /// Of a service of the machine: whom it runs as [default: who called sudo]
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// The service manager [default: this system's]
    #[arg(long, value_enum, value_name = "MANAGER")]
    manager: Option<Manager>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Manager {
    Systemd,
    Launchd,
}

impl ServiceCommand {
    /// Whether it does without the settings.
    pub(super) fn needs_no_settings(&self) -> bool {
        matches!(self, Self::Uninstall(_))
    }
}

pub(super) fn perform(
    config: &Config,
    source: &Source,
    command: &ServiceCommand,
) -> anyhow::Result<Exit> {
    let out = &mut std::io::stdout();
    match command {
        ServiceCommand::Install(arguments) => {
            let role = if arguments.serve { Role::Serve } else { Role::Up };
            let plan = plan(config, source, &arguments.target, role);
            if plan.scope == Scope::System && plan.user.is_none() {
                return Err(service::Error::NoUser.into());
            }
            for (name, remedy) in SECRETS {
                if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
                    complain(format_args!("{name} is not written into the service: {remedy}"));
                }
            }
            if arguments.print {
                write!(out, "{}", service::text(&plan)?)?;
            } else {
                service::install(&plan, out)?;
                if plan.kind == Kind::Systemd && plan.scope == Scope::User {
                    writeln!(
                        out,
                        "to have it run while you are logged out: loginctl enable-linger"
                    )?;
                }
            }
            Ok(Exit::Done)
        }
        ServiceCommand::Uninstall(target) => {
            service::uninstall(&plan(config, source, target, Role::Up), out)?;
            Ok(Exit::Done)
        }
        ServiceCommand::Status(target) => {
            let plans = [Role::Up, Role::Serve].map(|role| plan(config, source, target, role));
            let [up, serve] = plans;
            // Which of the two it is, the file says.
            let installed = up.file().ok().and_then(|path| std::fs::read_to_string(path).ok());
            let is_serve =
                installed.is_some_and(|text| service::text(&serve).is_ok_and(|it| it == text));
            let running = service::status(if is_serve { &serve } else { &up }, out)?;
            Ok(if running { Exit::Done } else { Exit::Other })
        }
    }
}

fn plan(config: &Config, source: &Source, target: &Target, role: Role) -> Plan {
    let root = rustix::process::geteuid().is_root();
    let scope = if target.system || (root && !target.user) { Scope::System } else { Scope::User };
    let kind = match target.manager {
        Some(Manager::Systemd) => Kind::Systemd,
        Some(Manager::Launchd) => Kind::Launchd,
        None if cfg!(target_os = "macos") => Kind::Launchd,
        None => Kind::Systemd,
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from);
    let user = target.run_as.clone().or_else(|| variable("SUDO_USER"));
    let managed_state = scope == Scope::System
        && kind == Kind::Systemd
        && home
            .as_ref()
            .is_some_and(|home| config.state_dir == home.join(".local/state/torchbearer"));
    let state =
        if managed_state { PathBuf::from(SYSTEM_STATE) } else { absolute(&config.state_dir) };
    let mut environment: Vec<_> =
        SETTINGS.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect();
    if managed_state {
        environment.push(("TORCHBEARER_STATE_DIR".to_owned(), state.display().to_string()));
    }
    if role == Role::Up && (config.envoy.bin.is_none() || variable("ENVOY_BIN").is_some()) {
        match Program::find(config.envoy.bin.as_deref()) {
            Ok(envoy) => {
                let path = absolute(envoy.path()).display().to_string();
                environment.push(("ENVOY_BIN".to_owned(), path));
            }
            Err(error) => tracing::warn!(%error, "the service will not start"),
        }
    }
    let mut writable = vec![state];
    let places = [config.socket.parent(), config.grant_file.as_deref().and_then(Path::parent)];
    for place in places.into_iter().flatten().map(absolute) {
        if !managed_state && !writable.iter().any(|known| place.starts_with(known)) {
            writable.push(place);
        }
    }
    let namespaces = scope == Scope::System || kind == Kind::Launchd || manager::has_namespaces();
    Plan {
        kind,
        scope,
        role,
        command: command(source, scope, role),
        environment,
        user,
        writable,
        managed_state,
        namespaces,
        version: manager::systemd_version().filter(|_| kind == Kind::Systemd),
        // What is under way, what Envoy and an exchange at the provider take after that.
        stop_s: config.envoy.drain_timeout.as_secs() + 30,
        home,
        config_home: variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|it| it.is_absolute()),
    }
}

/// This program, with the flags of this very call, in words that mean the same in any directory.
fn command(source: &Source, scope: Scope, role: Role) -> Vec<PathBuf> {
    let overrides = source.overrides();
    let mut words = vec![std::env::current_exe().unwrap_or_else(|_| "refresher".into())];
    let config = overrides.config.clone().or_else(|| {
        // Of the caller, who may not be the user that it runs as.
        source.file().filter(|path| scope == Scope::System && path.exists())
    });
    let paths = [
        ("--config", &config),
        ("--state-dir", &overrides.state_dir),
        ("--socket", &overrides.socket),
    ];
    for (flag, path) in paths {
        if let Some(path) = path {
            words.extend([flag.into(), absolute(path)]);
        }
    }
    if let Some(provider) = &overrides.provider {
        words.extend(["--provider".into(), provider.into()]);
    }
    words.push(if role == Role::Up { "up" } else { "serve" }.into());
    words
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
