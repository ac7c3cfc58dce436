//! The tokens and the client keys: whether they hold.

use filter::bundle::DEFAULT_CREDENTIAL;

use super::report::Finding;
use crate::chain;
use crate::config::Config;
use crate::keys::{Ring, file, listing::State};
use crate::overview::Overview;
use crate::publish::health::Status;
use crate::status::lines::MEND_STORE;
use crate::status::lines::login;
use crate::status::words::{count, span};
use crate::store::{self, Grant, Store};

/// A credential that is stored, read without mending anything.
#[derive(Debug)]
pub(super) struct Stored {
    name: String,
    grant: Result<Option<Grant>, store::Error>,
}

/// Reads what is stored; the default credential first, whether there is one or not.
pub(super) fn stored(config: &Config) -> Vec<Stored> {
    let mut names = Store::credentials(config);
    names.retain(|name| name != DEFAULT_CREDENTIAL);
    names.insert(0, DEFAULT_CREDENTIAL.to_owned());
    let read = |name: String| Stored {
        grant: store::peek(&Store::place(config, &name))
            .map(|grant| grant.map(|it| own(config, it))),
        name,
    };
    names.into_iter().map(read).collect()
}

/// A predecessor's file may leave the client to the provider's settings.
fn own(config: &Config, mut grant: Grant) -> Grant {
    if grant.client_id.is_empty() {
        grant.client_id.clone_from(&config.provider.client_id);
    }
    grant
}

impl Stored {
    /// The grant, if there is one.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref().ok()?.as_ref()
    }

    /// Whether there is a grant that can be used.
    pub(super) fn holds(&self, config: &Config) -> bool {
        self.grant().is_some_and(|it| it.verdict.is_none() && config.provider.granted(it))
    }
}

/// What a running refresher, else the files, say of the tokens.
pub(super) fn tokens(
    config: &Config,
    overview: Option<&Overview>,
    stored: &[Stored],
    unix: u64,
) -> Vec<Finding> {
    let provider = &config.provider.name;
    match overview {
        Some(overview) => {
            let credentials = overview.health.credentials.iter();
            credentials.map(|(name, status)| served(provider, name, status, unix)).collect()
        }
        None => stored.iter().map(|stored| kept(config, stored, unix)).collect(),
    }
}

fn served(provider: &str, name: &str, status: &Status, unix: u64) -> Finding {
    let command = login(provider, name);
    let left = status.expires_at.and_then(|at| at.checked_sub(unix)).map(span);
    let reason = status.reason.as_deref().unwrap_or("unknown");
    if let Some(alarm) = &status.alarm {
        let says = format!("{name}: alarm: {alarm}");
        return Finding::fail(says, MEND_STORE);
    }
    let failure = status.oauth_refresh.last_refresh_error_class.as_deref();
    match (status.state.as_str(), left) {
        ("ready", Some(left)) if status.oauth_reauth_required => {
            let says =
                format!("{name}: ready, but the login has ended: its token expires in {left}");
            Finding::warn(says, command)
        }
        ("ready", Some(left)) => match failure {
            Some(class) => {
                let says =
                    format!("{name}: ready, expires in {left}; the last refresh failed ({class})");
                Finding::warn(says, "nothing: it is tried again; see the check of the provider")
            }
            None => {
                let generation = status.generation.unwrap_or_default();
                let says = format!("{name}: ready, expires in {left}, generation {generation}");
                Finding::ok(says)
            }
        },
        ("login_required", _) => {
            Finding::login(format!("{name}: no login that holds ({reason})"), command)
        }
        ("unavailable", _) => {
            let class = failure.unwrap_or(reason);
            let says = format!("{name}: expired, and the provider does not renew it now ({class})");
            Finding::fail(says, "nothing: it is tried again; see the check of the provider")
        }
        (state, _) => Finding::fail(format!("{name}: {state} ({reason})"), "refresher status"),
    }
}

fn kept(config: &Config, stored: &Stored, unix: u64) -> Finding {
    let name = &stored.name;
    let command = login(&config.provider.name, name);
    let grant = match &stored.grant {
        Err(error) => {
            let remedy = format!("mend the file, or log in anew: {command}");
            return Finding::fail(format!("{name}: {}", chain::line(error)), remedy);
        }
        Ok(None) => return Finding::login(format!("{name}: never logged in"), command),
        Ok(Some(grant)) => grant,
    };
    if let Some(verdict) = &grant.verdict {
        let says = format!("{name}: the provider has ended the login ({})", verdict.reason);
        return Finding::login(says, command);
    }
    if !config.provider.granted(grant) {
        let says = format!("{name}: the grant is of another provider or client than the settings");
        return Finding::login(says, command);
    }
    let token = grant.token.as_ref();
    let left = token.and_then(|token| token.expires_at.checked_sub(unix)).filter(|&left| left > 0);
    Finding::ok(match (left, token) {
        (Some(left), Some(token)) => {
            format!("{name}: logged in, expires in {}, generation {}", span(left), token.generation)
        }
        _ => format!("{name}: logged in; the token has expired and is renewed at the start"),
    })
}

/// Whether a client key is required, and what there is to say of them.
pub(super) fn keys(config: &Config, overview: Option<&Overview>, unix: u64) -> (Finding, bool) {
    const ADD: &str = "refresher keys add NAME";
    if let Some(alarm) = overview.and_then(|it| it.health.client_keys_alarm.as_ref()) {
        return (Finding::fail(format!("alarm: {alarm}"), "refresher keys list"), true);
    }
    let path = config.state_dir.join(file::NAME);
    let ring = match store::peek_bytes(&path) {
        Err(error) => {
            return (Finding::fail(chain::line(&error), "mend the file's permissions"), true);
        }
        Ok(None) => None,
        Ok(Some(bytes)) => match Ring::parse(&bytes) {
            Ok(ring) => Some(ring),
            Err(_) => {
                let says =
                    format!("{}: is not a list of client keys of this release", path.display());
                return (Finding::fail(says, format!("move it away, then: {ADD}")), true);
            }
        },
    };
    let required = ring.is_some() || !config.client_keys.is_empty();
    let made = ring.iter().flat_map(Ring::entries).map(|entry| &entry.key);
    let all: Vec<_> = config.client_keys.iter().chain(made).collect();
    let valid = all.iter().filter(|key| State::of(key, unix) == State::Valid).count();
    let (valid, all) = (u64::try_from(valid).unwrap_or(0), u64::try_from(all.len()).unwrap_or(0));
    let host = config.listener.host;
    let finding = match (required, valid) {
        (false, _) if !host.is_loopback() => {
            Finding::fail(format!("none, while the listener {host} is not on loopback"), ADD)
        }
        (false, _) => Finding::ok("none, and none is needed on loopback"),
        (true, 0) => Finding::fail("one is required, and none is valid now", ADD),
        (true, _) if valid < all => {
            Finding::warn(format!("{valid} of {all} are valid now"), "refresher keys list")
        }
        (true, _) => Finding::ok(format!("{} valid", count(valid, "is", "are"))),
    };
    (finding, required)
}
