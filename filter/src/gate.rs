//! Who may pass: the gate's decision as a plain function.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::client::{ClientKey, Proof, identify, identify_certificate};
use crate::headers::{Request, Single};
use crate::model::decoded;
use crate::refusal::Refusal;
use crate::serving::Published;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It may go on: as this client, or as anybody where no keys are set.
    Admit(Option<&'a Rc<ClientKey>>),
    /// It is answered here.
    Refuse(Refusal),
    /// The same, of a client that is known.
    Forbid(&'a Rc<ClientKey>, Refusal),
    /// The first bundle has to arrive before this can be decided.
    AwaitBundle,
}

/// The client keys in force.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Those of the plugin configuration.
    pub configured: &'a [Rc<ClientKey>],
    /// Those of the bundle.
    pub published: Published<'a>,
}

impl<'a> Keys<'a> {
    fn iter(self) -> impl Iterator<Item = &'a Rc<ClientKey>> + Clone {
        let published = match self.published {
            Published::Managed(keys) => keys,
            Published::Awaited | Published::Unmanaged => &[],
        };
        self.configured.iter().chain(published)
    }

    /// Whether a key has to be presented; not known before the first bundle, unless the plugin
    /// configuration says so.
    fn are_required(self) -> Option<bool> {
        match self.published {
            _ if !self.configured.is_empty() => Some(true),
            Published::Managed(_) => Some(true),
            Published::Unmanaged => Some(false),
            Published::Awaited => None,
        }
    }
}

/// What the connection of a request tells; each is a host call, made only when it matters.
pub trait Connection {
    /// The address on which it was accepted: `127.0.0.1:9996`, or a path for a unix socket.
    fn local_address(&self) -> Option<Vec<u8>>;

    /// The subject alternative names of the client's certificate, if Envoy has verified one.
    fn certificate_names(&self) -> Vec<Vec<u8>>;
}

/// Decides about a request. `now` is in Unix seconds.
pub fn decide<'a>(
    keys: Keys<'a>,
    request: &Request<'_>,
    now: u64,
    connection: &impl Connection,
) -> Decision<'a> {
    // Methods are case-sensitive (RFC 9110, section 9.1), but not every server knows that.
    let refused = [b"CONNECT".as_slice(), b"TRACE", b"TRACK"];
    let is_refused = refused.iter().any(|method| request.method.eq_ignore_ascii_case(method));
    if is_refused || request.is_odd_upgrade {
        return Decision::Refuse(Refusal::METHOD_NOT_ALLOWED);
    }
    if !is_canonical(request.path) {
        return Decision::Refuse(Refusal::AMBIGUOUS_PATH);
    }
    match keys.are_required() {
        Some(true) => authenticate(keys, request, now, connection),
        Some(false) => guard_loopback(request, connection.local_address()),
        None => Decision::AwaitBundle,
    }
}

fn authenticate<'a>(
    keys: Keys<'a>,
    request: &Request<'_>,
    now: u64,
    connection: &impl Connection,
) -> Decision<'a> {
    let places = [request.proxy_api_key, request.authorization, request.subprotocol_key];
    if places.contains(&Single::Repeated) {
        return Decision::Refuse(Refusal::INVALID_CLIENT_KEY);
    }
    let presented = [
        request.proxy_api_key.value(),
        bearer_token(request.authorization),
        request.subprotocol_key.value(),
    ];
    // All are looked at, whichever holds.
    let identified = presented.map(|key| key.and_then(|key| identify(keys.iter(), key, now)));
    let client = identified.into_iter().flatten().next();
    match client.or_else(|| certified(keys, now, connection)) {
        Some(client) if !client.allows_path(request.path) => {
            Decision::Forbid(client, Refusal::PATH_NOT_ALLOWED)
        }
        Some(client) => Decision::Admit(Some(client)),
        None if keys.published == Published::Awaited => Decision::AwaitBundle,
        None => Decision::Refuse(Refusal::INVALID_CLIENT_KEY),
    }
}

fn certified<'a>(
    keys: Keys<'a>,
    now: u64,
    connection: &impl Connection,
) -> Option<&'a Rc<ClientKey>> {
    if !keys.iter().any(|key| matches!(key.proof, Proof::Certificate(_))) {
        return None;
    }
    identify_certificate(keys.iter(), &connection.certificate_names(), now)
}

