//! Which headers may pass, in one table with the reason beside each row.
//!
//! Names are compared as Envoy delivers them (lower case) and, should a host deliver something
//! else, after normalising: lower case, `_` as `-`. Values are bytes and never decoded.

use std::borrow::Cow;

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
}

/// Request headers that never leave, sorted by name.
const REQUEST: &[(&str, Reason)] = &[
    ("accept-encoding", Reason::Encoding),
    ("api-key", Reason::Credential),
    ("apikey", Reason::Credential),
    ("authorization", Reason::Credential),
    ("client-ip", Reason::Forwarding),
    ("connection", Reason::HopByHop),
    ("cookie", Reason::Cookie),
    ("cookie2", Reason::Cookie),
    ("dpop", Reason::Credential),
    ("fastly-client-ip", Reason::Forwarding),
    ("fly-client-ip", Reason::Forwarding),
    ("forwarded", Reason::Forwarding),
    ("http2-settings", Reason::HopByHop),
    ("keep-alive", Reason::HopByHop),
    ("ocp-apim-subscription-key", Reason::Credential),
    ("proxy-authenticate", Reason::HopByHop),
    ("proxy-authorization", Reason::Credential),
    ("proxy-connection", Reason::HopByHop),
    ("remote-user", Reason::Credential),
    ("te", Reason::HopByHop),
    ("trailer", Reason::HopByHop),
    ("transfer-encoding", Reason::HopByHop),
    ("true-client-ip", Reason::Forwarding),
    ("upgrade", Reason::HopByHop),
    ("via", Reason::Forwarding),
    ("x-access-token", Reason::Credential),
    ("x-api-key", Reason::Credential),
    ("x-auth-token", Reason::Credential),
    ("x-authorization", Reason::Credential),
    ("x-azure-clientip", Reason::Forwarding),
    ("x-client-ip", Reason::Forwarding),
    ("x-cluster-client-ip", Reason::Forwarding),
    ("x-csrf-token", Reason::Credential),
    ("x-forwarded", Reason::Forwarding),
    ("x-goog-api-key", Reason::Credential),
    ("x-host", Reason::Forwarding),
    ("x-http-method", Reason::Proxy),
    ("x-http-method-override", Reason::Proxy),
    ("x-method-override", Reason::Proxy),
    ("x-original-forwarded-for", Reason::Forwarding),
    ("x-original-host", Reason::Forwarding),
    ("x-original-url", Reason::Forwarding),
    ("x-originating-ip", Reason::Forwarding),
    ("x-proxy-api-key", Reason::Credential),
    ("x-proxyuser-ip", Reason::Forwarding),
    ("x-real-ip", Reason::Forwarding),
    ("x-remote-addr", Reason::Forwarding),
    ("x-remote-ip", Reason::Forwarding),
    ("x-remote-user", Reason::Credential),
    ("x-rewrite-url", Reason::Forwarding),
    ("x-xsrf-token", Reason::Credential),
];

/// Families of request headers that never leave.
const REQUEST_PREFIXES: &[(&str, Reason)] = &[
    ("cf-", Reason::Forwarding),
    ("x-amz-security-", Reason::Credential),
    ("x-amzn-oidc-", Reason::Credential),
    ("x-auth-request-", Reason::Credential),
    ("x-envoy-", Reason::Proxy),
    ("x-forwarded-", Reason::Forwarding),
    ("x-goog-iap-", Reason::Credential),
    ("x-ms-client-principal", Reason::Credential),
    ("x-torchbearer-", Reason::Proxy),
];

/// Response headers that do not reach the client, sorted by name.
const RESPONSE: &[(&str, Reason)] = &[
    ("connection", Reason::HopByHop),
    ("keep-alive", Reason::HopByHop),
    ("proxy-authenticate", Reason::HopByHop),
    ("proxy-authorization", Reason::HopByHop),
    ("proxy-connection", Reason::HopByHop),
    ("te", Reason::HopByHop),
    ("trailer", Reason::HopByHop),
    ("transfer-encoding", Reason::HopByHop),
    ("upgrade", Reason::HopByHop),
];

/// Families of response headers that do not reach the client.
const RESPONSE_PREFIXES: &[(&str, Reason)] =
    &[("x-envoy-", Reason::Proxy), ("x-torchbearer-", Reason::Proxy)];

/// The private response header by which a bearer asks the router for the one replay.
pub const REPLAY: &str = "x-torchbearer-replay";

/// The one forwarding header that Envoy's router reads: without it no route is found. So it stays
/// until the routes have been looked at, and is removed by the bearer.
pub const ROUTED_BY: &str = "x-forwarded-proto";

/// Why a request header of this name must not leave; `None`: it may.
pub fn request_reason(name: &str) -> Option<Reason> {
    reason(REQUEST, REQUEST_PREFIXES, &normalised(name))
}

