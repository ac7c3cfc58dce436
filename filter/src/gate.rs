//! Who may pass: the gate's decision as a plain function.

use std::net::IpAddr;

use crate::client::{ClientKey, Identity, identify};
use crate::headers::{Request, Single};
use crate::refusal::Refusal;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It may go on: as this client, or as anybody where no keys are set.
    Admit(Option<&'a ClientKey>),
    /// It is answered here.
    Refuse(Refusal),
    /// The first bundle has to arrive before this can be decided.
    AwaitBundle,
}

/// The client keys in force.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Those of the plugin configuration.
    pub configured: &'a [ClientKey],
    /// Those of the bundle; `None` before the first bundle.
    pub published: Option<&'a [ClientKey]>,
}

impl<'a> Keys<'a> {
    fn iter(self) -> impl Iterator<Item = &'a ClientKey> + Clone {
        self.configured.iter().chain(self.published.unwrap_or_default())
    }
}

/// Decides about a request.
///
/// `now` is in Unix seconds. `local_address` tells the address on which the connection was
/// accepted (`127.0.0.1:9996`, or a path for a unix socket); it is asked only without keys.
pub fn decide<'a>(
    keys: Keys<'a>,
    request: &Request<'_>,
    now: u64,
    local_address: impl FnOnce() -> Option<Vec<u8>>,
) -> Decision<'a> {
    if [b"CONNECT".as_slice(), b"TRACE", b"TRACK"].contains(&request.method) {
        return Decision::Refuse(Refusal::METHOD_NOT_ALLOWED);
    }
    if !is_canonical(request.path) {
        return Decision::Refuse(Refusal::AMBIGUOUS_PATH);
    }
    if keys.iter().next().is_some() {
        return authenticate(keys, request, now);
    }
    if keys.published.is_none() {
        return Decision::AwaitBundle;
    }
    guard_loopback(request, local_address())
}

fn authenticate<'a>(keys: Keys<'a>, request: &Request<'_>, now: u64) -> Decision<'a> {
    let presented = [request.proxy_api_key.value(), bearer_token(request.authorization)];
    let identities = presented.into_iter().flatten().map(|key| identify(keys.iter(), key, now));
    let client = identities.into_iter().find_map(|identity| match identity {
        Identity::Client(client) => Some(client),
        Identity::Unknown => None,
    });
    let repeated = [request.proxy_api_key, request.authorization].contains(&Single::Repeated);
    match client {
        Some(client) if !repeated => authorize(client, request),
        None if keys.published.is_none() && !repeated => Decision::AwaitBundle,
        _ => Decision::Refuse(Refusal::INVALID_CLIENT_KEY),
    }
}

fn authorize<'a>(client: &'a ClientKey, request: &Request<'_>) -> Decision<'a> {
    let paths = &client.paths;
    if !paths.is_empty() && !paths.iter().any(|path| request.path.starts_with(path.as_bytes())) {
        return Decision::Refuse(Refusal::PATH_NOT_ALLOWED);
    }
    if !client.models.is_empty() {
        return Decision::Refuse(Refusal::MODEL_NOT_ALLOWED);
    }
    Decision::Admit(Some(client))
}

