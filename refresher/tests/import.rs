//! Logins that come from other programs, go elsewhere and come back, against a simulated provider.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Stdio;
    use std::time::Duration;

    use filter::bundle::Credential;
    use refresher::store::Grant;
    use serde_json::{Value, json};
    use simulator::{Options, Simulator};
    use tokio::io::AsyncWriteExt as _;

    use super::harness::program::{Place, Program};
    use super::harness::{SOON, World};

    struct Ended {
        code: Option<i32>,
        out: String,
        err: String,
    }

    /// Runs the program to its end with `input` on standard input.
    async fn run(place: &Place, arguments: &[&str], input: &[u8], path: Option<&Path>) -> Ended {
        let mut command = tokio::process::Command::from(place.command());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("HOME", place.path()).env("LOG_LEVEL", "info");
        let path = path.map_or_else(|| "/usr/bin:/bin".into(), Path::to_path_buf);
        let mut child = command.env("PATH", path).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that refuses at once does not read it.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn import(place: &Place, arguments: &[&str], document: &Value) -> Ended {
        let arguments: Vec<&str> = ["import", "-"].iter().chain(arguments).copied().collect();
        run(place, &arguments, document.to_string().as_bytes(), None).await
    }

    async fn simulator(options: Options) -> (Simulator, Place) {
        let simulator = Simulator::start(options).await.unwrap();
        let place = Place::new(simulator.url(), "");
        (simulator, place)
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name].as_str().unwrap()
    }

    fn hermes(url: &str, answer: &Value) -> Value {
        json!({
            "version": 1,
            "providers": {"xai-oauth": {
                "tokens": answer,
                "discovery": {"token_endpoint": format!("{url}/oauth2/token")},
                "last_refresh": now(),
            }},
        })
    }

    fn now() -> u64 {
        refresher::clock::now().unix()
    }

    /// Starts `serve` and waits until the refresh token has been exchanged for a new one.
    async fn rotates(place: &Place, grant: &Grant) {
        let mut program = Program::serve(place.command(), place.socket("s.sock"));
        let search = async {
            while place.stored().unwrap().refresh_token == grant.refresh_token {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, search).await.expect("rotates soon");
        let ready = program.settle(|state| matches!(state, Credential::Ready(_))).await;
        assert!(ready.is_some());
    }

    #[tokio::test]
    async fn a_login_goes_out_and_comes_back() {
        let (simulator, here) = simulator(Options { token_life: 4, ..Options::default() }).await;
        let answer = simulator.control().issue_grant();
        import(&here, &[], &hermes(simulator.url(), &answer)).await;
        let exported = run(&here, &["export"], b"", None).await;
        assert_eq!(exported.code, Some(0), "{}", exported.err);
        assert!(exported.err.contains("warning: this is the login itself"), "{}", exported.err);
        let document: Value = serde_json::from_str(&exported.out).unwrap();
        assert_eq!(text(&document, "source"), "torchbearer");
        assert_eq!(text(&document, "refresh_token"), text(&answer, "refresh_token"));
        std::fs::remove_dir_all(&here.config.state_dir).unwrap();
        assert_eq!(run(&here, &["export"], b"", None).await.code, Some(3));
        let imported = import(&here, &["--from", "torchbearer"], &document).await;
        assert_eq!(imported.code, Some(0), "{}", imported.err);
        assert!(imported.err.contains("the same refresh token"), "{}", imported.err);
        let grant = here.stored().unwrap();
        assert_eq!(grant.refresh_token.expose(), text(&answer, "refresh_token"));
        assert_eq!(
            grant.token.as_ref().unwrap().access_token.expose(),
            text(&answer, "access_token")
        );
        rotates(&here, &grant).await;
        assert_eq!(simulator.control().summary().spent_twice, 0);
        for ended in [exported, imported] {
            assert!(!ended.err.contains(grant.refresh_token.expose()));
        }
    }

    #[tokio::test]
    async fn every_format_becomes_a_grant_that_rotates() {
        let (simulator, _) = simulator(Options { token_life: 4, ..Options::default() }).await;
        let url = simulator.url();
        let endpoint = format!("{url}/oauth2/token");
        for format in ["hermes", "pool", "grok-cli", "python-proxy", "export", "rust-proxy"] {
            let answer = simulator.control().issue_grant();
            let (access, refresh) = (&answer["access_token"], &answer["refresh_token"]);
            let client = "torchbearer-demo";
            let document = match format {
                "hermes" => hermes(url, &answer),
                "pool" => json!({"credential_pool": {"xai-oauth": [{
                    "access_token": access, "refresh_token": refresh, "last_status": null,
                    "token_endpoint": endpoint,
                }]}}),
                "grok-cli" => json!({format!("{url}::{client}"): {
                    "key": access, "refresh_token": refresh, "expires_at": "2001-01-01T00:00:00Z",
                }}),
                "python-proxy" => json!({
                    "access_token": access, "refresh_token": refresh, "client_id": client,
                    "expires_in": 4, "token_endpoint": endpoint, "last_refresh": now(),
                }),
                "export" => json!({
                    "version": 1, "source": "hermes",
                    "xai-oauth": hermes(url, &answer)["providers"]["xai-oauth"],
                }),
                _ => json!({
                    "access_token": access, "refresh_token": refresh, "expires_at": now() + 4,
                    "token_endpoint": endpoint,
                }),
            };
            let place = Place::new(url, "");
            let ended = import(&place, &[], &document).await;
            assert_eq!(ended.code, Some(0), "{format}: {}", ended.err);
            let grant = place.stored().unwrap();
            assert_eq!(grant.client_id, client, "{format}");
            assert_eq!(grant.refresh_token.expose(), refresh.as_str().unwrap(), "{format}");
            rotates(&place, &grant).await;
        }
        assert_eq!(simulator.control().summary().spent_twice, 0);
    }

    #[tokio::test]
    async fn a_grant_is_refreshed_as_the_client_that_it_was_issued_to() {
        let other =
            Options { client_id: "grok-of-old".into(), token_life: 4, ..Options::default() };
        let (simulator, place) = simulator(other).await;
        let answer = simulator.control().issue_grant();
        let ended = import(&place, &[], &hermes(simulator.url(), &answer)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let grant = place.stored().unwrap();
        assert_eq!(grant.client_id, "grok-of-old");
        rotates(&place, &grant).await;
        // Whoever configures a client means that one.
        let own = Place::new(simulator.url(), "client_id = \"mine\"");
        let answer = simulator.control().issue_grant();
        let document = hermes(simulator.url(), &answer);
        let ended = import(&own, &[], &document).await;
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.contains("\"grok-of-old\"; accepted: \"mine\""), "{}", ended.err);
        let ended = import(&own, &["--client-id", "grok-of-old"], &document).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        rotates(&own, &own.stored().unwrap()).await;
    }

    #[tokio::test]
    async fn what_is_of_another_provider_is_refused_with_both_named() {
        let (simulator, place) = simulator(Options::default()).await;
        let answer = simulator.control().issue_grant();
        let ended = import(&place, &[], &hermes("https://auth.evil.example", &answer)).await;
        assert_eq!(ended.code, Some(1));
        let accepted = format!("accepted: {}/oauth2/token", simulator.url());
        assert!(ended.err.contains("https://auth.evil.example/oauth2/token"), "{}", ended.err);
        assert!(ended.err.contains(&accepted), "{}", ended.err);
        assert!(!ended.err.contains(text(&answer, "refresh_token")));
        assert_eq!(place.stored(), None);
    }

    #[tokio::test]
    async fn a_newer_grant_stays_unless_forced() {
        let (simulator, place) = simulator(Options::default()).await;
        let (url, control) = (simulator.url(), simulator.control());
        let document = |answer: &Value, at: u64| {
            let mut document = hermes(url, answer);
            document["providers"]["xai-oauth"]["last_refresh"] = json!(at);
            document
        };
        let (first, second) = (control.issue_grant(), control.issue_grant());
        let held = || place.stored().unwrap().refresh_token.expose().to_owned();
        assert_eq!(import(&place, &[], &document(&first, now() - 60)).await.code, Some(0));
        let again = import(&place, &[], &document(&first, now())).await;
        assert_eq!(again.code, Some(0));
        assert!(again.out.contains("already"), "{}", again.out);
        let older = import(&place, &[], &document(&second, now() - 120)).await;
        assert_eq!(older.code, Some(1));
        assert!(older.err.contains("the stored grant is kept: it is newer"), "{}", older.err);
        assert_eq!(held(), text(&first, "refresh_token"));
        let forced = import(&place, &["--force"], &document(&second, now() - 120)).await;
        assert_eq!(forced.code, Some(0), "{}", forced.err);
        assert_eq!(held(), text(&second, "refresh_token"));
        let newer = import(&place, &[], &document(&first, now() - 30)).await;
        assert_eq!(newer.code, Some(0), "{}", newer.err);
        let bob = import(&place, &["--credential", "bob"], &document(&second, now())).await;
        assert_eq!(bob.code, Some(0), "{}", bob.err);
        assert_eq!(held(), text(&first, "refresh_token"));
        assert!(place.config.state_dir.join("grants/demo.bob.json").exists());
    }

    #[tokio::test]
    async fn a_file_is_found_where_its_program_keeps_it() {
        let (simulator, place) = simulator(Options::default()).await;
        let nothing = run(&place, &["import"], b"", None).await;
        assert_eq!(nothing.code, Some(2));
        assert!(nothing.err.contains(".hermes/auth.json or "), "{}", nothing.err);
        let answer = simulator.control().issue_grant();
        let directory = place.path().join(".grok");
        std::fs::create_dir(&directory).unwrap();
        let grok = json!({format!("{}::torchbearer-demo", simulator.url()): {
            "key": answer["access_token"], "refresh_token": answer["refresh_token"],
        }});
        std::fs::write(directory.join("auth.json"), grok.to_string()).unwrap();
        let found = run(&place, &["import"], b"", None).await;
        assert_eq!(found.code, Some(0), "{}", found.err);
        assert!(found.out.contains("grok-cli"), "{}", found.out);
        let stated = run(&place, &["import", "--from", "hermes"], b"", None).await;
        assert_eq!(stated.code, Some(2), "{}", stated.err);
    }

    /// A provider, and a sidecar that watches a file of Hermes's.
    async fn watching(make_directory: bool) -> (World, PathBuf) {
        let directory = tempfile::tempdir().unwrap().keep();
        let path = directory.join("hermes/auth.json");
        if make_directory {
            std::fs::create_dir(path.parent().unwrap()).unwrap();
        }
        let extra = format!("[import]\nhermes = {path:?}\npoll_interval = 5\n");
        (World::with(Options::default(), &extra).await, path)
    }

    /// As Hermes writes: a new file, renamed into place.
    fn write(path: &Path, document: &Value) {
        let new = path.with_extension("new");
        std::fs::write(&new, document.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    #[tokio::test]
    async fn a_login_of_hermes_is_taken_over_as_it_happens() {
        let (world, path) = watching(true).await;
        let peer = world.serve().await;
        let begun = Duration::from_secs(now());
        assert!(matches!(peer.state().await, Credential::LoginRequired { .. }));
        let url = world.simulator.url();
        let first = world.control().issue_grant();
        write(&path, &hermes(url, &first));
        let token = peer.token_after(0).await;
        assert_eq!(token.access_token.expose(), text(&first, "access_token"));
        // Told by the kernel: not as late as the next look.
        assert!(Duration::from_secs(now()) - begun <= Duration::from_secs(3));
        // What is no newer login changes nothing.
        let mut removed = hermes(url, &first);
        removed["providers"]["xai-oauth"]["tokens"] = json!({});
        for ignored in [removed, json!([]), json!({"providers": {"xai-oauth": 7}})] {
            write(&path, &ignored);
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(peer.token().await, token, "{ignored}");
        }
        let second = world.control().issue_grant();
        let mut document = hermes(url, &second);
        document["providers"]["xai-oauth"]["last_refresh"] = json!(now() + 5);
        write(&path, &document);
        let newer = peer.token_after(token.generation).await;
        assert_eq!(newer.access_token.expose(), text(&second, "access_token"));
        peer.stop().await;
        std::fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_login_of_hermes_is_found_by_looking_too() {
        let (world, path) = watching(false).await;
        let peer = world.serve().await;
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let answer = world.control().issue_grant();
        write(&path, &hermes(world.simulator.url(), &answer));
        let token = peer.token_after(0).await;
        assert_eq!(token.access_token.expose(), text(&answer, "access_token"));
        peer.stop().await;
        std::fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
    }

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
            let (simulator, here) =
                simulator(Options { token_life: 4, ..Options::default() }).await;
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
        assert!(ended.out.ends_with("credential default is on me@server\n"), "{}", ended.out);
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
}
