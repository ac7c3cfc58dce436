//! The systemd unit: systemd.service(5), systemd.exec(5).

use std::fmt::Write as _;
use std::path::Path;

use super::Error;
use super::plan::{NAME, Plan, Role, Scope, plain};

/// The first version that knows how to wait longer from restart to restart.
const BACKS_OFF: u32 = 254;

/// What no program needs that only serves.
const HARDENED: &str = "\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service @pkey
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
# Envoy compiles the filter as it starts (V8), and has to make that memory executable.
MemoryDenyWriteExecute=no
";

/// Calls of the groups above that Envoy and V8 make nonetheless: they pin or ask about threads.
const CALLS: &str = "SystemCallFilter=mincore sched_setaffinity sched_setscheduler setpriority prlimit64 setrlimit\n";

/// What needs a file system of its own.
const NAMESPACES: &str = "\
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
";

/// Renders the unit.
///
/// # Errors
///
/// When a path or value does not fit in.
pub fn unit(plan: &Plan) -> Result<String, Error> {
    let what = match plan.role {
        Role::Up => "an OAuth login in front of an API",
        Role::Serve => "keeps an OAuth login for Envoy",
    };
    let mut unit = format!(
        "# Written by \"refresher service install\".\n[Unit]\nDescription=Torchbearer: {what}\n"
    );
    if plan.scope == Scope::System {
        unit += "Wants=network-online.target\nAfter=network-online.target\n";
    }
    unit += "StartLimitIntervalSec=600\nStartLimitBurst=20\n\n[Service]\nType=notify\nNotifyAccess=main\n";
    let words: Result<Vec<_>, _> = plan.command.iter().map(|word| argument(word)).collect();
    let _ = writeln!(unit, "ExecStart={}", words?.join(" "));
    unit += "ExecReload=/bin/kill -HUP $MAINPID\n";
    for (name, value) in &plan.environment {
        let pair = format!("{name}={}", plain(name, Path::new(value))?);
        let _ = writeln!(unit, "Environment={}", quoted(&pair));
    }
    if let (Scope::System, Some(user)) = (plan.scope, &plan.user) {
        let _ = writeln!(unit, "User={}", plain("user", Path::new(user))?.replace('%', "%%"));
    }
    unit += "Restart=on-failure\nRestartSec=1\n";
    if plan.version.is_some_and(|version| version >= BACKS_OFF) {
        unit += "RestartSteps=6\nRestartMaxDelaySec=60\n";
    }
    unit += "# A setting that is not accepted, and a login that is required: no restart mends these.\n\
             RestartPreventExitStatus=2 3\nWatchdogSec=60\n";
    // Envoy drains when the refresher asks it to, not before.
    let _ = writeln!(unit, "KillMode=mixed\nTimeoutStopSec={}\n", plan.stop_s);
    sandbox(plan, &mut unit)?;
    let target = match plan.scope {
        Scope::User => "default.target",
        Scope::System => "multi-user.target",
    };
    let _ = writeln!(unit, "\n[Install]\nWantedBy={target}");
    Ok(unit)
}

fn sandbox(plan: &Plan, unit: &mut String) -> Result<(), Error> {
    *unit += HARDENED;
    *unit += CALLS;
    if plan.managed_state {
        let _ = writeln!(unit, "StateDirectory={NAME}\nStateDirectoryMode=0700");
    }
    match plan.scope {
        Scope::System => *unit += "CapabilityBoundingSet=\nAmbientCapabilities=\nRemoveIPC=no\n",
        // Without privileges there are no capabilities to give up; a manager that has none either
        // makes the file system by a user namespace.
        Scope::User if plan.namespaces => *unit += "PrivateUsers=yes\n",
        Scope::User => {}
    }
    if !plan.namespaces {
        *unit += "# This kernel gives users no namespaces, which the protection of files needs.\n";
        return Ok(());
    }
    *unit += NAMESPACES;
    let home = plan.home.as_deref().unwrap_or(Path::new("/home"));
    let at_home = |path: &Path| {
        [home, Path::new("/home"), Path::new("/root")].iter().any(|home| path.starts_with(home))
    };
    // Programs, settings and state may all be at home.
    let needs_home = plan.scope == Scope::User
        || plan.command.iter().any(|word| at_home(word))
        || plan.environment.iter().any(|(_, value)| at_home(Path::new(value)))
        || plan.writable.iter().any(|path| at_home(path));
    let _ = writeln!(unit, "ProtectHome={}", if needs_home { "read-only" } else { "yes" });
    if plan.scope == Scope::System {
        *unit += "ProtectProc=invisible\n";
    }
    for path in plan.writable.iter().filter(|_| !plan.managed_state) {
        let _ = writeln!(unit, "ReadWritePaths={}", quoted(plain("state directory", path)?));
    }
    Ok(())
}

/// A word of `ExecStart=`, in which a dollar sign begins a variable.
fn argument(word: &Path) -> Result<String, Error> {
    Ok(quoted(&plain("command", word)?.replace('$', "$$")))
}

/// Quoted, since a space would end it, and with `%` doubled, since a single one is a specifier.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}
