//! Which endpoints a provider has: those that the configuration states, and for the rest what the
//! issuer publishes.

use std::time::Duration;

use url::Url;

use crate::oauth::request;
use crate::provider::metadata::{self, Metadata, addresses, name};
use crate::provider::{Endpoints, Provider};
use crate::{chain, http};

/// How long an issuer is waited for whose metadata could be done without.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a provider's endpoints are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metadata could not be fetched.
    #[error("metadata at {asked} cannot be fetched; to do without, {remedy}")]
    Http {
        /// Where they were looked for.
        asked: String,
        /// What to do instead.
        remedy: String,
        /// Why.
        source: http::Error,
    },
    /// The issuer's answers are no metadata of it.
    #[error("no usable metadata at {asked}; to do without, {remedy}")]
    Unusable {
        /// Where they were looked for, and what is wrong with them.
        asked: String,
        /// What to do instead.
        remedy: String,
    },
    /// The metadata lack what is needed.
    #[error("metadata of {issuer} have no token_endpoint; {remedy}")]
    NoTokenEndpoint {
        /// The issuer.
        issuer: String,
        /// What to do instead.
        remedy: String,
    },
    /// There is nobody to ask.
    #[error("provider {provider} has no issuer to ask for its endpoints; {remedy}")]
    NoIssuer {
        /// The provider's name.
        provider: String,
        /// What to do instead.
        remedy: String,
    },
}

/// What is to be done, and so which endpoints must be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To exchange a grant.
    Exchange,
    /// To log in by browser.
    Browser,
    /// To log in by device code.
    Device,
    /// To end a grant.
    Revocation,
}

impl Need {
    /// The endpoints that it takes and the configuration does not state, by their settings' names.
    fn missing(self, provider: &Provider) -> Vec<&'static str> {
        let token = ("token_endpoint", provider.token_endpoint.is_none());
        let needed = match self {
            Self::Exchange => vec![token],
            Self::Browser => {
                vec![("authorization_endpoint", provider.authorization_endpoint.is_none()), token]
            }
            Self::Device => {
                let device = provider.device_authorization_endpoint.is_none();
                vec![("device_authorization_endpoint", device), token]
            }
            Self::Revocation => {
                vec![("revocation_endpoint", provider.revocation_endpoint.is_none())]
            }
        };
        needed.into_iter().filter(|(_, missing)| *missing).map(|(setting, _)| setting).collect()
    }

    /// What makes discovery unnecessary.
    fn remedy(self, provider: &Provider) -> String {
        let missing = self.missing(provider);
        let settings =
            if missing.is_empty() { "nothing more".into() } else { missing.join(" and ") };
        format!("set {settings} in [providers.{}]", provider.name)
    }
}

/// The endpoints of a provider, as far as `need` takes them.
///
/// The issuer is asked for what the configuration leaves open. Where the configuration states
/// everything that is needed now, an issuer that does not answer, or with rubbish, is no failure.
///
/// # Errors
///
/// See [`Error`].
pub async fn resolve(provider: &Provider, need: Need) -> Result<Endpoints, Error> {
    let remedy = || need.remedy(provider);
    let stated = provider.token_endpoint.as_ref().filter(|_| need.missing(provider).is_empty());
    let found = match (&provider.issuer, stated) {
        (None, _) => None,
        (Some(issuer), None) => Some(fetch(provider, issuer, need, http::DEADLINE).await?),
        (Some(_), Some(_)) if is_complete(provider) => None,
        (Some(issuer), Some(_)) => match fetch(provider, issuer, need, PATIENCE).await {
            Ok(found) => Some(found),
            Err(error) => {
                let error = chain::line(&error);
                tracing::warn!(%error, "going by the configured endpoints alone");
                None
            }
        },
    };
    let token = provider.token_endpoint.clone();
    let token = token.or_else(|| found.as_ref().and_then(|found| found.token.clone()));
    let token = token.ok_or_else(|| match &found {
        Some(found) => Error::NoTokenEndpoint { issuer: found.issuer.clone(), remedy: remedy() },
        None => Error::NoIssuer { provider: provider.name.clone(), remedy: remedy() },
    })?;
    let configured = configured(provider, token);
    Ok(match found {
        Some(found) => completed(configured, found),
        None => configured,
    })
}

/// Whether the configuration states what either login takes. Then the issuer is never asked.
fn is_complete(provider: &Provider) -> bool {
    provider.authorization_endpoint.is_some() && provider.device_authorization_endpoint.is_some()
}

/// Where a provider ends grants, if it does. Asks the issuer only where the configuration leaves
/// that open.
///
/// # Errors
///
/// See [`Error`].
pub async fn revocation_endpoint(provider: &Provider) -> Result<Option<Url>, Error> {
    match (&provider.revocation_endpoint, &provider.issuer) {
        (Some(configured), _) => Ok(Some(configured.clone())),
        (None, Some(issuer)) => {
            let found = fetch(provider, issuer, Need::Revocation, http::DEADLINE).await?;
            Ok(found.revocation)
        }
        (None, None) => Ok(None),
    }
}

/// What the configuration alone says of a provider with this token endpoint.
pub fn configured(provider: &Provider, token: Url) -> Endpoints {
    Endpoints {
        issuer: provider.issuer.as_ref().map(name),
        names_issuer: false,
        authorization: provider.authorization_endpoint.clone(),
        token,
        device_authorization: provider.device_authorization_endpoint.clone(),
        revocation: provider.revocation_endpoint.clone(),
        auth_method: None,
    }
}

fn completed(stated: Endpoints, found: Metadata) -> Endpoints {
    Endpoints {
        issuer: Some(found.issuer),
        names_issuer: found.names_issuer,
        authorization: stated.authorization.or(found.authorization),
        token: stated.token,
        device_authorization: stated.device_authorization.or(found.device_authorization),
        revocation: stated.revocation.or(found.revocation),
        auth_method: found.auth_method,
    }
}

/// Asks the issuer, at its second address where there is nothing at the first.
async fn fetch(
    provider: &Provider,
    issuer: &Url,
    need: Need,
    deadline: Duration,
) -> Result<Metadata, Error> {
    let mut asked = Vec::new();
    for address in addresses(issuer) {
        let request = request::fetch(address.clone());
        let answer = http::send_within(&request, provider.ca_file.as_deref(), deadline).await;
        let answer = answer.map_err(|source| {
            asked.push(address.to_string());
            Error::Http { asked: asked.join(" and "), remedy: need.remedy(provider), source }
        })?;
        match metadata::read(&answer, issuer) {
            Ok(found) => return Ok(found),
            Err(reason) => {
                let elsewhere = matches!(reason, metadata::Error::Nowhere { .. });
                asked.push(format!("{address} ({reason})"));
                if !elsewhere {
                    break;
                }
            }
        }
    }
    Err(Error::Unusable { asked: asked.join(" and "), remedy: need.remedy(provider) })
}