/// Why a response header of this name must not reach the client; `None`: it may.
pub fn response_reason(name: &str) -> Option<Reason> {
    reason(RESPONSE, RESPONSE_PREFIXES, &normalised(name))
}

fn reason(names: &[(&str, Reason)], prefixes: &[(&str, Reason)], name: &str) -> Option<Reason> {
    let named = names.binary_search_by_key(&name, |(known, _)| known).ok();
    if let Some((_, reason)) = named.and_then(|index| names.get(index)) {
        return Some(*reason);
    }
    let family = prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
    family.map(|(_, reason)| *reason)
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
    /// `origin` (RFC 6454).
    pub origin: Single<'a>,
    /// `sec-fetch-site` (Fetch Metadata).
    pub fetch_site: Single<'a>,
    /// Names to remove, each once.
    pub strip: Vec<&'a str>,
}

impl<'a> Request<'a> {
    /// Reads a header map: names and values in order, several lines of one name allowed.
    pub fn read(headers: &'a [(String, Vec<u8>)]) -> Self {
        let mut request = Self::default();
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
                _ => {}
            }
            let stays = request_reason(name).is_none() || name == ROUTED_BY;
            if !stays && !request.strip.contains(&name.as_str()) {
                request.strip.push(name);
            }
            if name == "connection" {
                request.strip_nominated(headers, value);
            }
        }
        request
    }

    /// RFC 9110, section 7.6.1: what `Connection` names is for this hop only.
    fn strip_nominated(&mut self, headers: &'a [(String, Vec<u8>)], connection: &[u8]) {
        for option in connection.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(headers: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn tables_are_sorted_lower_case_and_without_repetition() {
        for table in [REQUEST, REQUEST_PREFIXES, RESPONSE, RESPONSE_PREFIXES] {
            assert!(table.is_sorted_by(|(a, _), (b, _)| a < b));
            assert!(table.iter().all(|(name, _)| normalised(name) == *name));
        }
    }

    #[test]
    fn what_identifies_or_credits_the_client_stays_here() {
        for name in [
            "authorization",
            "x-proxy-api-key",
            "x-api-key",
            "api-key",
            "cookie",
            "proxy-authorization",
            "x-forwarded-for",
            "x-forwarded-anything",
            "forwarded",
            "via",
            "x-real-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "x-original-url",
            "x-rewrite-url",
            "te",
            "keep-alive",
            "proxy-connection",
            "trailer",
            "upgrade",
            "x-envoy-retry-on",
            "x-torchbearer-replay",
            "X-Proxy-Api-Key",
            "x_proxy_api_key",
            "X_Forwarded_For",
        ] {
            assert!(request_reason(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_the_api_needs_passes() {
        for name in [
            ":path",
            "accept",
            "content-type",
            "content-length",
            "user-agent",
            "openai-organization",
            "x-stainless-lang",
            "x-request-id",
            "idempotency-key",
            "traceparent",
        ] {
            assert_eq!(request_reason(name), None, "{name}");
        }
        for name in ["content-type", "retry-after", "www-authenticate", "x-ratelimit-remaining"] {
            assert_eq!(response_reason(name), None, "{name}");
        }
    }

    #[test]
    fn private_response_headers_stay_here() {
        for name in [REPLAY, "x-envoy-upstream-service-time", "keep-alive", "transfer-encoding"] {
            assert!(response_reason(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_request_is_read_in_one_pass() {
        let headers = map(&[
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            (":authority", "localhost"),
            ("authorization", "Bearer a"),
            ("x-custom", "1"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-forwarded-proto", "http"),
            ("connection", "close, X-Custom, :path, x-forwarded-proto"),
        ]);
        let request = Request::read(&headers);
        assert_eq!(request.method, b"POST");
        assert_eq!(request.authorization.value(), Some(b"Bearer a".as_slice()));
        assert_eq!(request.strip, ["authorization", "cookie", "connection", "x-custom"]);
    }

    #[test]
    fn a_repeated_credential_says_nothing() {
        let headers = map(&[("authorization", "Bearer good"), ("authorization", "Bearer bad")]);
        assert_eq!(Request::read(&headers).authorization, Single::Repeated);
    }

    proptest! {
        #[test]
        fn no_header_map_panics_and_every_listed_name_is_removed(
            headers in proptest::collection::vec(
                ("[a-zA-Z_:-]{0,24}", proptest::collection::vec(any::<u8>(), 0..24)), 0..16),
            planted in proptest::sample::select(REQUEST),
        ) {
            let mut headers = headers;
            headers.push((planted.0.to_owned(), vec![0xff]));
            let request = Request::read(&headers);
            prop_assert!(request.strip.contains(&planted.0));
            for (name, _) in &headers {
                let stripped = request.strip.contains(&name.as_str());
                prop_assert!(stripped || name == ROUTED_BY || request_reason(name).is_none());
            }
        }
    }
}
