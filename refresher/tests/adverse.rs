//! The program where its surroundings fail it: outputs that take nothing, files that go, variables
//! that are no text, folders that cannot be written to.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt as _;
    use std::process::{Command, Output, Stdio};
    use std::time::Duration;

    use filter::bundle::{Bundle, Credential};
    use refresher::http;
    use serde_json::Value;
    use simulator::{Fault, Options, Simulator, Target};

    use super::harness::SOON;
    use super::harness::program::{Place, Program};

    /// Takes nothing: every write fails with "No space left on device".
    fn full() -> Stdio {
        File::options().write(true).open("/dev/full").unwrap().into()
    }

    async fn finish(mut command: Command) -> Output {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        tokio::time::timeout(SOON * 3, run).await.unwrap().unwrap()
    }

    fn said(output: &Output) -> String {
        String::from_utf8(output.stderr.clone()).unwrap()
    }

    #[tokio::test]
    async fn a_log_that_takes_nothing_stops_no_rotation() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        let busy = Fault { status: Some(503), count: Some(3), ..Fault::new(Target::Token) };
        simulator.control().set_fault(busy);
        let mut command = place.command();
        command.stderr(full());
        let mut program = Program::serve(command, place.socket("serve.sock"));
        let ready = |state: &Credential| matches!(state, Credential::Ready(_));
        assert!(program.settle(ready).await.is_some(), "it ended, or has no token");
        let files = std::fs::read_dir(place.store().path().parent().unwrap()).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().contains("intent")), "{names:?}");
    }

    #[tokio::test]
    async fn commands_whose_outputs_take_nothing_end_with_an_error_and_do_not_panic() {
        let place = Place::new("http://127.0.0.1:9", "");
        for arguments in [
            &["status"][..],
            &["keys", "list"],
            &["service", "install", "--print"],
            &["config", "show"],
            &["nonsense"],
        ] {
            let mut command = place.command();
            command.args(arguments).stdout(full()).stderr(full());
            let run = tokio::task::spawn_blocking(move || command.status().unwrap());
            let ended = tokio::time::timeout(SOON * 3, run).await.unwrap().unwrap();
            let code = ended.code();
            assert!(code.is_some_and(|code| code != 0 && code != 101), "{arguments:?}: {code:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_could_not_be_shown_is_said_to_be_in_force() {
        let place = Place::new("http://127.0.0.1:9", "");
        for change in ["add", "rotate"] {
            let mut command = place.command();
            command.env("LOG_LEVEL", "info").args(["keys", change, "alice"]);
            command.stdout(full()).stderr(Stdio::piped());
            let run = tokio::task::spawn_blocking(move || {
                command.spawn().unwrap().wait_with_output().unwrap()
            });
            let output = tokio::time::timeout(SOON * 3, run).await.unwrap().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{change}: {said}");
            assert!(said.contains("in force as soon as a refresher serves"), "{change}: {said}");
            assert!(said.contains("keys rotate alice"), "{change}: {said}");
        }
    }

    #[tokio::test]
    async fn variables_that_are_no_text_are_not_taken_for_unset() {
        let place = Place::new("http://127.0.0.1:9", "");
        let mut command = place.command();
        command.env("PROXY_API_KEY", OsStr::from_bytes(b"cl\xe9-0123456789abcdef")).arg("serve");
        let output = finish(command).await;
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(said(&output), "refresher: PROXY_API_KEY: not UTF-8; accepted: text in UTF-8\n");
    }

    #[tokio::test]
    async fn a_configuration_file_that_goes_leaves_its_keys_in_force() {
        let place = Place::new("http://127.0.0.1:9", "");
        let directory = place.path().join("torchbearer");
        std::fs::create_dir(&directory).unwrap();
        let usual = directory.join("config.toml");
        let digest = "0".repeat(64);
        std::fs::write(&usual, format!("[client_keys]\nalice = \"{digest}\"\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_refresher"));
        command.env_clear().env("XDG_CONFIG_HOME", place.path()).env("HOME", place.path());
        command.arg("--state-dir").arg(place.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let socket = place.socket("serve.sock");
        let mut program = Program::serve(command, socket.clone());
        program.settle(|_| true).await.expect("it serves");
        let asked = async |path: &str| {
            http::ask_socket(&socket, path, false, SOON).await.unwrap().body.to_vec()
        };
        let keys = async || {
            let bundle = asked("/v1/bundle?generation=0&wait=10").await;
            Bundle::parse(&bundle).unwrap().client_keys.map(|keys| keys.len())
        };
        assert_eq!(keys().await, Some(1));
        std::fs::remove_file(&usual).unwrap();
        let told = async {
            loop {
                let health: Value = serde_json::from_slice(&asked("/health").await).unwrap();
                if health["config_alarm"].as_str().is_some_and(|alarm| alarm.contains("gone")) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, told).await.expect("an alarm");
        assert_eq!(keys().await, Some(1));
    }

    #[tokio::test]
    async fn a_login_that_could_not_be_kept_is_not_begun() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        // Its folder is a file's.
        std::fs::create_dir_all(&place.config.state_dir).unwrap();
        let grant = place.store().path().to_owned();
        std::fs::create_dir(grant.with_file_name("demo.default.json.lock")).unwrap();
        for arguments in [&["login", "--device"][..], &["login", "--no-browser"]] {
            let mut command = place.command();
            command.args(arguments);
            let output = finish(command).await;
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert_eq!(output.stdout, b"", "nobody is asked for anything");
        }
    }
    #[tokio::test]
    async fn a_second_up_leaves_the_first_one_s_envoy_alone() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        let folder = place.config.state_dir.join("envoy");
        std::fs::create_dir_all(&folder).unwrap();
        let first = File::create(folder.join("up.lock")).unwrap();
        first.lock().unwrap();
        let mut command = place.command();
        command.arg("--socket").arg(place.socket("second.sock")).arg("up");
        let output = finish(command).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("choose another --state-dir"), "{}", said(&output));
    }
}