/// The token of `Authorization: Bearer …`; the scheme in any case (RFC 9110, section 11.1).
pub(crate) fn bearer_token(authorization: Single<'_>) -> Option<&[u8]> {
    let value = authorization.value()?;
    let (scheme, token) = value.split_at_checked("bearer".len())?;
    let separated = token.first().is_some_and(|byte| *byte == b' ');
    let token = token.trim_ascii_start();
    (separated && scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// `.`, `/`, `;`, `\` and NUL, escaped, and the beginning of what lenient decoders take for one of
/// them (RFC 3629, section 10).
const ESCAPES: [&[u8]; 9] =
    [b"%2e", b"%2f", b"%3b", b"%5c", b"%00", b"%c0", b"%c1", b"%e0%80", b"%f0%80"];

/// Whether everybody reads the same path. What one server normalises and the next does not would
/// make a key's path list, and the routes of Envoy, mean something else than they say.
fn is_canonical(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    // Some servers cut the parameters off a segment (`..;a=b`) before they look at its dots.
    let dots = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".." || name.is_empty() && !segment.is_empty()
    };
    // Once or twice.
    let has = |path: &[u8], escape: &[u8]| {
        path.windows(escape.len()).any(|window| window.eq_ignore_ascii_case(escape))
    };
    let has_escape = |path: &[u8]| ESCAPES.iter().any(|escape| has(path, escape));
    let is_escaped = path.contains(&b'%') && (has_escape(path) || has_escape(&decoded(path)));
    // RFC 3986, section 2: all other bytes have to be escaped.
    let is_plain = path.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\');
    is_plain && !is_escaped && !has(path, b"//") && !path.split(|byte| *byte == b'/').any(dots)
}

/// Without client keys, whoever reaches the listener uses the account. So the listener must be on
/// loopback, and a web page in the user's own browser must not be able to use it either: neither
/// through a name of its own that resolves to loopback (DNS rebinding), nor across origins.
fn guard_loopback<'a>(request: &Request<'_>, local_address: Option<Vec<u8>>) -> Decision<'a> {
    if !local_address.is_some_and(|address| is_local_socket(&address)) {
        return Decision::Refuse(Refusal::CLIENT_KEYS_REQUIRED);
    }
    if !is_loopback_authority(request.authority) {
        return Decision::Refuse(Refusal::MISDIRECTED);
    }
    let foreign_origin = match request.origin {
        Single::Absent => false,
        Single::Value(origin) => !is_loopback_origin(origin),
        Single::Repeated => true,
    };
    let cross_site = match request.fetch_site {
        Single::Absent => false,
        Single::Value(site) => ![b"same-origin".as_slice(), b"same-site", b"none"].contains(&site),
        Single::Repeated => true,
    };
    if foreign_origin || cross_site {
        return Decision::Refuse(Refusal::CROSS_SITE);
    }
    Decision::Admit(None)
}

/// A socket's own address: loopback, or the path of a unix socket.
fn is_local_socket(address: &[u8]) -> bool {
    address.starts_with(b"/")
        || address.starts_with(b"@")
        || str::from_utf8(host(address)).is_ok_and(is_loopback_address)
}

fn is_loopback_authority(authority: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host(authority)) else {
        return false;
    };
    // RFC 6761, section 6.3: these names are loopback wherever they are resolved.
    host.eq_ignore_ascii_case("localhost") || is_loopback_address(host)
}

fn is_loopback_address(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => {
            host.parse().is_ok_and(|address: Ipv6Addr| address.to_canonical().is_loopback())
        }
        None => host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

fn is_loopback_origin(origin: &[u8]) -> bool {
    [b"http://".as_slice(), b"https://"]
        .iter()
        .find_map(|scheme| origin.strip_prefix(*scheme))
        .is_some_and(is_loopback_authority)
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`; anything else is left as it is.
fn host(authority: &[u8]) -> &[u8] {
    let port = authority.iter().rposition(|byte| *byte == b':');
    match port.and_then(|colon| authority.split_at_checked(colon)) {
        Some((host, port)) if port.iter().skip(1).all(u8::is_ascii_digit) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests;
