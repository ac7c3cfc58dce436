//! The device login (RFC 8628): a code to enter in any browser.

use std::io::Write;
use std::time::Duration;

use super::{Error, keep};
use crate::config::Config;
use crate::oauth::device::{self, DeviceAuthorization, Poller, Step};
use crate::oauth::{answer, request};
use crate::provider::discovery;
use crate::store::Store;
use crate::{chain, clock, http};

/// Logs in by device code. What the user must do is written to `out`.
///
/// # Errors
///
/// See [`Error`].
pub async fn login(config: &Config, credential: &str, out: &mut impl Write) -> Result<(), Error> {
    let store = Store::open(config, credential)?;
    let provider = &config.provider;
    let endpoints = discovery::resolve(provider).await?;
    let Some(endpoint) = &endpoints.device_authorization else {
        return Err(Error::NoEndpoint {
            provider: provider.name.clone(),
            endpoint: "device_authorization_endpoint",
            instead: "log in without --device",
        });
    };
    let request = request::authorize_device(endpoint, &provider.client_id, &provider.scopes);
    let authorization = device::read(&http::send(&request).await?)?;
    tell(&authorization, out);
    let mut poller = Poller::new(&authorization, clock::now().boot_ms);
    let request =
        request::poll_device(&endpoints.token, &provider.client_id, &authorization.device_code);
    let mut step = poller.wait(clock::now().boot_ms);
    loop {
        step = match step {
            Step::PollAt(at_ms) => {
                let pause = at_ms.saturating_sub(clock::now().boot_ms);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                poll(&mut poller, &request).await
            }
            Step::Granted(granted) => return keep(config, &store, endpoints, granted).await,
            Step::Denied => return Err(Error::Denied),
            Step::Expired => return Err(Error::Expired),
            Step::Failed(code) => return Err(Error::Refused(code)),
        };
    }
}

async fn poll(poller: &mut Poller, request: &request::Request) -> Step {
    match http::send(request).await {
        Ok(response) => {
            let now = clock::now();
            poller.advance(answer::read(&response, now.unix()), now.boot_ms)
        }
        Err(error) => {
            tracing::warn!(error = %chain::line(&error), "a poll brought no answer");
            poller.wait(clock::now().boot_ms)
        }
    }
}

/// A terminal that is gone is no reason to stop: the address may have been read already.
fn tell(authorization: &DeviceAuthorization, out: &mut impl Write) {
    let DeviceAuthorization { user_code, verification_uri, verification_uri_complete, .. } =
        authorization;
    let _ = writeln!(out, "open {verification_uri} and enter the code {user_code}");
    if let Some(complete) = verification_uri_complete {
        let _ = writeln!(out, "or open {complete}");
    }
    let minutes = authorization.life_s.div_ceil(60);
    let _ = writeln!(out, "waiting for your approval, for at most {minutes} min");
    let _ = out.flush();
}
