//! Getting a grant: by a browser on this machine, or by any browser with a code.

pub mod browser;
pub mod callback;
pub mod device;
pub mod event;
mod listen;
pub mod opener;
pub mod pages;
pub mod terminal;

use std::time::Duration;

use crate::config::Config;
use crate::http;
use crate::oauth::ErrorCode;
use crate::oauth::answer::{self, Answer, Granted, Response};
use crate::oauth::device as device_flow;
use crate::provider::{Endpoints, discovery};
use crate::publish::server::RELOAD_PATH;
use crate::store::{self, Grant, Store, TokenRecord};
use crate::{chain, clock};

/// How long a running refresher may take to hear of a change.
const NOTICE: Duration = Duration::from_secs(2);

/// Why a login did not come about. The grant that was there before is intact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The provider's endpoints are not known.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// The provider has no endpoint for this kind of login.
    #[error("provider {provider} has no {endpoint}; {instead}")]
    NoEndpoint {
        /// Its name.
        provider: String,
        /// What is missing.
        endpoint: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// Nobody could come back to us.
    #[error(
        "ports {ports} of 127.0.0.1, to which the provider can return, are all in use; free one, or log in with --device"
    )]
    PortsBusy {
        /// The registered ports.
        ports: String,
    },
    /// The callback cannot be served.
    #[error("the callback on 127.0.0.1 cannot be served")]
    Listen(#[source] std::io::Error),
    /// The registered redirect is no URL.
    #[error("redirect_path {path:?} does not make a URL; accepted: a path such as /callback")]
    RedirectPath {
        /// The path.
        path: String,
    },
    /// The user or the provider said no.
    #[error("the login was denied")]
    Denied,
    /// The codes or the patience ran out.
    #[error("the login was not completed in time; start it again")]
    Expired,
    /// The user gave up.
    #[error("the login was cancelled")]
    Cancelled,
    /// The provider ended the login.
    #[error("the provider refused the login: {0}")]
    Refused(ErrorCode),
    /// The provider's answer is unusable.
    #[error("the provider's answer is unusable (status {status})")]
    Unusable {
        /// The HTTP status.
        status: u16,
    },
    /// There would be nothing to rotate.
    #[error("the provider granted no refresh token; its scopes may need offline_access")]
    NoRefreshToken,
    /// The device flow did not begin.
    #[error(transparent)]
    Device(#[from] device_flow::Error),
    /// The provider could not be asked.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The grant cannot be stored.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The grant that a token endpoint's answer to a login amounts to.
fn granted(response: &Response) -> Result<Granted, Error> {
    match answer::read(response, clock::now().unix()) {
        Answer::Granted(granted) if granted.access_token.is_some() => Ok(granted),
        Answer::Granted(_) | Answer::Unusable { .. } => {
            Err(Error::Unusable { status: response.status })
        }
        Answer::Error { code, .. } => Err(Error::Refused(code)),
    }
}

/// Opens the store, and looks whether a grant could be kept there, before anybody is asked for one.
async fn open(config: &Config, credential: &str) -> Result<Store, Error> {
    let store = Store::open(config, credential)?;
    match store.lock_within(Duration::ZERO).await {
        Ok(lock) => drop(lock.reserve()?),
        // Whoever has the lock can write there.
        Err(store::Error::Locked { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(store)
}

/// Stores a new grant and tells a running refresher.
async fn keep(
    config: &Config,
    store: &Store,
    endpoints: Endpoints,
    granted: Granted,
) -> Result<(), Error> {
    let refresh_token = granted.refresh_token.ok_or(Error::NoRefreshToken)?;
    // A refresh that is under way ends first, so that the login is the newer one.
    let lock = store.lock().await?;
    let now = clock::now();
    let generation = match store.load(now.unix()) {
        Ok(Some(previous)) => previous.next_generation(now.unix_ms),
        Ok(None) => now.unix_ms,
        Err(error @ store::Error::Corrupt { .. }) => {
            tracing::warn!(error = %chain::line(&error), "replacing an unreadable grant");
            now.unix_ms
        }
        Err(error) => return Err(error.into()),
    };
    let client_id = config.provider.client_id.clone();
    let mut grant =
        Grant::new(endpoints.issuer, endpoints.token, client_id, refresh_token, generation);
    grant.auth_method = endpoints.auth_method;
    grant.scope = granted.scope;
    let record = |token| TokenRecord::new(token, now.unix(), granted.life_s, generation);
    grant.token = granted.access_token.map(record);
    lock.save(&grant)?;
    lock.forget()?;
    drop(lock);
    notify(config).await;
    Ok(())
}

/// Tells a running refresher that a grant has changed. Without one it is found at the next start;
/// a deaf one looks for itself each second.
pub async fn notify(config: &Config) {
    if let Err(error) = http::ask_socket(&config.socket, RELOAD_PATH, true, NOTICE).await {
        tracing::debug!(error = %chain::line(&error), "no running refresher was told");
    }
}
