//! A simulated OAuth provider and OpenAI-style API on one loopback listener, as strict as the
//! strictest real provider.
//!
//! It knows one user and one public client. Refresh tokens rotate on each use, and one that is
//! presented twice ends its family; the [`Control::ledger`] shows every presentation. All state is
//! in memory. There is no TLS and no HTTP/2. Tokens are in no log, no `Debug` and no echo.
//!
//! # The provider
//!
//! Discovery, `/oauth2/authorize` with a consent page, `/oauth2/token`, `/oauth2/device/code` with
//! the page `/device`, and `/oauth2/revoke`.
//!
//! # The API
//!
//! Every other path. It takes exactly one live access token.
//!
//! | Path | What it answers |
//! |---|---|
//! | `GET /v1/models`, `GET /v1/models/{id}` | the models |
//! | `POST /v1/chat/completions`, `POST /v1/responses` | an answer, with `stream` as events; `x_chunks` and `x_delay_ms` in the body say how many pieces and how far apart |
//! | any method, `/echo…`, `/v1/echo…` | what arrived |
//! | `POST /v1/body` | the body as it came; from the query `status`, `content_type`, `content_encoding`, and `chunk` (bytes of a piece) or `split` (bytes of the first of two), `delay_ms` apart |
//! | `GET /v1/realtime` | a WebSocket that sends back what it gets |
//! | `GET`, `POST /v1/status/{code}` | that status; from the query `body`, `content_type`, `retry_after` |
//!
//! # The control endpoint
//!
//! JSON in and out, without authentication. Answers have `ok`; a refused order has status 400 or
//! 404 and `error`.
//!
//! | Request under `/_control` | What it does |
//! |---|---|
//! | `GET /ledger` | `{"spent_twice": n, "entries": [`[`LedgerEntry`]`…]}` |
//! | `GET /requests` | `{"entries": [`[`RequestEntry`]`…]}` |
//! | `GET /summary` | [`Summary`] |
//! | `GET /secrets` | `{"secrets": [`[`Control::secrets`]`…]}` |
//! | `POST /clear` | [`Control::clear`] |
//! | `POST /kill` `{"jti"?: …}` | [`Control::kill_access_token`], [`Control::kill_jti`]; answers `killed` |
//! | `POST /revoke_all` | [`Control::revoke_all`]; answers `revoked` |
//! | `POST /device/approve`, `POST /device/deny` `{"user_code"?: …}` | [`Control::approve_device`], [`Control::deny_device`] |
//! | `POST /dead_token` `{"as": "unauthorized" \| "forbidden" \| "forbidden_old"}` | [`Control::set_dead_token`] |
//! | `POST /token_life` `{"seconds": n}` | [`Control::set_token_life`] |
//! | `POST /stream` `{"chunks": n, "delay_ms": n}` | [`Control::set_stream`] |
//! | `POST /grant` | [`Control::issue_grant`]: a token answer |
//! | `POST /fault` [`Fault`] | [`Control::set_fault`] |
//! | `DELETE /fault` | [`Control::clear_faults`], all of them |

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod api;
mod authorization;
mod body;
mod clock;
mod completion;
mod control;
mod device;
mod digest;
mod endpoint;
mod fault;
mod form;
mod jwt;
mod listener;
mod log;
mod page;
mod realtime;
mod state;
#[cfg(test)]
mod tests;
mod token;

pub use control::Control;
pub use fault::{Fault, Mode, Target};
pub use log::{KEPT_ENTRIES, LedgerEntry, RequestEntry, Summary};

/// How a simulator is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to listen; a free port of 127.0.0.1 by default.
    pub listen: SocketAddr,
    /// What others call it, where something stands in between, such as a TLS server; by default
    /// where it listens.
    pub url: Option<String>,
    /// Life of an access token in seconds; 21600, six hours, by default.
    pub token_life: u64,
    /// Approves device logins at once; not by default.
    pub approve_device: bool,
    /// Approves authorization requests at once, without the consent page; not by default.
    pub approve_consent: bool,
    /// Seconds between two polls of a device login; 1 by default.
    pub device_interval: u64,
    /// Life of a device login in seconds; 600 by default.
    pub device_life: u64,
    /// The one registered client; `torchbearer-demo` by default.
    pub client_id: String,
    /// Its redirect URIs, compared as strings; by default `http://127.0.0.1:PORT/callback` for
    /// the ports 56121, 56122 and 56123.
    pub redirect_uris: Vec<String>,
    /// How the API answers a dead token.
    pub dead_token: DeadToken,
    /// Pieces of an answer unless the request says; 8 by default.
    pub stream_chunks: u64,
    /// Milliseconds between two events unless the request says; 0 by default.
    pub stream_delay_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        let callback = |port: u16| format!("http://127.0.0.1:{port}/callback");
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            url: None,
            token_life: 21_600,
            approve_device: false,
            approve_consent: false,
            device_interval: 1,
            device_life: 600,
            client_id: "torchbearer-demo".to_owned(),
            redirect_uris: [56121, 56122, 56123].map(callback).to_vec(),
            dead_token: DeadToken::default(),
            stream_chunks: 8,
            stream_delay_ms: 0,
        }
    }
}

/// How the API answers a token that is missing, expired, killed, revoked or not ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadToken {
    /// Status 401 in OpenAI's shape, with `WWW-Authenticate`.
    #[default]
    Unauthorized,
    /// Status 403 as xAI has it: `{"code": "unauthenticated:bad-credentials", "error": …}`.
    Forbidden,
    /// Status 403 as xAI had it: the code is at the start of the text in `error`.
    ForbiddenOld,
}

/// Listens with room for so many connections that nobody has accepted yet: an Envoy opens many at
/// once, and one that finds no room waits a second.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// A running simulator; it stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    control: Control,
    server: JoinHandle<()>,
}

impl Simulator {
    /// Binds the listener and serves on the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or the system has no randomness.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = listen(options.listen)?;
        let (mut key, mut seed) = ([0; 64], [0; 32]);
        getrandom::fill(&mut key).and_then(|()| getrandom::fill(&mut seed))?;
        let address = listener.local_addr()?;
        let url = options.url.clone().unwrap_or_else(|| format!("http://{address}"));
        let shared = Arc::new(Shared {
            address,
            url,
            client_id: options.client_id.clone(),
            key: jwt::Key::new(key),
            changed: watch::Sender::default(),
            state: Mutex::new(state::State::new(options, seed)),
        });
        let server = tokio::spawn(listener::serve(listener, Arc::clone(&shared)));
        Ok(Self { control: Control(shared), server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.control.0.address
    }

    /// `http://127.0.0.1:PORT` unless [`Options::url`] says otherwise: the issuer, and the base of
    /// the API.
    pub fn url(&self) -> &str {
        &self.control.0.url
    }

    /// The handle to steer it with.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What every connection shares.
pub(crate) struct Shared {
    address: SocketAddr,
    url: String,
    client_id: String,
    key: jwt::Key,
    changed: watch::Sender<()>,
    state: Mutex<state::State>,
}

impl Shared {
    /// Runs `act` on the state with the time in Unix milliseconds.
    fn look<T>(&self, act: impl FnOnce(&state::State, u64) -> T) -> T {
        act(&self.lock(), clock::now_ms())
    }

    /// The same for an act that changes something, and wakes who waits for a change.
    fn change<T>(&self, act: impl FnOnce(&mut state::State, u64) -> T) -> T {
        let result = act(&mut self.lock(), clock::now_ms());
        self.changed.send_replace(());
        result
    }

    fn lock(&self) -> MutexGuard<'_, state::State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
