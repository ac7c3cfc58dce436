//! The real program as a process of its own: its files in a directory of the test's, its
//! environment empty, its socket known.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use filter::bundle::{Bundle, Credential};
use refresher::config::{Config, Overrides, resolve};
use refresher::http;
use refresher::secret::Secret;
use refresher::store::{Grant, Store, TokenRecord};
use serde_json::Value;
use url::Url;

use super::SOON;

/// A configuration file and a state directory.
pub struct Place {
    pub config: Config,
    directory: tempfile::TempDir,
}

impl Place {
    /// For the provider at this address. `extra` is TOML for its table, `DIRECTORY` in it this
    /// place's own.
    pub fn new(url: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let extra = extra.replace("DIRECTORY", directory.path().to_str().unwrap());
        let upstream = Url::parse(url).unwrap().origin().ascii_serialization();
        let document = format!(
            "provider = \"demo\"\n[rotation]\nspacing = 1\n\
             [providers.demo]\nissuer = \"{url}\"\nupstream = \"{upstream}\"\n{extra}\n"
        );
        std::fs::write(directory.path().join("config.toml"), &document).unwrap();
        let state_dir = Some(directory.path().join("state"));
        let flags = Overrides { state_dir, ..Overrides::default() };
        let config = resolve(&document, &flags, &|_| None).unwrap();
        Self { config, directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The program with this place's configuration, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refresher"));
        self.complete(&mut command);
        command
    }

    /// The same under another program, which runs what it is told to.
    pub fn command_under(&self, program: &str, arguments: &[String]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_refresher"));
        self.complete(&mut command);
        command
    }

    fn complete(&self, command: &mut Command) {
        command
            .env_clear()
            .env("LOG_LEVEL", "debug")
            .arg("--config")
            .arg(self.path().join("config.toml"))
            .arg("--state-dir")
            .arg(&self.config.state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    }

    pub fn store(&self) -> Store {
        Store::open(&self.config, "default").unwrap()
    }

    pub fn stored(&self) -> Option<Grant> {
        self.store().load(0).unwrap()
    }

    /// Stores a grant from the provider's answer, its access token past its end, so that a refresh
    /// is due at once.
    pub async fn plant(&self, url: &str, answer: &Value) -> Grant {
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        let mut grant = Grant::new(
            Some(url.to_owned()),
            format!("{url}/oauth2/token").parse().unwrap(),
            self.config.provider.client_id.clone(),
            Secret::new(text("refresh_token")),
            1_000,
        );
        grant.token = Some(TokenRecord {
            access_token: text("access_token").parse().unwrap(),
            obtained_at: 1_000,
            expires_at: 2_000,
            generation: 1_000,
        });
        self.store().lock().await.unwrap().save(&grant).unwrap();
        grant
    }
}

/// A running program, killed when dropped.
pub struct Program {
    pub child: Child,
    pub socket: PathBuf,
}

impl Program {
    /// Starts `serve`.
    pub fn serve(mut command: Command, socket: PathBuf) -> Self {
        let child = command.arg("--socket").arg(&socket).arg("serve").spawn().unwrap();
        Self { child, socket }
    }

    /// The state of the default credential, if the program serves.
    pub async fn state(&self) -> Option<Credential> {
        let path = "/v1/bundle?generation=0&wait=0";
        let answer = http::ask_socket(&self.socket, path, false, SOON).await.ok()?;
        Bundle::parse(&answer.body).ok()?.credentials.get("default").cloned()
    }

    /// Waits for a state that is wanted, or for the program's end.
    pub async fn settle(&mut self, wanted: impl Fn(&Credential) -> bool) -> Option<Credential> {
        let search = async {
            loop {
                if let Some(state) = self.state().await.filter(|state| wanted(state)) {
                    return Some(state);
                }
                if self.child.try_wait().unwrap().is_some() {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), search).await.expect("settles soon")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
