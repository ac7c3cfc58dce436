//! A login that goes to another machine.

use std::path::PathBuf;

use simulator::{Options, Simulator};

use super::harness::program::Place;
use super::{Ended, hermes, import, rotates, run, simulator, text};

/// Two machines, and a directory with an `ssh` that is one shell away from the second.
struct Machines {
    simulator: Simulator,
    here: Place,
    there: Place,
    bin: tempfile::TempDir,
    refresh_token: String,
}

impl Machines {
    async fn new() -> Self {
        let (simulator, here) = simulator(Options { token_life: 4, ..Options::default() }).await;
        let there = Place::new(simulator.url(), "");
        let answer = simulator.control().issue_grant();
        let ended = import(&here, &[], &hermes(simulator.url(), &answer)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let bin = tempfile::tempdir().unwrap();
        std::fs::create_dir(bin.path().join("tmp")).unwrap();
        let refresh_token = text(&answer, "refresh_token").to_owned();
        Self { simulator, here, there, bin, refresh_token }
    }

    /// A program of this name that is first on the path.
    fn program(&self, name: &str, script: &str) {
        let path = self.bin.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }

    /// Runs the last argument as the other side's shell would, and keeps all arguments and the
    /// environment.
    fn ssh(&self) {
        let dir = self.bin.path().display();
        self.program(
            "ssh",
            &format!(
                "printf '%s\\n' \"$@\" >>{dir}/argv\nenv >>{dir}/environment\n\
                 for last; do :; done\nTMPDIR={dir}/tmp exec sh -c \"$last\""
            ),
        );
    }

    async fn transfer(&self, arguments: &[&str]) -> Ended {
        let remote = self.there.command();
        let mut words = vec![remote.get_program().to_str().unwrap().to_owned()];
        words.extend(remote.get_args().map(|word| word.to_str().unwrap().to_owned()));
        let remote = words.join(" ");
        let mut all = vec!["transfer", "--host", "me@server"];
        if !arguments.contains(&"--remote-command") {
            all.extend(["--remote-command", &remote]);
        }
        all.extend(arguments);
        let path = PathBuf::from(format!("{}:/usr/bin:/bin", self.bin.path().display()));
        run(&self.here, &all, b"", Some(&path)).await
    }

    fn argv(&self) -> String {
        std::fs::read_to_string(self.bin.path().join("argv")).unwrap_or_default()
    }

    /// No secret in an argument or the environment, and no file left.
    fn assert_clean(&self) {
        let environment = std::fs::read_to_string(self.bin.path().join("environment"));
        for seen in [self.argv(), environment.unwrap_or_default()] {
            assert!(!seen.contains(&self.refresh_token));
        }
        assert_eq!(std::fs::read_dir(self.bin.path().join("tmp")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_login_is_sent_to_another_machine_and_lives_on_there() {
    let machines = Machines::new().await;
    machines.ssh();
    machines.program("curl", "exit 0");
    let restarted = machines.bin.path().join("restarted");
    let restart = format!("touch {}", restarted.display());
    let ended = machines
        .transfer(&[
            "--identity",
            "/keys/my key",
            "--port",
            "2222",
            "--restart",
            &restart,
            "--health-url",
            "http://127.0.0.1:9996/health",
        ])
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    // What is printed there is no result of ours.
    assert_eq!(ended.out, "credential default is on me@server\n");
    assert!(ended.err.contains("imported the login of "), "{}", ended.err);
    assert!(ended.err.contains("only one of the two copies works"), "{}", ended.err);
    assert!(restarted.exists());
    let before = "-o\nBatchMode=yes\n-T\n-i\n/keys/my key\n-p\n2222\n--\nme@server\nsh -c ";
    assert_eq!(machines.argv().matches(before).count(), 3, "{}", machines.argv());
    machines.assert_clean();
    let grant = machines.there.stored().unwrap();
    assert_eq!(grant.refresh_token.expose(), machines.refresh_token);
    rotates(&machines.there, &grant).await;
    assert_eq!(machines.simulator.control().summary().spent_twice, 0);
}

#[tokio::test]
async fn a_transfer_says_what_it_waits_for_and_its_json_is_pure() {
    let machines = Machines::new().await;
    machines.program("ssh", "sleep 2; for last; do :; done; exec sh -c \"$last\"");
    let ended = machines.transfer(&["--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let result: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(result["host"], "me@server");
    assert!(ended.err.starts_with("refresher: waiting for the import on me@server …\n"));
    let ended = machines.transfer(&["--quiet", "--restart", "echo restarted; sleep 60 &"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{}", ended.err);
    assert!(!ended.err.contains('…') && !ended.err.contains("restarted"), "{}", ended.err);
}

#[tokio::test]
async fn a_transfer_that_fails_leaves_nothing_and_says_where() {
    let machines = Machines::new().await;
    let empty = machines.bin.path().join("tmp");
    let arguments = ["transfer", "--host", "me@server"];
    let missing = run(&machines.here, &arguments, b"", Some(&empty)).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("ssh is not on PATH"), "{}", missing.err);
    machines.ssh();
    let no_program = machines.transfer(&["--remote-command", "/nowhere/refresher"]).await;
    assert_eq!(no_program.code, Some(1));
    assert!(no_program.err.contains("the import on me@server failed (exit code 127"));
    machines.assert_clean();
    assert_eq!(machines.there.stored(), None);
    assert_eq!(machines.transfer(&[]).await.code, Some(0));
    // The other side has refreshed meanwhile: what is here is older, and dead.
    rotates(&machines.there, &machines.there.stored().unwrap()).await;
    let refused = machines.transfer(&[]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("the stored grant is kept: it is newer"), "{}", refused.err);
    machines.assert_clean();
    let restart = machines.transfer(&["--force", "--restart", "exit 5"]).await;
    assert_eq!(restart.code, Some(1));
    assert!(restart.err.contains("the restart on me@server failed (exit code 5"));
    machines.program("ssh", "echo 'me@server: Permission denied (publickey).' >&2; exit 255");
    let denied = machines.transfer(&[]).await;
    assert_eq!(denied.code, Some(6));
    assert!(denied.err.contains("ssh -o BatchMode=yes -T -- me@server true"), "{}", denied.err);
    machines.assert_clean();
    assert_eq!(machines.here.stored().unwrap().refresh_token.expose(), machines.refresh_token);
}

#[tokio::test]
async fn the_command_for_a_new_login_is_printed_and_nothing_is_done() {
    let machines = Machines::new().await;
    machines.ssh();
    let arguments = ["--print-reauth-command", "--remote-command", "refresher", "--port", "22"];
    let ended = machines.transfer(&arguments).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(
        ended.out,
        "ssh -t -p 22 -- me@server 'refresher login --device --credential default'\n"
    );
    assert_eq!(machines.argv(), "");
    for bad in ["-oProxyCommand=touch", "a b", "x;y"] {
        let host = format!("--host={bad}");
        let ended = run(&machines.here, &["transfer", &host], b"", None).await;
        assert_eq!(ended.code, Some(2), "{bad}: {}", ended.err);
    }
}
