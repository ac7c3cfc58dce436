//! Logging out, and giving up on a login, with the real program.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use filter::bundle::Credential;
    use simulator::{Options, Simulator};

    use super::harness::SOON;
    use super::harness::program::{Place, Program};

    /// Runs a command to its end; answers its code and what it printed.
    async fn finish(mut command: Command) -> (i32, String) {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = tokio::time::timeout(SOON * 3, output).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    async fn log_out(place: &Place, arguments: &[&str]) -> (i32, String) {
        let mut command = place.command();
        command.env("LOG_LEVEL", "error").arg("logout").args(arguments);
        command.arg("--socket").arg(place.socket("serve.sock"));
        finish(command).await
    }

    fn files(place: &Place) -> Vec<String> {
        let parent = place.store().path().parent().unwrap().to_owned();
        let entries = std::fs::read_dir(parent).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_logout_revokes_forgets_and_is_published_at_once() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        let answer = simulator.control().issue_grant();
        place.plant(simulator.url(), &answer).await;
        let mut program = Program::serve(place.command(), place.socket("serve.sock"));
        let ready = |state: &Credential| matches!(state, Credential::Ready(_));
        let Some(Credential::Ready(token)) = program.settle(ready).await else { panic!("ready") };
        let (code, text) = log_out(&place, &[]).await;
        assert_eq!(
            (code, text.as_str()),
            (0, "logged out of demo: credential default is revoked\n")
        );
        // It was told, and did not wait for its next look, which is a second away at most.
        let reason = "never_logged_in".to_owned();
        let told = program.settle(|state| !ready(state));
        let told = tokio::time::timeout(Duration::from_millis(600), told).await.unwrap();
        assert_eq!(told, Some(Credential::LoginRequired { reason }));
        assert_eq!(files(&place), ["demo.default.json.lock"]);
        assert_eq!(simulator.control().summary().refresh_requests, 1);
        // The provider knows: the access token of that grant is dead too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let models = format!("{}/v1/models", simulator.url());
        let access_token = token.access_token.unwrap();
        let request = reqwest::Client::new().get(models).bearer_auth(access_token.expose());
        assert_eq!(request.send().await.unwrap().status(), 401);
        let (code, text) = log_out(&place, &[]).await;
        assert_eq!((code, text.as_str()), (0, "credential default of demo is not logged in\n"));
    }

    #[tokio::test]
    async fn a_provider_that_cannot_be_told_keeps_no_grant_here() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", gone.local_addr().unwrap());
        drop(gone);
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(&url, "");
        place.plant(&url, &simulator.control().issue_grant()).await;
        let (code, text) = log_out(&place, &[]).await;
        assert_eq!(code, 6, "{text}");
        assert!(text.contains("forgotten here, but demo was not told"), "{text}");
        assert_eq!(place.stored(), None);
        // Not one of several: only the one that was named.
        let place = Place::new(&url, "");
        let planted = place.plant(&url, &simulator.control().issue_grant()).await;
        let (code, text) = log_out(&place, &["--credential", "bob"]).await;
        assert_eq!((code, text.as_str()), (0, "credential bob of demo is not logged in\n"));
        assert_eq!(place.stored(), Some(planted));
    }

    #[tokio::test]
    async fn another_providers_grant_is_not_shown_to_this_one() {
        let (one, two) = (
            Simulator::start(Options::default()).await.unwrap(),
            Simulator::start(Options::default()).await.unwrap(),
        );
        let place = Place::new(one.url(), "");
        let answer = two.control().issue_grant();
        place.plant(two.url(), &answer).await;
        let (code, text) = log_out(&place, &[]).await;
        assert_eq!(code, 6, "{text}");
        assert!(text.contains("the grant is of another provider or client"), "{text}");
        assert_eq!(place.stored(), None);
    }

    #[tokio::test]
    async fn an_endpoint_from_the_configuration_is_used_without_asking_the_issuer() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let revoke = format!("revocation_endpoint = \"{}/oauth2/elsewhere\"", simulator.url());
        let place = Place::new(simulator.url(), &revoke);
        place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        let (code, text) = log_out(&place, &[]).await;
        assert_eq!(code, 6, "{text}");
        assert!(text.contains("did not revoke the grant (status 4"), "{text}");
    }

    #[tokio::test]
    async fn to_look_for_a_login_creates_nothing() {
        let place = Place::new("https://id.example", "");
        for arguments in [&["status"][..], &["status", "--json"], &["up"]] {
            let mut command = place.command();
            command.args(arguments);
            let (code, text) = finish(command).await;
            assert_eq!(code, 3, "{arguments:?}: {text}");
            assert!(!place.config.state_dir.exists(), "{arguments:?}");
        }
    }

    #[tokio::test]
    async fn an_interrupted_login_ends_with_130_and_keeps_the_old_grant() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        let planted = place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        for arguments in [&["login", "--device"][..], &["login", "--no-browser"]] {
            let ports = super::harness::free_ports(1);
            let toml = format!("redirect_ports = [{}]", ports[0]);
            // The port is the kernel's choice, so the second login has a file of its own.
            let own = Place::new(simulator.url(), &toml);
            let mut command = rebuilt(&own, &place);
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
            let first = tokio::task::spawn_blocking(move || {
                let mut line = String::new();
                std::io::BufRead::read_line(&mut out, &mut line).unwrap();
                (line, out)
            });
            let (line, out) = tokio::time::timeout(SOON, first).await.unwrap().unwrap();
            assert!(line.starts_with("open http"), "{line}");
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
            let status = tokio::task::spawn_blocking(move || {
                let mut rest = String::new();
                let mut out = out;
                std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
                (child.wait().unwrap(), rest)
            });
            let limit = Duration::from_secs(5);
            let (status, rest) = tokio::time::timeout(limit, status).await.unwrap().unwrap();
            assert_eq!(status.code(), Some(130));
            // No terminal: nothing is redrawn.
            assert!(!rest.contains(['\r', '\u{1b}', '█']), "{rest:?}");
            assert_eq!(place.stored(), Some(planted.clone()));
        }
    }

    /// The program with the configuration of one place and the state of another.
    fn rebuilt(configured: &Place, stored: &Place) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refresher"));
        command
            .env_clear()
            .arg("--config")
            .arg(configured.path().join("config.toml"))
            .arg("--state-dir")
            .arg(&stored.config.state_dir)
            .stdin(Stdio::null());
        command
    }
}
