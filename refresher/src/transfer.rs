//! Moving a login to another machine over ssh: an export goes in on standard input, and `import`
//! takes it from a private temporary file there. No secret is in an argument or the environment.

pub mod script;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::config::Config;
use crate::export;
use script::Restart;

/// What ssh itself ends with when it could not connect or log in.
const SSH_FAILED: i32 = 255;

/// How long what was printed is read after the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to send.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// There is no ssh.
    #[error("ssh is not on PATH; install the OpenSSH client")]
    NoSsh,
    /// It cannot be run.
    #[error("ssh cannot be run")]
    Run(#[source] io::Error),
    /// It does not get there without asking.
    #[error(
        "ssh cannot log in to {host} without asking (its message is above); check with: {check}"
    )]
    Unreachable {
        /// The host.
        host: String,
        /// A command that shows why.
        check: String,
    },
    /// The other side failed.
    #[error("{step} on {host} failed (exit code {code}; its message is above); {state}")]
    Remote {
        /// What was being done.
        step: &'static str,
        /// The host.
        host: String,
        /// The exit code of it.
        code: i32,
        /// What is left as it was, and what is not.
        state: &'static str,
    },
}

/// Where and how to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `user@server` or `server`.
    pub host: Host,
    /// ssh's `-i`.
    pub identity: Option<PathBuf>,
    /// ssh's `-p`.
    pub port: Option<u16>,
}

/// A host that ssh cannot take for anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

/// What a host can be called, in words.
pub const HOST_RULE: &str = "user@server or server, of the characters a-z A-Z 0-9 . _ - : %, \
                             neither part empty or with - in front";

impl Host {
    /// Accepts what [`HOST_RULE`] says, at most 255 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let (user, server) = match text.split_once('@') {
            Some((user, server)) => (Some(user), server),
            None => (None, text),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte);
        let good =
            |part: &str| !part.is_empty() && !part.starts_with('-') && part.bytes().all(allowed);
        let valid = text.len() <= 255 && user.is_none_or(good) && good(server);
        valid.then(|| Self(text.to_owned()))
    }

    /// The host as ssh takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What to do on the other side.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub destination: Destination,
    /// The name of the login, here and there.
    pub credential: String,
    /// How `refresher` is called there, in the words of its shell.
    pub remote_command: String,
    /// Whether a newer login there is replaced.
    pub force: bool,
    /// What to restart after the import.
    pub restart: Option<Restart>,
    /// What must answer after that, as seen from there.
    pub health_url: Option<url::Url>,
}

