//! The device login (RFC 8628): a code to enter in any browser.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::event::Event;
use super::terminal::{CLEAR, Display, qr, waiting};
use super::{Error, keep};
use crate::config::Config;
use crate::oauth::device::{self, DeviceAuthorization, Poller, Step};
use crate::oauth::{answer, request};
use crate::provider::discovery::{self, Need};
use crate::{chain, clock, http};

/// Logs in by device code. What the user must do is written to `out`.
///
/// # Errors
///
/// See [`Error`].
pub async fn login(
    config: &Config,
    credential: &str,
    display: Display,
    out: &mut impl Write,
) -> Result<(), Error> {
    let drawn = display == Display::Terminal;
    let show = |event: Event<'_>| match event {
        Event::Codes(authorization) => invite(authorization, display, out),
        Event::Waiting { left_s } if drawn => {
            let _ = write!(out, "{}", waiting(left_s));
            let _ = out.flush();
        }
        Event::Authorize(_) | Event::Waiting { .. } | Event::Note(_) => {}
    };
    let result = run(config, credential, show).await;
    if drawn {
        let _ = write!(out, "{CLEAR}");
    }
    result
}

/// The same for anyone who can show a user what to do. Ends without a trace when it is dropped.
///
/// # Errors
///
/// See [`Error`].
pub async fn run(
    config: &Config,
    credential: &str,
    mut tell: impl FnMut(Event<'_>),
) -> Result<(), Error> {
    let store = super::open(config, credential).await?;
    let provider = &config.provider;
    let endpoints = discovery::resolve(provider, Need::Device).await?;
    let Some(endpoint) = &endpoints.device_authorization else {
        return Err(Error::NoEndpoint {
            provider: provider.name.clone(),
            endpoint: "device_authorization_endpoint",
            instead: "set device_authorization_endpoint, or log in without --device",
        });
    };
    let (client, ca_file) = (provider.client(endpoints.auth_method)?, provider.ca_file.as_deref());
    let params = &provider.authorize_params;
    let request = request::authorize_device(endpoint, &client, &provider.scopes, params);
    let authorization = device::read(&http::send(&request, ca_file).await?)?;
    tell(Event::Codes(&authorization));
    let begun_ms = clock::now().boot_ms;
    let mut watch = Watch {
        poller: Poller::new(&authorization, begun_ms),
        end_ms: begun_ms.saturating_add(authorization.life_s.saturating_mul(1000)),
    };
    let request = request::poll_device(&endpoints.token, &client, &authorization.device_code);
    let mut step = watch.poller.wait(begun_ms);
    let result = loop {
        step = match step {
            Step::PollAt(at_ms) => {
                watch.pause(at_ms, &mut tell).await;
                watch.poll(&request, ca_file).await
            }
            Step::Granted(granted) => break Ok(granted),
            Step::Denied => break Err(Error::Denied),
            Step::Expired => break Err(Error::Expired),
            Step::Failed(code) => break Err(Error::Refused(code)),
        };
    };
    keep(config, &store, endpoints, result?).await
}

/// The wait for the user's approval.
struct Watch {
    poller: Poller,
    /// When the codes expire.
    end_ms: u64,
}

impl Watch {
    /// Waits until it is time to poll, and tells each second how much time is left.
    async fn pause(&self, until_ms: u64, tell: &mut impl FnMut(Event<'_>)) {
        loop {
            let now_ms = clock::now().boot_ms;
            let pause_ms = until_ms.saturating_sub(now_ms);
            if pause_ms == 0 {
                return;
            }
            let left_ms = self.end_ms.saturating_sub(now_ms);
            tell(Event::Waiting { left_s: left_ms.div_ceil(1000) });
            tokio::time::sleep(Duration::from_millis(pause_ms.min(1000))).await;
        }
    }

    async fn poll(&mut self, request: &request::Request, ca_file: Option<&Path>) -> Step {
        match http::send(request, ca_file).await {
            Ok(response) => {
                let now = clock::now();
                self.poller.advance(answer::read(&response, now.unix()), now.boot_ms)
            }
            Err(error) => {
                tracing::warn!(error = %chain::line(&error), "a poll brought no answer");
                self.poller.back_off(clock::now().boot_ms)
            }
        }
    }
}

/// A terminal that is gone is no reason to stop: the address may have been read already.
fn invite(authorization: &DeviceAuthorization, display: Display, out: &mut impl Write) {
    let DeviceAuthorization { user_code, verification_uri, verification_uri_complete, .. } =
        authorization;
    let _ = writeln!(out, "open {verification_uri} and enter the code {user_code}");
    if let Some(complete) = verification_uri_complete {
        let _ = writeln!(out, "or open {complete}");
        if let (Display::Terminal, Some(code)) = (display, qr(complete)) {
            let _ = writeln!(out, "\n{code}\n");
        }
    }
    if display == Display::Plain {
        let minutes = authorization.life_s.div_ceil(60);
        let _ = writeln!(out, "waiting for your approval, for at most {minutes} min");
    }
    let _ = out.flush();
}
