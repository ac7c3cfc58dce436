//! Which headers may pass, in one table with the reason beside each row, and what the plugin
//! configuration adds to it or takes from it.
//!
//! Names are compared as Envoy delivers them (lower case) and, should a host deliver something
//! else, after normalising: lower case, `_` as `-`. Values are bytes and never decoded.

use std::borrow::Cow;

use serde::Deserialize;

/// Why a header does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Belongs to one connection (RFC 9110, section 7.6.1).
    HopByHop,
    /// A credential of the client's, ours or another system's.
    Credential,
    /// State that a browser or a client keeps for another origin.
    Cookie,
    /// Tells where a request came from, or is believed by some servers to tell where it goes.
    Forwarding,
    /// Steers or describes a proxy.
    Proxy,
    /// Answers have to be readable to find a refused token and to count usage.
    Encoding,
    /// Speaks for the API's own address, which a client of the proxy does not know.
    Origin,
    /// The plugin configuration says so.
    Configured,
}

impl Reason {
    /// Whether the plugin configuration can let such a header pass. What credits the client, holds
    /// for one connection only, or steers a proxy never does.
    fn is_negotiable(self) -> bool {
        matches!(self, Self::Cookie | Self::Forwarding | Self::Encoding | Self::Origin)
    }
}

/// Request headers that never leave, sorted by name.
const REQUEST: &[(&str, Reason)] = &[
    ("accept-encoding", Reason::Encoding),
    ("api-key", Reason::Credential),
    ("apikey", Reason::Credential),
    ("authorization", Reason::Credential),
    ("cdn-loop", Reason::Forwarding),
    ("client-cert", Reason::Credential),
    ("client-cert-chain", Reason::Credential),
    ("client-ip", Reason::Forwarding),
    ("connection", Reason::HopByHop),
    ("cookie", Reason::Cookie),
    ("cookie2", Reason::Cookie),
    ("dpop", Reason::Credential),
    ("early-data", Reason::Forwarding),
    ("fastly-client-ip", Reason::Forwarding),
    ("fly-client-ip", Reason::Forwarding),
    ("forwarded", Reason::Forwarding),
    ("front-end-https", Reason::Forwarding),
    ("http2-settings", Reason::HopByHop),
    ("keep-alive", Reason::HopByHop),
    ("max-forwards", Reason::Proxy),
    ("ocp-apim-subscription-key", Reason::Credential),
    ("private-token", Reason::Credential),
    ("proxy-authenticate", Reason::HopByHop),
    ("proxy-authorization", Reason::Credential),
    ("proxy-connection", Reason::HopByHop),
    ("remote-user", Reason::Credential),
    ("sec-token-binding", Reason::Credential),
    ("te", Reason::HopByHop),
    ("trailer", Reason::HopByHop),
    ("transfer-encoding", Reason::HopByHop),
    ("true-client-ip", Reason::Forwarding),
    ("upgrade", Reason::HopByHop),
    ("via", Reason::Forwarding),
    ("x-access-token", Reason::Credential),
    ("x-api-key", Reason::Credential),
    ("x-arr-clientcert", Reason::Credential),
    ("x-auth-token", Reason::Credential),
    ("x-authorization", Reason::Credential),
    ("x-azure-clientip", Reason::Forwarding),
    ("x-azure-socketip", Reason::Forwarding),
    ("x-client-cert", Reason::Credential),
    ("x-client-ip", Reason::Forwarding),
    ("x-cluster-client-ip", Reason::Forwarding),
    ("x-csrf-token", Reason::Credential),
    ("x-csrftoken", Reason::Credential),
    ("x-forward-for", Reason::Forwarding),
    ("x-forwarded", Reason::Forwarding),
    ("x-goog-api-key", Reason::Credential),
    ("x-host", Reason::Forwarding),
    ("x-http-host-override", Reason::Forwarding),
    ("x-http-method", Reason::Proxy),
    ("x-http-method-override", Reason::Proxy),
    ("x-id-token", Reason::Credential),
    ("x-jwt-assertion", Reason::Credential),
    ("x-method-override", Reason::Proxy),
    ("x-original-forwarded-for", Reason::Forwarding),
    ("x-original-host", Reason::Forwarding),
    ("x-original-method", Reason::Proxy),
    ("x-original-path", Reason::Forwarding),
    ("x-original-proto", Reason::Forwarding),
    ("x-original-uri", Reason::Forwarding),
    ("x-original-url", Reason::Forwarding),
    ("x-originating-ip", Reason::Forwarding),
    ("x-override-url", Reason::Forwarding),
    ("x-proxy-api-key", Reason::Credential),
    ("x-proxyuser-ip", Reason::Forwarding),
    ("x-real-ip", Reason::Forwarding),
    ("x-refresh-token", Reason::Credential),
    ("x-remote-addr", Reason::Forwarding),
    ("x-remote-ip", Reason::Forwarding),
    ("x-remote-user", Reason::Credential),
    ("x-rewrite-url", Reason::Forwarding),
    ("x-scheme", Reason::Forwarding),
    ("x-session-token", Reason::Credential),
    ("x-url-scheme", Reason::Forwarding),
    ("x-vault-token", Reason::Credential),
    ("x-xsrf-token", Reason::Credential),
];

