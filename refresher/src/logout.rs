//! Giving a grant back: the provider revokes it (RFC 7009), and the store forgets it.

use url::Url;

use crate::config::Config;
use crate::oauth::request;
use crate::provider::discovery;
use crate::store::{self, Grant, Store};
use crate::{chain, clock, http, login};

/// How a logout ended. In every case no grant is left here.
#[derive(Debug)]
pub enum Farewell {
    /// There was none.
    Nothing,
    /// The provider has revoked it.
    Revoked,
    /// The provider does not know: what was granted lives there until it expires or is revoked by
    /// hand.
    Untold(Untold),
}

/// Why a provider could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// Where to tell it cannot be found out.
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    /// It does not offer that.
    #[error("provider {provider} has no revocation_endpoint")]
    NoEndpoint {
        /// Its name.
        provider: String,
    },
    /// The grant is not of the configured provider and client, so it is nothing to show to them.
    #[error("the grant is of another provider or client than {provider}")]
    OtherProvider {
        /// The configured provider's name.
        provider: String,
    },
    /// The client's secret cannot be read.
    #[error("the client secret cannot be read")]
    Secret(#[source] store::Error),
    /// It could not be asked.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// It refused.
    #[error("the provider did not revoke the grant (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
}

/// Revokes and forgets the grant of a credential, and tells a running refresher.
///
/// # Errors
///
/// When the store cannot be locked, read or changed; the grant is still there then.
pub async fn run(config: &Config, credential: &str) -> Result<Farewell, store::Error> {
    let store = Store::open(config, credential)?;
    // A refresh that is under way ends first, and none begins with a grant that is being revoked.
    let lock = store.lock().await?;
    let grant = match store.load(clock::now().unix())? {
        Some(stored) => Some(lock.recover(&stored)?.unwrap_or(stored)),
        None => None,
    };
    let farewell = match &grant {
        None => Farewell::Nothing,
        Some(grant) => match revoke(config, grant).await {
            Ok(()) => Farewell::Revoked,
            Err(reason) => Farewell::Untold(reason),
        },
    };
    lock.remove()?;
    drop(lock);
    if grant.is_some() {
        login::notify(config).await;
    }
    Ok(farewell)
}

/// Has the refresh token revoked, and with it, at a provider that follows the advice of RFC 7009,
/// section 2.1, the access tokens of the same grant.
async fn revoke(config: &Config, grant: &Grant) -> Result<(), Untold> {
    let provider = &config.provider;
    let mut grant = grant.clone();
    if grant.client_id.is_empty() {
        grant.client_id.clone_from(&provider.client_id);
    }
    if !provider.granted(&grant) {
        return Err(Untold::OtherProvider { provider: provider.name.clone() });
    }
    let endpoint: Url = discovery::revocation_endpoint(provider)
        .await?
        .ok_or_else(|| Untold::NoEndpoint { provider: provider.name.clone() })?;
    let client = provider.client_of(&grant).map_err(Untold::Secret)?;
    let request = request::revoke(&endpoint, &client, &grant.refresh_token);
    match http::send(&request, provider.ca_file.as_deref()).await?.status {
        200 => Ok(()),
        status => Err(Untold::Refused { status }),
    }
}

impl Farewell {
    /// What to tell the user.
    pub fn line(&self, credential: &str, provider: &str) -> String {
        match self {
            Self::Nothing => format!("credential {credential} of {provider} is not logged in"),
            Self::Revoked => {
                format!("logged out of {provider}: credential {credential} is revoked")
            }
            Self::Untold(reason) => format!(
                "credential {credential} is forgotten here, but {provider} was not told: {}; end \
                 the session in the account's settings",
                chain::line(reason)
            ),
        }
    }
}
