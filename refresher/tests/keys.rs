//! The key commands as a user runs them, beside a sidecar that serves or none.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use filter::bundle::Bundle;
    use filter::client::{ClientKey, Digest, Proof};
    use refresher::http;
    use serde_json::Value;

    use super::harness::SOON;
    use super::harness::program::{Place, Program};

    const OWN: &str = "a-key-of-the-users-own";

    /// What a command printed, and how it ended.
    #[derive(Debug)]
    struct Ended {
        code: i32,
        out: String,
        errors: String,
    }

    async fn finish(mut command: Command, input: &str) -> Ended {
        let input = input.to_owned();
        let run = tokio::task::spawn_blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // A command that does not read its input may have ended.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        let output = tokio::time::timeout(SOON * 3, run).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Ended { code, out: text(output.stdout), errors: text(output.stderr) }
    }

    fn keys_command(place: &Place, arguments: &[&str]) -> Command {
        let mut command = place.command();
        command.env("LOG_LEVEL", "info").arg("--socket").arg(place.socket("serve.sock"));
        command.arg("keys").args(arguments);
        command
    }

    async fn keys(place: &Place, arguments: &[&str]) -> Ended {
        finish(keys_command(place, arguments), "").await
    }

    /// Makes a key and answers it.
    async fn add(place: &Place, arguments: &[&str]) -> String {
        let added = keys(place, &[&["add"], arguments].concat()).await;
        assert_eq!(added.code, 0, "{added:?}");
        added.out.trim_end().to_owned()
    }

    fn file(place: &Place) -> PathBuf {
        place.config.state_dir.join("client-keys.json")
    }

    /// The published client keys, as they are right now; nothing where none is required.
    async fn published(place: &Place) -> Option<Vec<ClientKey>> {
        let (socket, path) = (place.socket("serve.sock"), "/v1/bundle?generation=0&wait=10");
        let answer = http::ask_socket(&socket, path, false, SOON).await.unwrap();
        Bundle::parse(&answer.body).unwrap().client_keys
    }

    async fn serve(place: &Place, command: Command) -> Program {
        let mut program = Program::serve(command, place.socket("serve.sock"));
        program.settle(|_| true).await.expect("it serves");
        program
    }

    fn proof(key: &str) -> Proof {
        Proof::Key(Digest::of(key.as_bytes()))
    }

    #[tokio::test]
    async fn a_key_is_printed_alone_and_once_and_kept_as_a_digest() {
        let place = Place::new("http://127.0.0.1:9", "");
        let added = keys(&place, &["add", "alice", "--expires", "30d", "--path", "/v1/"]).await;
        assert_eq!(added.code, 0, "{added:?}");
        let key = added.out.strip_suffix('\n').unwrap();
        assert!(key.starts_with("tb_") && key.len() == 46 && !key.contains('\n'), "{added:?}");
        assert!(!added.errors.contains(key), "{added:?}");
        for said in ["client alice may call, until 20", "X-Proxy-Api-Key: KEY", "none does on"] {
            assert!(added.errors.contains(said), "{said}: {added:?}");
        }
        let mode = std::fs::metadata(file(&place)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(file(&place)).unwrap();
        let digest = Digest::of(key.as_bytes()).to_string();
        assert!(text.contains(&digest) && !text.contains(key), "{text}");

        let listed = keys(&place, &["list"]).await;
        assert_eq!((listed.code, listed.errors.as_str()), (0, ""));
        assert!(listed.out.contains("alice  valid  store"), "{listed:?}");
        assert!(listed.out.contains("paths /v1/"), "{listed:?}");
        let json = keys(&place, &["list", "--json"]).await;
        let rows: Value = serde_json::from_str(&json.out).unwrap();
        let shown = rows[0]["sha256_prefix"].as_str().unwrap();
        assert!(shown.len() == 12 && digest.starts_with(shown), "{shown}");
        assert_eq!((&rows[0]["state"], &rows[0]["place"]), (&"valid".into(), &"store".into()));
        let made_at = rows[0]["made_at"].as_u64().unwrap();
        assert_eq!(rows[0]["not_after"], made_at + 30 * 86_400);
        for text in [listed.out, json.out] {
            assert!(!text.contains(key) && !text.contains(&digest), "{text}");
        }
        // As JSON the key is in it, and one of the user's own is not shown again.
        let json = keys(&place, &["rotate", "alice", "--json"]).await;
        let row: Value = serde_json::from_str(&json.out).unwrap();
        assert!(row["key"].as_str().unwrap().starts_with("tb_"), "{json:?}");
        assert_eq!(row["paths"][0], "/v1/");
        let own = finish(keys_command(&place, &["add", "bob", "--stdin"]), OWN).await;
        assert_eq!((own.code, own.out.as_str()), (0, ""), "{own:?}");
        assert!(!own.errors.contains(OWN));
        let stored = std::fs::read_to_string(file(&place)).unwrap();
        assert!(stored.contains(&Digest::of(OWN.as_bytes()).to_string()));
    }

    #[tokio::test]
    async fn what_is_not_accepted_is_said_with_what_would_be() {
        let digest = Digest::of(b"configured-key-of-carol");
        let settings = format!("[client_keys]\ncarol = \"{digest}\"\n");
        let place = Place::new("http://127.0.0.1:9", &settings);
        add(&place, &["alice"]).await;
        add(&place, &["mesh", "--subject-alt-name", "spiffe://a/b"]).await;
        let before = std::fs::read(file(&place)).unwrap();
        let configured = "configuration file ([client_keys])";
        for (arguments, input, code, said) in [
            (&["add", "alice"][..], "", 1, "refresher keys rotate alice"),
            (&["add", "mesh"], "", 1, "refresher keys revoke mesh"),
            (&["add", "carol"], "", 1, configured),
            (&["add", "default"], "", 1, "PROXY_API_KEY"),
            (&["revoke", "carol"], "", 1, configured),
            (&["rotate", "default"], "", 1, "PROXY_API_KEY"),
            (&["revoke", "dave"], "", 1, "refresher keys list"),
            (&["rotate", "dave"], "", 1, "refresher keys list"),
            (&["rotate", "mesh"], "", 1, "shows a certificate"),
            (&["add", "d", "--stdin"], "configured-key-of-carol\n", 1, "client carol already"),
            (&["add", "d", "--stdin"], "fifteen-letters\n", 2, "16 to 1024 visible ASCII"),
            (&["add", "d", "--stdin"], "two lines are\nnot one key", 2, "in one line"),
            (&["add", "a b"], "", 2, "A-Z a-z 0-9 . _ - @"),
            (&["add", "d", "--expires", "soon"], "", 2, "90s, 15m, 12h or 30d"),
            (&["add", "d", "--expires", "0s"], "", 2, "90s, 15m, 12h or 30d"),
            (&["rotate", "alice", "--overlap", "1w"], "", 2, "90s, 15m, 12h or 30d"),
            (&["add", "d", "--path", "v1"], "", 2, "begins with /"),
            (&["add", "d", "--model", "gr*k"], "", 2, "* only at its end"),
            (&["add", "d", "--rpm", "0"], "", 2, "1..=4294967295"),
            (&["add", "d", "--credential", "a.b"], "", 2, "a-z A-Z 0-9 _ -"),
            (&["add", "d", "--subject-alt-name", ""], "", 2, "subject_alt_name is empty"),
            (&["add", "d", "--subject-alt-name", "x", "--stdin"], "", 2, "cannot be used with"),
        ] {
            let mut command = keys_command(&place, arguments);
            command.env("PROXY_API_KEY", "key-in-the-environment");
            let ended = finish(command, input).await;
            assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{arguments:?}: {ended:?}");
            assert!(ended.errors.contains(said), "{arguments:?}: {ended:?}");
            assert!(!ended.errors.contains("fifteen-letters"), "{ended:?}");
        }
        assert_eq!(std::fs::read(file(&place)).unwrap(), before);
        // A key of the environment is one of a client named default, and is listed.
        let mut command = keys_command(&place, &["list"]);
        command.env("PROXY_API_KEY", "key-in-the-environment");
        let listed = finish(command, "").await.out;
        for line in ["carol    valid  configuration", "default  valid  PROXY_API_KEY"] {
            assert!(listed.contains(line), "{listed}");
        }
        assert!(!listed.contains("key-in-the-environment"));
    }

    #[tokio::test]
    async fn to_look_creates_nothing() {
        let place = Place::new("http://127.0.0.1:9", "");
        for arguments in [&["list"][..], &["list", "--json"], &["revoke", "a"], &["rotate", "a"]] {
            let ended = keys(&place, arguments).await;
            assert_eq!(ended.code, i32::from(arguments[0] != "list"), "{ended:?}");
            assert!(!place.config.state_dir.exists(), "{arguments:?}");
        }
    }

    #[tokio::test]
    async fn when_a_command_returns_its_change_is_published() {
        let place = Place::new("http://127.0.0.1:9", "");
        let program = serve(&place, place.command()).await;
        assert_eq!(published(&place).await, None);
        let added = keys(&place, &["add", "alice", "--rpm", "60"]).await;
        assert!(added.code == 0 && added.errors.contains("refresher: in force\n"), "{added:?}");
        let first = added.out.trim_end();
        let keys_now = published(&place).await.unwrap();
        assert_eq!(keys_now.len(), 1);
        assert_eq!((&keys_now[0].proof, keys_now[0].requests_per_minute), (&proof(first), 60));

        let rotated = keys(&place, &["rotate", "alice", "--overlap", "10m"]).await;
        assert_eq!(rotated.code, 0, "{rotated:?}");
        let keys_now = published(&place).await.unwrap();
        let second = rotated.out.trim_end();
        let proofs: Vec<_> = keys_now.iter().map(|key| key.proof.clone()).collect();
        assert_eq!(proofs, [proof(first), proof(second)]);
        let made_at = keys_now[0].not_after - 600;
        assert!(made_at.abs_diff(refresher::clock::now().unix()) < 60, "{keys_now:?}");
        assert_eq!((keys_now[1].not_after, keys_now[1].requests_per_minute), (0, 60));

        let revoked = keys(&place, &["revoke", "alice"]).await;
        assert_eq!(revoked.out, "revoked 2 keys of client alice\n");
        // The last key: one is required all the same, after a restart too.
        assert_eq!(published(&place).await, Some(Vec::new()));
        drop(program);
        let _program = serve(&place, place.command()).await;
        assert_eq!(published(&place).await, Some(Vec::new()));
        let listed = keys(&place, &["list"]).await;
        assert_eq!(listed.out, "no client keys; one is required all the same\n");
    }

    #[tokio::test]
    async fn a_file_that_is_changed_by_hand_is_noticed_and_a_broken_one_opens_nothing() {
        let place = Place::new("http://127.0.0.1:9", "");
        let elsewhere = Place::new("http://127.0.0.1:9", "");
        let key = add(&elsewhere, &["alice"]).await;
        add(&place, &["bob"]).await;
        let _program = serve(&place, place.command()).await;
        let health = async |wanted: &dyn Fn(&Value) -> bool| {
            let search = async {
                loop {
                    let socket = place.socket("serve.sock");
                    let answer = http::ask_socket(&socket, "/health", false, SOON).await.unwrap();
                    let health: Value = serde_json::from_slice(&answer.body).unwrap();
                    let keys = published(&place).await.map(|keys| keys.len());
                    if wanted(&health) {
                        return (health, keys);
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(SOON, search).await.expect("it is noticed")
        };
        std::fs::write(file(&place), "{\"version\": 1, \"keys\": [").unwrap();
        let (health_now, keys_now) = health(&|it| it["client_keys_alarm"].is_string()).await;
        let alarm = health_now["client_keys_alarm"].as_str().unwrap();
        assert!(alarm.contains("client-keys.json.corrupt-"), "{alarm}");
        assert_eq!((keys_now, &health_now["status"]), (Some(0), &"degraded".into()));
        let aside = alarm.split("moved to ").nth(1).unwrap();
        let aside = aside.split_once(". ").unwrap().0;
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{\"version\": 1, \"keys\": [");
        // Put in its place by hand, a good one is found within a second.
        std::fs::copy(file(&elsewhere), place.path().join("new")).unwrap();
        std::fs::rename(place.path().join("new"), file(&place)).unwrap();
        health(&|it| it.get("client_keys_alarm").is_none()).await;
        assert_eq!(published(&place).await.unwrap()[0].proof, proof(&key));
    }

    #[tokio::test]
    async fn a_refresher_of_another_state_is_not_taken_for_ours() {
        let place = Place::new("http://127.0.0.1:9", "");
        let other = Place::new("http://127.0.0.1:9", "");
        let mut command = other.command();
        command.env("LOG_LEVEL", "info");
        let _program = serve(&place, command).await;
        let added = keys(&place, &["add", "alice"]).await;
        assert_eq!(added.code, 1, "{added:?}");
        // The key is stored, so it is shown.
        assert!(added.out.starts_with("tb_"), "{added:?}");
        assert!(added.errors.contains("its client keys are in"), "{added:?}");
        assert_eq!(published(&place).await, None);
    }

    #[tokio::test]
    async fn k06_processes_that_add_at_the_same_time_lose_none() {
        const PROCESSES: usize = 12;
        let place = Place::new("http://127.0.0.1:9", "");
        let start = |number: usize| {
            let name = format!("client-{number}");
            tokio::spawn(finish(keys_command(&place, &["add", &name]), ""))
        };
        let adding: Vec<_> = (0..PROCESSES).map(start).collect();
        let mut digests = Vec::new();
        for one in adding {
            let added = one.await.unwrap();
            assert_eq!(added.code, 0, "{added:?}");
            digests.push(Digest::of(added.out.trim_end().as_bytes()).to_string());
        }
        let text = std::fs::read_to_string(file(&place)).unwrap();
        assert!(digests.iter().all(|digest| text.contains(digest)), "{text}");
        assert_eq!(text.matches("sha256").count(), PROCESSES);
    }
}
