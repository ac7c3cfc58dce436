//! The order in which a refresh reaches the disk, the provider and the filters, as the kernel saw
//! it: what a power cut leaves depends on nothing else.

#[cfg(test)]
#[expect(dead_code, reason = "each test program uses its part")]
mod harness;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use filter::bundle::Credential;
    use refresher::http;
    use simulator::{Options, Simulator};

    use super::harness::SOON;
    use super::harness::program::{Place, Program};

    /// Calls that order the disk, and the one that reaches the provider.
    const TRACE: &str = "trace=fsync,fdatasync,renameat,renameat2,connect";

    /// Where, from `from` on, the first line is that has all of these in it.
    fn find(lines: &[&str], from: usize, parts: &[&str]) -> usize {
        let has = |line: &&str| parts.iter().all(|part| line.contains(part));
        let found = lines.iter().skip(from).position(has);
        from + found.unwrap_or_else(|| panic!("no {parts:?} from {from} on:\n{lines:#?}"))
    }

    #[tokio::test]
    async fn the_intent_is_on_disk_before_the_request_and_the_successor_before_its_publication() {
        let strace = Command::new("strace").arg("-V").output();
        assert!(strace.is_ok(), "strace is missing: apt-get install strace");
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        let log = place.path().join("calls");
        // With the paths of descriptors.
        let arguments = ["-f", "-qq", "-y", "-o", log.to_str().unwrap(), "-e", TRACE];
        let arguments = arguments.map(str::to_owned);
        let socket = place.socket("s");
        let mut program = Program::serve(place.command_under("strace", &arguments), socket);
        program.settle(|state| matches!(state, Credential::Ready(_))).await.unwrap();
        let children = format!("/proc/{0}/task/{0}/children", program.child.id());
        for pid in std::fs::read_to_string(children).unwrap().split_whitespace() {
            Command::new("kill").args(["-TERM", pid]).status().unwrap();
        }
        program.child.wait().unwrap();

        let log = std::fs::read_to_string(log).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        let port = simulator.url().rsplit(':').next().unwrap();
        let provider = format!("htons({port})");
        let asked = find(&lines, 0, &["connect(", &provider]);
        let mut from = 0;
        for (name, before) in [("default.json.intent", Some(asked)), ("default.json", None)] {
            let draft = format!(".demo.{name}.new");
            let (written, target) = (format!("{draft}>"), format!("\"demo.{name}\""));
            let synced = find(&lines, from, &["fsync(", &written]);
            let renamed = find(&lines, synced, &["renameat", &draft, &target]);
            from = find(&lines, renamed, &["fsync(", "/state/grants>"]);
            assert!(before.is_none_or(|before| from < before), "{name}:\n{log}");
        }
        assert!(asked < from);
        // Each publication stores its generation; the first was before there was a token.
        find(&lines, from, &["renameat", "\"generation\""]);
        let publications = lines.iter().filter(|line| line.contains("\"generation\"")).count();
        assert_eq!(publications, 2, "{log}");
    }

    /// The grant itself would fit, but more than that is reserved: a limit on the size of files is
    /// as good as a full disk, and harms nobody else.
    #[tokio::test]
    async fn without_room_for_the_successor_the_grant_is_not_spent() {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let place = Place::new(simulator.url(), "");
        let planted = place.plant(simulator.url(), &simulator.control().issue_grant()).await;
        // 16 KiB, or 32 as some shells count, and an error where the limit would else kill.
        let limited = "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\"".to_owned();
        let socket = place.socket("s");
        let mut program =
            Program::serve(place.command_under("sh", &["-c".to_owned(), limited]), socket.clone());
        let refused = async {
            loop {
                let health = http::ask_socket(&socket, "/health", false, SOON).await;
                let text = health.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
                if text.is_ok_and(|text| text.contains("reserve room for its successor")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, refused).await.expect("an alarm that names the reason");
        let state = program.settle(|_| true).await.unwrap();
        assert!(matches!(state, Credential::Unavailable { .. }), "{state:?}");
        assert_eq!(simulator.control().summary().refresh_requests, 0);
        assert_eq!(place.stored(), Some(planted));
    }
}