/// Families of request headers that never leave, sorted, none the beginning of another.
const REQUEST_PREFIXES: &[(&str, Reason)] = &[
    ("cf-", Reason::Forwarding),
    ("ssl-client-", Reason::Credential),
    ("x-amz-security-", Reason::Credential),
    ("x-amzn-oidc-", Reason::Credential),
    ("x-appengine-", Reason::Forwarding),
    ("x-auth-request-", Reason::Credential),
    ("x-envoy-", Reason::Proxy),
    ("x-forwarded-", Reason::Forwarding),
    ("x-goog-authenticated-user-", Reason::Credential),
    ("x-goog-iap-", Reason::Credential),
    ("x-ms-client-principal", Reason::Credential),
    ("x-ssl-client-", Reason::Credential),
    ("x-torchbearer-", Reason::Proxy),
    ("x-vercel-", Reason::Forwarding),
];

/// Response headers that do not reach the client, sorted by name.
const RESPONSE: &[(&str, Reason)] = &[
    ("alt-svc", Reason::Origin),
    ("clear-site-data", Reason::Origin),
    ("connection", Reason::HopByHop),
    ("keep-alive", Reason::HopByHop),
    ("proxy-authenticate", Reason::HopByHop),
    ("proxy-authorization", Reason::HopByHop),
    ("proxy-connection", Reason::HopByHop),
    ("set-cookie", Reason::Cookie),
    ("set-cookie2", Reason::Cookie),
    ("te", Reason::HopByHop),
    ("trailer", Reason::HopByHop),
    ("transfer-encoding", Reason::HopByHop),
    ("upgrade", Reason::HopByHop),
];

/// Families of response headers that do not reach the client, in the same way.
const RESPONSE_PREFIXES: &[(&str, Reason)] =
    &[("x-envoy-", Reason::Proxy), ("x-torchbearer-", Reason::Proxy)];

/// The private response header by which a bearer asks the router for the one replay.
pub const REPLAY: &str = "x-torchbearer-replay";

/// The one forwarding header that Envoy's router reads: without it no route is found. So it stays
/// until the routes have been looked at, and is removed by the bearer.
pub const ROUTED_BY: &str = "x-forwarded-proto";

/// The beginning of a WebSocket subprotocol by which browsers, which cannot set `authorization`
/// there, hand an API key over.
const SUBPROTOCOL_KEY: &[u8] = b"openai-insecure-api-key.";

/// Over HTTP/2 a handshake has no nonce (RFC 8441, section 5), over HTTP/1.1, which leads to the
/// API, it has. It is for a client to know that its peer speaks the protocol and is no secret.
const HANDSHAKE_NONCE: &[u8] = b"VG9yY2hiZWFyZXIgaDIvaA==";

/// The tables with what the plugin configuration changes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "Wire")]
pub struct Policy {
    /// Normalised names, with `*` at the end as a wildcard.
    strip: Vec<String>,
    /// Normalised names.
    keep: Vec<String>,
}

/// Which headers pass.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Headers"))]
#[serde(deny_unknown_fields)]
struct Wire {
    /// Names to strip besides those of the table, `*` at the end as a wildcard.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[A-Za-z0-9_-]+\*?$"))))]
    strip: Vec<String>,
    /// Names of the table that pass: cookies, forwarding headers, `accept-encoding`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(inner(regex(pattern = r"^[A-Za-z0-9_-]+$"))))]
    keep: Vec<String>,
}

