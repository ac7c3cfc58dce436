//! The login in a browser on this machine (RFC 8252): PKCE and a loopback callback, or a code
//! pasted into the terminal.

use std::io::{BufRead, IsTerminal as _, Read as _, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::callback::{self, Callback, Expected};
use super::event::{Event, Note};
use super::listen::{self, Arrival};
use super::pages::Page;
use super::{Error, granted, keep, opener};
use crate::config::Config;
use crate::http;
use crate::oauth::authorize::{self, Attempt, Client};
use crate::oauth::{Words, request};
use crate::provider::discovery::Need;
use crate::provider::{Endpoints, discovery};
use crate::secret::Secret;
use crate::store::Store;

/// How long a login waits for the user unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the browser may take to fetch its last page.
const FAREWELL: Duration = Duration::from_secs(2);

/// How to log in.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether to open a browser, besides printing the address.
    pub open: bool,
    /// How long to wait for the user.
    pub timeout: Duration,
}

/// Logs in by browser. What the user must do is written to `out`; what the user pastes is read
/// from the terminal, if there is one.
///
/// # Errors
///
/// See [`Error`].
pub async fn login(
    config: &Config,
    credential: &str,
    options: Options,
    out: &mut impl Write,
) -> Result<(), Error> {
    let terminal = std::io::stdin().is_terminal();
    let paste = terminal.then(|| std::io::BufReader::new(std::io::stdin()));
    login_with_paste(config, credential, options, paste, out).await
}

/// The same with pasted lines from anywhere.
///
/// # Errors
///
/// See [`Error`].
pub async fn login_with_paste(
    config: &Config,
    credential: &str,
    options: Options,
    paste: Option<impl BufRead + Send + 'static>,
    out: &mut impl Write,
) -> Result<(), Error> {
    let can_paste = paste.is_some();
    let show = |event: Event<'_>| match event {
        Event::Authorize(url) => invite(url, options, can_paste, out),
        // A terminal that is gone is no reason to stop: the browser may be open already.
        Event::Note(note) => drop(writeln!(out, "{note}")),
        Event::Codes(_) | Event::Waiting { .. } => {}
    };
    run(config, credential, options.timeout, paste.map(lines), show).await
}

/// The same for anyone who can show a user what to do. Ends without a trace when it is dropped.
///
/// # Errors
///
/// See [`Error`].
pub async fn run(
    config: &Config,
    credential: &str,
    timeout: Duration,
    pasted: Option<mpsc::Receiver<Vec<u8>>>,
    mut tell: impl FnMut(Event<'_>),
) -> Result<(), Error> {
    let store = super::open(config, credential).await?;
    let provider = &config.provider;
    let endpoints = discovery::resolve(provider, Need::Browser).await?;
    let Some(endpoint) = endpoints.authorization.clone() else {
        return Err(Error::NoEndpoint {
            provider: provider.name.clone(),
            endpoint: "authorization_endpoint",
            instead: "set authorization_endpoint, or log in with --device",
        });
    };
    let (listener, port) = listen::bind(&provider.redirect_ports).await?;
    // The literal address, as RFC 8252, section 7.3, asks for and providers register it.
    let redirect_uri = format!("http://127.0.0.1:{port}{}", provider.redirect_path);
    let attempt = Attempt::fresh();
    let client = Client {
        id: &provider.client_id,
        scopes: &provider.scopes,
        params: &provider.authorize_params,
        redirect_uri: &redirect_uri,
    };
    let url = authorize::url(&endpoint, &client, &attempt)
        .ok_or_else(|| Error::RedirectPath { path: provider.redirect_path.clone() })?;
    let expected = Arc::new(Expected {
        path: provider.redirect_path.clone(),
        state: attempt.state.clone(),
        issuer: endpoints.issuer.clone(),
        names_issuer: endpoints.names_issuer,
    });
    let (arrivals, mut arrived) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let origins = origins(config, &endpoints, &endpoint);
    let serving = listen::serve(listener, expected.clone(), origins, arrivals, ended);
    let serving = tokio::spawn(serving);
    tell(Event::Authorize(&url));

    let waiting = wait(&mut arrived, pasted, &expected, &mut tell);
    let (callback, reply) =
        tokio::time::timeout(timeout, waiting).await.map_err(|_| Error::Expired)?;
    if let Callback::Refused(_, Some(description)) = &callback {
        tell(Event::Note(Note::Refused(description)));
    }
    let redemption = Redemption { config, store: &store, endpoints, redirect_uri: &redirect_uri };
    let result = redemption.conclude(callback, &attempt.code_verifier).await;
    let page = match &result {
        Ok(()) => Page::LoggedIn,
        Err(Error::Denied) => Page::Denied,
        Err(_) => Page::Failed,
    };
    // A browser that has gone needs no page.
    let _ = reply.map(|reply| reply.send(page));
    let _ = end.send(());
    // Who called meanwhile, often the same browser again, is told the same.
    let others = async {
        while let Some((callback, reply)) = arrived.recv().await {
            let other = matches!(callback, Callback::OtherIssuer(_));
            let _ = reply.send(if other { Page::OtherIssuer } else { page });
        }
    };
    // Only a courtesy to the browser: the login stands or falls without it.
    let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(serving, others) }).await;
    result
}

