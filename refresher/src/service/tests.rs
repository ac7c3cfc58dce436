use std::path::PathBuf;

use super::plan::{Kind, Plan, Role, Scope};
use super::{Error, text};

fn plan(kind: Kind, scope: Scope) -> Plan {
    Plan {
        kind,
        scope,
        role: Role::Up,
        command: ["/opt/a b/refresher", "--config", "/home/me/100%/$HOME/a\"\\.toml", "up"]
            .map(PathBuf::from)
            .to_vec(),
        environment: vec![("PROXY_HOST".to_owned(), "a $b %c".to_owned())],
        user: Some("torch".to_owned()),
        writable: vec!["/home/me/st ate%".into()],
        managed_state: false,
        namespaces: true,
        version: Some(252),
        stop_s: 40,
        home: Some("/home/me".into()),
        config_home: None,
    }
}

#[test]
fn paths_are_escaped_as_systemd_reads_them() {
    let unit = text(&plan(Kind::Systemd, Scope::User)).unwrap();
    for line in [
        r#"ExecStart="/opt/a b/refresher" "--config" "/home/me/100%%/$$HOME/a\"\\.toml" "up""#,
        r#"Environment="PROXY_HOST=a $b %%c""#,
        r#"ReadWritePaths="/home/me/st ate%%""#,
        "ProtectHome=read-only",
        "PrivateUsers=yes",
        "WantedBy=default.target",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    assert!(!unit.contains("User=torch"), "{unit}");
    for bad in ["/a\nExecStartPre=/b", "/a\u{7f}"] {
        let plan = Plan { command: vec![bad.into()], ..plan(Kind::Systemd, Scope::User) };
        assert!(matches!(text(&plan), Err(Error::Control { .. })));
        let plan = Plan { writable: vec![bad.into()], command: Vec::new(), ..plan };
        assert!(matches!(text(&plan), Err(Error::Control { .. })));
    }
}

#[test]
fn the_unit_asks_for_what_the_manager_can_do() {
    let of = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan(Kind::Systemd, Scope::System);
        change(&mut plan);
        text(&plan).unwrap()
    };
    let system = of(&|_| {});
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartPreventExitStatus=2 3",
        "WatchdogSec=60",
        "KillMode=mixed",
        "TimeoutStopSec=40",
    ] {
        assert!(system.lines().any(|found| found == line), "{line}: {system}");
    }
    assert!(system.contains("User=torch\n") && system.contains("CapabilityBoundingSet=\n"));
    assert!(!system.contains("RestartSteps"), "252 does not know it");
    assert!(
        of(&|plan| plan.version = Some(254)).contains("RestartSteps=6\nRestartMaxDelaySec=60\n")
    );
    let managed = of(&|plan| plan.managed_state = true);
    assert!(
        managed.contains("StateDirectory=torchbearer\n") && !managed.contains("ReadWritePaths")
    );
    let bare = of(&|plan| (plan.scope, plan.namespaces) = (Scope::User, false));
    for absent in ["PrivateUsers", "ProtectSystem", "ReadWritePaths", "CapabilityBoundingSet"] {
        assert!(!bare.contains(&format!("{absent}=")), "{absent}: {bare}");
    }
    assert!(bare.contains("NoNewPrivileges=yes") && bare.contains("SystemCallFilter="));
    // Without a word of home, home is closed.
    let closed = of(&|plan| {
        plan.command = vec!["/opt/refresher".into(), "serve".into()];
        plan.writable = vec!["/srv/state".into()];
    });
    assert!(closed.contains("ProtectHome=yes\n"), "{closed}");
}

#[test]
fn a_property_list_holds_any_path() {
    let list = text(&plan(Kind::Launchd, Scope::System)).unwrap();
    let read = plist::Value::from_reader_xml(list.as_bytes()).unwrap();
    let read = read.as_dictionary().unwrap();
    let words = read.get("ProgramArguments").and_then(plist::Value::as_array).unwrap();
    assert_eq!(words[2].as_string(), Some("/home/me/100%/$HOME/a\"\\.toml"));
    assert_eq!(read.get("UserName").and_then(plist::Value::as_string), Some("torch"));
    let place = |kind, scope| plan(kind, scope).file().unwrap().display().to_string();
    assert_eq!(
        place(Kind::Launchd, Scope::User),
        "/home/me/Library/LaunchAgents/torchbearer.refresher.plist"
    );
    assert_eq!(
        place(Kind::Systemd, Scope::User),
        "/home/me/.config/systemd/user/torchbearer.service"
    );
}