/// Why the tables cannot be changed in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Not the name of a header.
    #[error("{0:?} is no header name; accepted: letters, digits and -, in strip with * at the end")]
    Name(String),
    /// It is not stripped, or must be.
    #[error("{0:?} cannot be kept; accepted: cookies, forwarding headers and accept-encoding")]
    Keep(String),
}

impl TryFrom<Wire> for Policy {
    type Error = InvalidPolicy;

    fn try_from(wire: Wire) -> Result<Self, InvalidPolicy> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        for name in &wire.strip {
            if !is_name(name.strip_suffix('*').unwrap_or(name)) {
                return Err(InvalidPolicy::Name(name.clone()));
            }
        }
        for name in &wire.keep {
            let reasons = [request_reason(name), response_reason(name)];
            let negotiable = reasons.into_iter().flatten().all(Reason::is_negotiable);
            if reasons == [None, None] || !negotiable || normalised(name) == ROUTED_BY {
                return Err(InvalidPolicy::Keep(name.clone()));
            }
        }
        let normal = |names: Vec<String>| {
            names.into_iter().map(|name| normalised(&name).into_owned()).collect()
        };
        let mut policy = Self { strip: normal(wire.strip), keep: normal(wire.keep) };
        if policy.keep.iter().any(|name| name == "cookie") {
            // Cookies go both ways or not at all: nobody could send what was never set.
            policy.keep.push("set-cookie".to_owned());
        }
        Ok(policy)
    }
}

impl Policy {
    /// Why a request header of this name must not leave; `None`: it may.
    pub fn of_request(&self, name: &str) -> Option<Reason> {
        match self.unless_kept(request_reason(name), name) {
            None if self.strips(name) => Some(Reason::Configured),
            reason => reason,
        }
    }

    /// Why a response header of this name must not reach the client; `None`: it may.
    pub fn of_response(&self, name: &str) -> Option<Reason> {
        self.unless_kept(response_reason(name), name)
    }

    fn unless_kept(&self, reason: Option<Reason>, name: &str) -> Option<Reason> {
        reason.filter(|_| self.keep.is_empty() || !self.keep.contains(&normalised(name).into()))
    }

    fn strips(&self, name: &str) -> bool {
        // Most configurations add nothing, and normalising costs.
        !self.strip.is_empty() && {
            let name = normalised(name);
            self.strip.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *pattern,
            })
        }
    }
}

fn request_reason(name: &str) -> Option<Reason> {
    reason(REQUEST, REQUEST_PREFIXES, &normalised(name))
}

fn response_reason(name: &str) -> Option<Reason> {
    reason(RESPONSE, RESPONSE_PREFIXES, &normalised(name))
}

fn reason(names: &[(&str, Reason)], prefixes: &[(&str, Reason)], name: &str) -> Option<Reason> {
    let named = names.binary_search_by_key(&name, |(known, _)| known).ok();
    if let Some((_, reason)) = named.and_then(|index| names.get(index)) {
        return Some(*reason);
    }
    // Sorted, and none the beginning of another: only the last that is not behind the name can fit.
    let behind = prefixes.partition_point(|(prefix, _)| *prefix <= name);
    let (prefix, reason) = prefixes.get(behind.checked_sub(1)?)?;
    name.starts_with(prefix).then_some(*reason)
}

fn normalised(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        Cow::Owned(name.to_ascii_lowercase().replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// A header that must stand at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Single<'a> {
    /// Not there.
    #[default]
    Absent,
    /// There once.
    Value(&'a [u8]),
    /// There more than once: it says nothing, since two readers could choose differently.
    Repeated,
}

impl<'a> Single<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = if *self == Self::Absent { Self::Value(value) } else { Self::Repeated };
    }

    /// The value, when there is exactly one.
    pub fn value(self) -> Option<&'a [u8]> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }
}