impl Destination {
    /// ssh's arguments before the command: each on its own, so that no shell here reads them.
    fn arguments(&self, interactive: bool) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = Vec::new();
        if interactive {
            arguments.push("-t".into());
        } else {
            // Nobody is asked for a password on the terminal; and no terminal there.
            arguments.extend(["-o", "BatchMode=yes", "-T"].map(Into::into));
        }
        if let Some(identity) = &self.identity {
            arguments.extend(["-i".into(), identity.as_os_str().to_owned()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        arguments.extend(["--".into(), self.host.as_str().into()]);
        arguments
    }

    /// A line to paste into a shell here that runs `command` there.
    fn line(&self, interactive: bool, command: &str) -> String {
        let words = self.arguments(interactive);
        let mut line = "ssh".to_owned();
        for word in words.iter().map(|word| word.to_string_lossy()).chain([command.into()]) {
            line.push(' ');
            line.push_str(&script::quoted(&word));
        }
        line
    }
}

/// The command that logs in anew on the other side, by a code in any browser.
pub fn reauth_command(plan: &Plan) -> String {
    let credential = script::quoted(&plan.credential);
    let login = format!("{} login --device --credential {credential}", plan.remote_command);
    plan.destination.line(true, &login)
}

/// What happens while a login is on its way.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step begins.
    Begins(&'static str),
    /// The other side has printed this on standard output.
    Printed(&'a [u8]),
    /// The other side, or ssh, has said this on standard error.
    Said(&'a [u8]),
}

/// Exports, sends and imports; then restarts and checks, where that is asked for.
///
/// # Errors
///
/// See [`Error`].
pub async fn run(config: &Config, plan: &Plan, tell: impl Fn(Event<'_>)) -> Result<(), Error> {
    let document = export::document(config, &plan.credential).await?;
    let import = script::import(&plan.remote_command, &plan.credential, plan.force);
    let intact = "nothing was left behind there, and the login here is unchanged";
    step(plan, "the import", &import, &document, intact, &tell).await?;
    if let Some(restart) = &plan.restart {
        let state = "the login is there, but what uses it may not have been restarted";
        step(plan, "the restart", &script::restart(restart), &[], state, &tell).await?;
    }
    if let Some(url) = &plan.health_url {
        let state = "the login is there; see the logs there";
        step(plan, "the health check", &script::health(url), &[], state, &tell).await?;
    }
    Ok(())
}

async fn step(
    plan: &Plan,
    step: &'static str,
    script: &str,
    input: &[u8],
    state: &'static str,
    tell: &impl Fn(Event<'_>),
) -> Result<(), Error> {
    tell(Event::Begins(step));
    let mut child = Command::new("ssh")
        .args(plan.destination.arguments(false))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoSsh,
            _ => Error::Run(error),
        })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let send = async {
        if let Some(mut stdin) = stdin {
            // One that ends early says why by its exit code.
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let printed = relay(stdout, |bytes| tell(Event::Printed(bytes)));
    let said = relay(stderr, |bytes| tell(Event::Said(bytes)));
    let mut talk = std::pin::pin!(async { tokio::join!(send, printed, said) });
    let status = tokio::select! {
        _ = talk.as_mut() => None,
        status = child.wait() => Some(status),
    };
    let status = match status {
        None => child.wait().await,
        // What it has left running may hold its outputs open for long.
        Some(status) => {
            let _ = tokio::time::timeout(FAREWELL, talk).await;
            status
        }
    };
    let status = status.map_err(Error::Run)?;
    let host = || plan.destination.host.as_str().to_owned();
    match status.code() {
        Some(0) => Ok(()),
        Some(SSH_FAILED) => {
            let check = plan.destination.line(false, "true");
            Err(Error::Unreachable { host: host(), check })
        }
        code => Err(Error::Remote { step, host: host(), code: code.unwrap_or(-1), state }),
    }
}

/// Tells what comes, to its end.
async fn relay(from: Option<impl AsyncRead + Unpin>, tell: impl Fn(&[u8])) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 4096];
    while let Ok(read) = from.read(&mut buffer).await {
        match buffer.get(..read) {
            Some(bytes) if read > 0 => tell(bytes),
            _ => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_cannot_be_taken_for_an_option_or_a_command() {
        for good in ["server", "me@server", "a.b-c_d@10.0.0.1", "me@fe80::1%eth0", "S1"] {
            assert_eq!(Host::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "@",
            "me@",
            "@server",
            "-oProxyCommand=x",
            "me@-oX",
            "a b",
            "a;b",
            "a@b@c",
            "$(x)",
            "ssh://me@server",
            "a\nb",
            "a'b",
            "ümlaut",
            &"x".repeat(256),
        ] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
    }

    fn plan() -> Plan {
        Plan {
            destination: Destination {
                host: Host::parse("me@server").unwrap(),
                identity: Some("/keys/my key".into()),
                port: Some(2222),
            },
            credential: "bob".into(),
            remote_command: "~/bin/refresher".into(),
            force: false,
            restart: None,
            health_url: None,
        }
    }

    #[test]
    fn the_command_for_a_new_login_can_be_pasted() {
        assert_eq!(
            reauth_command(&plan()),
            "ssh -t -i '/keys/my key' -p 2222 -- me@server \
             '~/bin/refresher login --device --credential bob'"
        );
    }

    #[test]
    fn ssh_never_asks_and_its_options_end_before_the_host() {
        let arguments = plan().destination.arguments(false);
        let shown: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
        assert_eq!(
            shown,
            ["-o", "BatchMode=yes", "-T", "-i", "/keys/my key", "-p", "2222", "--", "me@server"]
        );
    }

    proptest! {
        #[test]
        fn no_text_is_a_dangerous_host(text in "[-a-z@:;$ ./]{0,12}") {
            if let Some(host) = Host::parse(&text) {
                prop_assert!(!host.as_str().starts_with('-') && !host.as_str().contains("@-"));
                prop_assert!(!host.as_str().contains([';', '$', ' ', '/']));
            }
        }
    }
}
