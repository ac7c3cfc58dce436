//! What runs on the other side, as text for whatever shell its user has: each script is one quoted
//! argument of `sh`.

use url::Url;

/// What to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// A systemd unit, the user's if there is one of that name, else the system's.
    Unit(String),
    /// A command of the remote shell.
    Command(String),
}

impl Restart {
    /// One word of a unit's characters is a unit; anything else is a command. Nothing for text
    /// that is empty or not of one line.
    pub fn parse(text: &str) -> Option<Self> {
        if !is_command(text) {
            return None;
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"@._:-".contains(&byte);
        let unit = text.bytes().all(allowed) && !text.starts_with('-');
        Some(if unit { Self::Unit(text.to_owned()) } else { Self::Command(text.to_owned()) })
    }
}

/// Whether this can be a command: one line that is not blank.
pub fn is_command(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(char::is_control)
}

/// Takes standard input into a private temporary file and imports that. The file goes in every
/// case: on success, on failure, and when a signal ends the shell.
pub fn import(command: &str, credential: &str, force: bool) -> String {
    let credential = quoted(credential);
    let force = if force { " --force" } else { "" };
    shell(&format!(
        "umask 077\n\
         f=\n\
         trap 'rm -f -- \"$f\"' EXIT\n\
         trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 141' PIPE; trap 'exit 143' TERM\n\
         f=$(mktemp \"${{TMPDIR:-/tmp}}/torchbearer.XXXXXXXX\") || exit 1\n\
         cat >\"$f\" || exit 1\n\
         {command} import --from torchbearer --credential {credential}{force} \"$f\"\n"
    ))
}

/// Restarts what uses the login.
pub fn restart(restart: &Restart) -> String {
    match restart {
        Restart::Command(command) => shell(command),
        Restart::Unit(unit) => {
            let unit = quoted(unit);
            shell(&format!(
                "if systemctl --user cat -- {unit} >/dev/null 2>&1\n\
                 then systemctl --user restart -- {unit}\n\
                 else systemctl restart -- {unit}\n\
                 fi\n"
            ))
        }
    }
}

/// Asks until the address answers with success, for about half a minute.
pub fn health(url: &Url) -> String {
    let url = quoted(url.as_str());
    shell(&format!(
        "ask() {{\n\
         if command -v curl >/dev/null 2>&1; then curl -fsS -m 5 -o /dev/null -- {url}\n\
         else wget -q -T 5 -O /dev/null -- {url}; fi\n\
         }}\n\
         n=1\n\
         until ask 2>/dev/null; do\n\
         if [ \"$n\" -ge 15 ]; then ask; exit 1; fi\n\
         n=$((n + 1)); sleep 2\n\
         done\n"
    ))
}

/// A call of `sh`, whatever shell reads it.
fn shell(script: &str) -> String {
    format!("sh -c {}", quoted(script))
}

/// One word for a shell, in quotes unless it needs none.
pub fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@._:/=+-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn output(script: &str) -> std::process::Output {
        Command::new("sh").arg("-c").arg(script).output().unwrap()
    }

    #[test]
    fn a_word_is_a_unit_and_a_sentence_is_a_command() {
        let unit = |name: &str| Some(Restart::Unit(name.to_owned()));
        for (text, expected) in [
            ("torchbearer", unit("torchbearer")),
            ("torchbearer@bob.service", unit("torchbearer@bob.service")),
            ("docker restart proxy", Some(Restart::Command("docker restart proxy".to_owned()))),
            ("/opt/restart", Some(Restart::Command("/opt/restart".to_owned()))),
            ("-x", Some(Restart::Command("-x".to_owned()))),
            ("", None),
            ("  ", None),
            ("a\nb", None),
        ] {
            assert_eq!(Restart::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_restart_passes_its_exit_code_on() {
        let restart = |command: &str| restart(&Restart::parse(command).unwrap());
        assert_eq!(output(&restart("exit 7")).status.code(), Some(7));
        assert_eq!(output(&restart("test \"it's\" = \"it's\"")).status.code(), Some(0));
    }

    #[test]
    fn the_import_leaves_no_file_and_passes_its_exit_code_on() {
        let directory = tempfile::tempdir().unwrap();
        let run = |command: &str| {
            let mut child = Command::new("sh")
                .arg("-c")
                .arg(import(command, "bob", false))
                .env("TMPDIR", directory.path())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"the document").unwrap();
            let output = child.wait_with_output().unwrap();
            let left = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(left, 0, "{command}");
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(run("false").0, Some(1));
        assert_eq!(run("exit 9;").0, Some(9));
        assert_eq!(run("kill -TERM $$;").0, Some(143));
        // Not HUP: where this test runs detached from a terminal it is ignored, and a shell cannot
        // trap what was ignored before it began.
        let (code, shown) = run("stat -c %a \"$f\"; cat \"$f\"; echo");
        assert_eq!(code, Some(0));
        assert!(shown.starts_with("600\nthe document"), "{shown}");
        assert!(shown.contains("import --from torchbearer --credential bob"), "{shown}");
    }

    #[test]
    fn the_health_check_ends_well_as_soon_as_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let curl = directory.path().join("curl");
        std::fs::write(&curl, "#!/bin/sh\nfor last; do :; done\n[ \"$last\" = http://h/health ]\n")
            .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&curl, mode).unwrap();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        let check = health(&"http://h/health".parse().unwrap());
        let status = Command::new("sh").arg("-c").arg(check).env("PATH", path).status().unwrap();
        assert!(status.success());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_word_survives_two_shells(word in "[^\\x00]{0,30}") {
            let script = shell(&format!("printf %s {}", quoted(&word)));
            prop_assert_eq!(output(&script).stdout, word.into_bytes());
        }
    }
}