struct Redemption<'a> {
    config: &'a Config,
    store: &'a Store,
    endpoints: Endpoints,
    redirect_uri: &'a str,
}

impl Redemption<'_> {
    async fn conclude(self, callback: Callback, code_verifier: &Secret) -> Result<(), Error> {
        let code = match callback {
            Callback::Code(code) => code,
            Callback::Refused(Some(code), _) if code.as_str() != "access_denied" => {
                return Err(Error::Refused(code));
            }
            _ => return Err(Error::Denied),
        };
        let provider = &self.config.provider;
        let client = provider.client(self.endpoints.auth_method)?;
        let request = request::redeem_code(
            &self.endpoints.token,
            &client,
            &code,
            self.redirect_uri,
            code_verifier,
        );
        let granted = granted(&http::send(&request, provider.ca_file.as_deref()).await?)?;
        keep(self.config, self.store, self.endpoints, granted).await
    }
}

/// The pages that may call the callback from a script: the provider's own.
fn origins(config: &Config, endpoints: &Endpoints, authorization: &Url) -> Arc<[String]> {
    let issuer = endpoints.issuer.as_deref().and_then(|issuer| Url::parse(issuer).ok());
    let own = issuer.iter().chain([authorization]).map(|url| url.origin().ascii_serialization());
    own.chain(config.provider.callback_origins.iter().cloned()).collect()
}

/// Waits for a callback or a pasted line that ends the login.
async fn wait(
    arrived: &mut mpsc::Receiver<Arrival>,
    mut pasted: Option<mpsc::Receiver<Vec<u8>>>,
    expected: &Expected,
    tell: &mut impl FnMut(Event<'_>),
) -> (Callback, Option<oneshot::Sender<Page>>) {
    let refuse = |named: Option<&Words>, tell: &mut dyn FnMut(Event<'_>)| {
        let issuer = expected.issuer.as_deref().unwrap_or_default();
        tell(Event::Note(Note::OtherIssuer { named, issuer }));
    };
    loop {
        tokio::select! {
            Some((callback, reply)) = arrived.recv() => {
                let Callback::OtherIssuer(named) = callback else {
                    return (callback, Some(reply));
                };
                refuse(named.as_ref(), tell);
                // A browser that has gone needs no page.
                let _ = reply.send(Page::OtherIssuer);
            }
            Some(line) = next_line(&mut pasted) => {
                match callback::judge_pasted(&line, expected) {
                    Callback::OtherAttempt => {
                        tell(Event::Note(Note::OtherAttempt));
                    }
                    Callback::OtherIssuer(named) => {
                        refuse(named.as_ref(), tell);
                    }
                    Callback::NotFound => {}
                    callback => return (callback, None),
                }
            }
        }
    }
}

async fn next_line(pasted: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match pasted {
        Some(lines) => match lines.recv().await {
            Some(line) => Some(line),
            // The terminal has ended; the browser can still come back.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The longest line that is read in one piece, in bytes. What is longer is no code of anybody's.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// The lines of the terminal. The thread is left behind at the end: a read cannot be called off.
fn lines(mut terminal: impl BufRead + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let read = terminal.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            if read.is_err() || line.is_empty() || sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn invite(url: &Url, options: Options, can_paste: bool, out: &mut impl Write) {
    let opened = options.open && opener::open(url.as_str());
    let first = if opened { "your browser should open; if not, open" } else { "open" };
    // A terminal that is gone is no reason to stop: the browser may be open already.
    let _ = writeln!(out, "{first} {url}");
    let minutes = options.timeout.as_secs().div_ceil(60);
    let _ = writeln!(out, "waiting for your browser, for at most {minutes} min");
    if can_paste {
        let _ = writeln!(out, "or paste the code, or the address you end on, here:");
    }
    let _ = out.flush();
}
