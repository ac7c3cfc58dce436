//! A provider, a configuration and a sidecar for one test, in this process.

pub mod program;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use filter::bundle::{Bundle, Credential, Token};
use refresher::config::{Config, Overrides, resolve};
use refresher::login::device;
use refresher::login::terminal::Display;
use refresher::serve::{self, Sidecar};
use refresher::store::{Grant, Store};
use reqwest::StatusCode;
use serde_json::{Value, json};
use simulator::{Control, Options, Simulator};

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(10);

pub struct World {
    pub simulator: Simulator,
    pub config: Arc<Config>,
    pub directory: tempfile::TempDir,
}

impl World {
    pub async fn new(options: Options) -> Self {
        Self::with(options, "").await
    }

    /// `extra` is TOML for the provider's table.
    pub async fn with(options: Options, extra: &str) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let url = simulator.url();
        let document = format!(
            "provider = \"demo\"\n[rotation]\nspacing = 1\n\
             [providers.demo]\nissuer = \"{url}\"\nupstream = \"{url}\"\n{extra}\n"
        );
        let state_dir = Some(directory.path().join("state"));
        let flags = Overrides { state_dir, ..Overrides::default() };
        let config = Arc::new(resolve(&document, &flags, &|_| None).unwrap());
        Self { simulator, config, directory }
    }

    /// A provider and a login at it.
    pub async fn logged_in(token_life: u64) -> Self {
        let world =
            Self::new(Options { token_life, approve_device: true, ..Options::default() }).await;
        world.log_in().await;
        world
    }

    pub async fn log_in(&self) {
        device::login(&self.config, "default", Display::Plain, &mut std::io::sink()).await.unwrap();
    }

    pub fn control(&self) -> &Control {
        self.simulator.control()
    }

    pub async fn serve(&self) -> Peer {
        Peer::start(self.config.clone()).await
    }

    pub fn store(&self) -> Store {
        Store::open(&self.config, "default").unwrap()
    }

    pub fn stored(&self) -> Grant {
        self.store().load(0).unwrap().unwrap()
    }

    /// No grant was ever spent twice.
    pub fn assert_honest(&self) {
        assert_eq!(self.control().summary().spent_twice, 0);
    }
}

/// A running sidecar and a client on its socket.
pub struct Peer {
    sidecar: Sidecar,
    client: reqwest::Client,
}

impl Peer {
    pub async fn start(config: Arc<Config>) -> Self {
        let socket: PathBuf = config.socket.clone();
        let sidecar = serve::start(config).await.unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        Self { sidecar, client }
    }

    pub async fn stop(self) {
        self.sidecar.stop().await;
    }

    pub fn reconfigure(&self, config: Config) {
        self.sidecar.reconfigure(Arc::new(config));
    }

    pub async fn poll(&self, generation: u64, wait: u64) -> Option<Bundle> {
        let url = format!("http://localhost/v1/bundle?generation={generation}&wait={wait}");
        let answer = self.client.get(url).send().await.unwrap();
        match answer.status() {
            StatusCode::OK => Some(Bundle::parse(&answer.bytes().await.unwrap()).unwrap()),
            status => {
                assert_eq!(status, StatusCode::NO_CONTENT);
                None
            }
        }
    }

    pub async fn state(&self) -> Credential {
        self.poll(0, 5).await.unwrap().credentials.get("default").unwrap().clone()
    }

    /// The published token.
    pub async fn token(&self) -> Token {
        match self.state().await {
            Credential::Ready(token) => token,
            other => panic!("not ready: {other:?}"),
        }
    }

    /// Waits for a token of another generation than this.
    pub async fn token_after(&self, generation: u64) -> Token {
        self.await_state(
            |state| matches!(state, Credential::Ready(token) if token.generation > generation),
        )
        .await;
        self.token().await
    }

    pub async fn await_state(&self, wanted: impl Fn(&Credential) -> bool) -> Credential {
        let search = async {
            let mut generation = 0;
            loop {
                if let Some(bundle) = self.poll(generation, 5).await {
                    generation = bundle.generation;
                    if let Some(state) = bundle.credentials.get("default").filter(|s| wanted(s)) {
                        return state.clone();
                    }
                }
            }
        };
        tokio::time::timeout(SOON, search).await.expect("the state comes soon")
    }

    pub async fn reject(&self, generation: u64) -> (u16, Value) {
        let body = json!({"credential": "default", "generation": generation, "status": 401});
        self.post("/v1/rejections", body.to_string()).await
    }

    pub async fn post(&self, path: &str, body: String) -> (u16, Value) {
        let request = self.client.post(format!("http://localhost{path}")).body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("http://localhost{path}")).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Waits until the health has what is wanted.
    pub async fn await_health(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let search = async {
            loop {
                let (_, health) = self.get("/health").await;
                if wanted(&health) {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, search).await.expect("the health comes soon")
    }
}

/// A place for a login to write to while the test reads it.
#[derive(Clone, Default)]
pub struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits for a line that begins so, and returns its rest.
    pub async fn line(&self, beginning: &str) -> String {
        let search = async {
            loop {
                let text = self.text();
                if let Some(rest) = text.lines().find_map(|line| line.strip_prefix(beginning)) {
                    return rest.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, search).await.expect("the line comes soon")
    }
}

/// Ports that are free now.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