/// The token of `Authorization: Bearer …`; the scheme in any case (RFC 9110, section 11.1).
fn bearer_token(authorization: Single<'_>) -> Option<&[u8]> {
    let value = authorization.value()?;
    let (scheme, token) = value.split_at_checked("bearer".len())?;
    let separated = token.first().is_some_and(|byte| *byte == b' ');
    let token = token.trim_ascii_start();
    (separated && scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// Whether everybody reads the same path. What one server normalises and the next does not would
/// make a key's path list, and the routes of Envoy, mean something else than they say.
fn is_canonical(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let dots = |segment: &[u8]| segment == b"." || segment == b"..";
    let escaped = |window: &[u8]| {
        // An escaped `.`, `/`, `\` or NUL.
        [b"%2e".as_slice(), b"%2f", b"%5c", b"%00"]
            .iter()
            .any(|escape| window.eq_ignore_ascii_case(escape))
    };
    !path.contains(&b'\\')
        && !path.windows(2).any(|window| window == b"//")
        && !path.windows(3).any(escaped)
        && !path.split(|byte| *byte == b'/').any(dots)
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
        Single::Value(site) => site == b"cross-site",
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
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOPBACK: &str = "127.0.0.1:9996";

    fn keys() -> Vec<ClientKey> {
        let mut limited = ClientKey::new("limited".parse().unwrap(), b"limited-key");
        limited.paths = vec!["/v1/models".to_owned()];
        vec![ClientKey::new("alice".parse().unwrap(), b"alice-key"), limited]
    }

    fn decided(keys: Keys<'_>, headers: &[(&str, &str)], local: &str) -> String {
        let mut map = vec![
            (":method".to_owned(), b"POST".to_vec()),
            (":path".to_owned(), b"/v1/chat/completions".to_vec()),
        ];
        if !headers.iter().any(|(name, _)| *name == ":authority") {
            map.push((":authority".to_owned(), b"localhost:9996".to_vec()));
        }
        for (name, value) in headers {
            map.retain(|(known, _)| !name.starts_with(':') || known != name);
            map.push(((*name).to_owned(), value.as_bytes().to_vec()));
        }
        match decide(keys, &Request::read(&map), 1000, || Some(local.into())) {
            Decision::Admit(None) => "anybody".to_owned(),
            Decision::Admit(Some(client)) => client.id.as_str().to_owned(),
            Decision::Refuse(refusal) => refusal.status.to_string(),
            Decision::AwaitBundle => "await".to_owned(),
        }
    }

    fn with_keys(headers: &[(&str, &str)]) -> String {
        let keys = keys();
        decided(Keys { configured: &keys, published: Some(&[]) }, headers, "10.0.0.1:80")
    }

    fn without_keys(headers: &[(&str, &str)], local: &str) -> String {
        decided(Keys { configured: &[], published: Some(&[]) }, headers, local)
    }

    #[test]
    fn a_good_key_in_either_header_admits() {
        for headers in [
            [("authorization", "Bearer alice-key")].as_slice(),
            &[("authorization", "bearer alice-key")],
            &[("authorization", "BEARER  alice-key")],
            &[("x-proxy-api-key", "alice-key")],
            &[("x-proxy-api-key", "alice-key"), ("authorization", "Bearer alice-key")],
            &[("x-proxy-api-key", "alice-key"), ("authorization", "Bearer unused")],
            &[("x-proxy-api-key", "wrong"), ("authorization", "Bearer alice-key")],
        ] {
            assert_eq!(with_keys(headers), "alice", "{headers:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_alike() {
        for headers in [
            [].as_slice(),
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Beareralice-key")],
            &[("authorization", "Basic alice-key")],
            &[("authorization", "alice-key")],
            &[("authorization", "Bearer alice-ke")],
            &[("authorization", "Bearer alice-keyy")],
            &[("authorization", "Bearer alice-key,Bearer bad")],
            &[("authorization", "Bearer alice-key"), ("authorization", "Bearer bad")],
            &[("authorization", "Bearer bad"), ("authorization", "Bearer alice-key")],
            &[("x-proxy-api-key", "alice-key"), ("x-proxy-api-key", "alice-key")],
            &[("x-proxy-api-key", "")],
        ] {
            assert_eq!(with_keys(headers), "401", "{headers:?}");
        }
    }

    #[test]
    fn a_key_for_some_paths_is_for_no_other() {
        let key = ("x-proxy-api-key", "limited-key");
        assert_eq!(with_keys(&[key]), "403");
        assert_eq!(with_keys(&[(":path", "/v1/models"), key]), "limited");
    }

    #[test]
    fn a_key_that_the_bundle_may_know_waits_for_the_bundle() {
        let keys = keys();
        let early = Keys { configured: &keys, published: None };
        assert_eq!(decided(early, &[("x-proxy-api-key", "other")], LOOPBACK), "await");
        assert_eq!(decided(early, &[("x-proxy-api-key", "alice-key")], LOOPBACK), "alice");
        let none = Keys { configured: &[], published: None };
        assert_eq!(decided(none, &[], LOOPBACK), "await");
        let published = Keys { configured: &[], published: Some(&keys) };
        assert_eq!(decided(published, &[("x-proxy-api-key", "alice-key")], LOOPBACK), "alice");
        assert_eq!(decided(published, &[], LOOPBACK), "401");
    }

    #[test]
    fn without_keys_only_loopback_is_served() {
        for local in ["127.0.0.1:9996", "127.8.8.8:1", "[::1]:80", "[::ffff:127.0.0.1]:1", "/run/x"]
        {
            assert_eq!(without_keys(&[], local), "anybody", "{local}");
        }
        for local in ["10.0.0.1:9996", "0.0.0.0:80", "[::]:80", "[2001:db8::1]:80", "", "x"] {
            assert_eq!(without_keys(&[], local), "503", "{local}");
        }
    }

    #[test]
    fn without_keys_a_foreign_host_is_refused() {
        for host in ["localhost", "LOCALHOST:9996", "127.0.0.1", "127.0.0.1:9996", "[::1]:9996"] {
            assert_eq!(without_keys(&[(":authority", host)], LOOPBACK), "anybody", "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "", "a:b:c"]
        {
            assert_eq!(without_keys(&[(":authority", host)], LOOPBACK), "421", "{host}");
        }
    }

    #[test]
    fn without_keys_a_foreign_page_is_refused() {
        for headers in [
            [("origin", "https://evil.example")].as_slice(),
            &[("origin", "null")],
            &[("origin", "http://localhost.evil.example")],
            &[("origin", "http://localhost"), ("origin", "http://localhost")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(without_keys(headers, LOOPBACK), "403", "{headers:?}");
        }
        for headers in [
            [("origin", "http://localhost:3000")].as_slice(),
            &[("origin", "http://127.0.0.1:9996"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(without_keys(headers, LOOPBACK), "anybody", "{headers:?}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_refused() {
        for path in [
            "/v1/../health",
            "/v1/./models",
            "/..",
            "//health",
            "/v1//models",
            "/%2e%2e/health",
            "/v1/%2E./x",
            "/v1%2fmodels",
            "/v1\\models",
            "/v1/%5cx",
            "/a%00",
        ] {
            assert_eq!(without_keys(&[(":path", path)], LOOPBACK), "400", "{path}");
        }
        for path in ["/", "*", "/v1/models", "/v1/files/a..b", "/a?x=//../%2e", "/health/", "/..."]
        {
            assert_eq!(without_keys(&[(":path", path)], LOOPBACK), "anybody", "{path}");
        }
    }

    #[test]
    fn tunnels_and_traces_are_refused() {
        for method in ["CONNECT", "TRACE", "TRACK"] {
            assert_eq!(without_keys(&[(":method", method)], LOOPBACK), "405", "{method}");
        }
    }

    proptest! {
        #[test]
        fn no_wrong_key_passes(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let keys = keys();
            let map = [("authorization".to_owned(), value.clone()), ("x-proxy-api-key".to_owned(), value)];
            let decision = decide(
                Keys { configured: &keys, published: Some(&[]) },
                &Request::read(&map), 0, || None);
            prop_assert_eq!(decision, Decision::Refuse(Refusal::INVALID_CLIENT_KEY));
        }
    }
}