/// What a gate needs to know of a request's headers, found in one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:path`, with the query.
    pub path: &'a [u8],
    /// `:authority`, as the client sent it.
    pub authority: &'a [u8],
    /// `authorization`.
    pub authorization: Single<'a>,
    /// `x-proxy-api-key`.
    pub proxy_api_key: Single<'a>,
    /// The key in `sec-websocket-protocol`.
    pub subprotocol_key: Single<'a>,
    /// `origin` (RFC 6454).
    pub origin: Single<'a>,
    /// `sec-fetch-site` (Fetch Metadata).
    pub fetch_site: Single<'a>,
    /// Whether there is a `content-encoding`.
    pub is_encoded: bool,
    /// Whether it opens a WebSocket (RFC 6455, section 4.1). Envoy refuses what the route does not
    /// allow before any filter sees it.
    pub is_websocket: bool,
    /// Whether it asks for another upgrade, or for a WebSocket in another way. Envoy takes whatever
    /// follows such a head for a part of it, and does not hold it back until the API agrees.
    pub is_odd_upgrade: bool,
    /// Names to remove, each once.
    pub strip: Vec<&'a str>,
    /// Headers that get another value.
    pub set: Vec<(&'static str, Vec<u8>)>,
}

impl<'a> Request<'a> {
    /// Reads a header map: names and values in order, several lines of one name allowed.
    pub fn read(headers: &'a [(String, Vec<u8>)], policy: &Policy) -> Self {
        let mut request = Self::default();
        let mut asks_for_websocket = None;
        let mut has_nonce = false;
        let mut nominates_upgrade = false;
        for (name, value) in headers {
            let value = value.as_slice();
            match name.as_str() {
                ":method" => request.method = value,
                ":path" => request.path = value,
                ":authority" => request.authority = value,
                "authorization" => request.authorization.add(value),
                "x-proxy-api-key" => request.proxy_api_key.add(value),
                "origin" => request.origin.add(value),
                "sec-fetch-site" => request.fetch_site.add(value),
                "content-encoding" => request.is_encoded = true,
                "upgrade" => asks_for_websocket = Some(value.eq_ignore_ascii_case(b"websocket")),
                "sec-websocket-key" => has_nonce = true,
                "sec-websocket-protocol" => request.read_subprotocols(value),
                "connection" => {
                    nominates_upgrade |=
                        list(value).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
                    request.strip_nominated(headers, value);
                }
                _ => {}
            }
            let stays = policy.of_request(name).is_none() || name == ROUTED_BY;
            if !stays && !request.strip.contains(&name.as_str()) {
                request.strip.push(name);
            }
        }
        if let Some(websocket) = asks_for_websocket.filter(|_| nominates_upgrade) {
            request.is_websocket = websocket && request.method == b"GET";
            request.is_odd_upgrade = !request.is_websocket;
        }
        if request.is_websocket {
            // These two make the handshake, on the next hop as on this one.
            request.strip.retain(|name| !["connection", "upgrade"].contains(name));
            request.set.push(("connection", b"upgrade".to_vec()));
            if !has_nonce {
                request.set.push(("sec-websocket-key", HANDSHAKE_NONCE.to_vec()));
            }
        }
        request
    }

    /// RFC 9110, section 7.6.1: what `Connection` names is for this hop only.
    fn strip_nominated(&mut self, headers: &'a [(String, Vec<u8>)], connection: &[u8]) {
        for option in list(connection) {
            let nominated =
                headers.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(option));
            if let Some((name, _)) = nominated
                && !name.starts_with(':')
                && name != ROUTED_BY
                && !self.strip.contains(&name.as_str())
            {
                self.strip.push(name);
            }
        }
    }

    /// Takes the key out of the subprotocols that a WebSocket client offers.
    fn read_subprotocols(&mut self, offered: &'a [u8]) {
        const NAME: &str = "sec-websocket-protocol";
        let mut others = Vec::new();
        let mut found = false;
        for protocol in list(offered) {
            match protocol.split_at_checked(SUBPROTOCOL_KEY.len()) {
                Some((prefix, key)) if prefix.eq_ignore_ascii_case(SUBPROTOCOL_KEY) => {
                    self.subprotocol_key.add(key);
                    found = true;
                }
                _ => others.push(protocol),
            }
        }
        if found && others.is_empty() {
            self.strip.push(NAME);
        } else if found {
            self.set.push((NAME, others.join(b", ".as_slice())));
        }
    }
}

/// The members of a comma-separated list (RFC 9110, section 5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
