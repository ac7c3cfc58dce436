use super::*;
use crate::headers::Policy;
use proptest::prelude::*;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const LOOPBACK: &str = "127.0.0.1:9996";

/// A connection to this address, with a certificate of these names.
struct Peer<'a> {
    local: &'a str,
    names: &'a [&'a str],
}

impl Connection for Peer<'_> {
    fn local_address(&self) -> Option<Vec<u8>> {
        Some(self.local.into())
    }

    fn certificate_names(&self) -> Vec<Vec<u8>> {
        self.names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
}

fn keys() -> Vec<Rc<ClientKey>> {
    let mut limited = ClientKey::of_key("limited".parse().unwrap(), b"limited-key");
    limited.paths = vec!["/v1/models".to_owned()];
    let alice = ClientKey::of_key("alice".parse().unwrap(), b"alice-key");
    vec![Rc::new(alice), Rc::new(limited)]
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
    match decide(keys, &Request::read(&map, &Policy::default()), 1000, &Peer { local, names: &[] })
    {
        Decision::Admit(None) => "anybody".to_owned(),
        Decision::Admit(Some(client)) => client.id.as_str().to_owned(),
        Decision::Refuse(refusal) => refusal.status.to_string(),
        Decision::Forbid(client, refusal) => format!("{} {}", client.id.as_str(), refusal.status),
        Decision::AwaitBundle => "await".to_owned(),
    }
}

fn with_keys(headers: &[(&str, &str)]) -> String {
    let keys = keys();
    decided(Keys { configured: &keys, published: Published::Managed(&[]) }, headers, "10.0.0.1:80")
}

fn without_keys(headers: &[(&str, &str)], local: &str) -> String {
    decided(Keys { configured: &[], published: Published::Unmanaged }, headers, local)
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
    assert_eq!(with_keys(&[key]), "limited 403");
    assert_eq!(with_keys(&[(":path", "/v1/models"), key]), "limited");
}

#[test]
fn a_key_that_the_bundle_may_know_waits_for_the_bundle() {
    let keys = keys();
    let early = Keys { configured: &keys, published: Published::Awaited };
    assert_eq!(decided(early, &[("x-proxy-api-key", "other")], LOOPBACK), "await");
    assert_eq!(decided(early, &[("x-proxy-api-key", "alice-key")], LOOPBACK), "alice");
    let none = Keys { configured: &[], published: Published::Awaited };
    assert_eq!(decided(none, &[], LOOPBACK), "await");
    let published = Keys { configured: &[], published: Published::Managed(&keys) };
    assert_eq!(decided(published, &[("x-proxy-api-key", "alice-key")], LOOPBACK), "alice");
    assert_eq!(decided(published, &[], LOOPBACK), "401");
}

#[test]
fn an_empty_list_lets_nobody_in_and_no_list_everybody_on_loopback() {
    let managed = Keys { configured: &[], published: Published::Managed(&[]) };
    assert_eq!(decided(managed, &[], LOOPBACK), "401");
    assert_eq!(without_keys(&[], LOOPBACK), "anybody");
}

#[test]
fn a_verified_certificate_admits_its_client() {
    let name = "spiffe://example.org/ns/web/sa/chat";
    let mut chat = ClientKey::new("chat".parse().unwrap(), Proof::Certificate(name.to_owned()));
    chat.paths = vec!["/v1/".to_owned()];
    let alice = ClientKey::of_key("alice".parse().unwrap(), b"alice-key");
    let keys = [Rc::new(alice), Rc::new(chat)];
    let keys = Keys { configured: &keys, published: Published::Unmanaged };
    let with = |names: &[&str], header: &str, path: &str| {
        let map = [
            (":method".to_owned(), b"GET".to_vec()),
            (":path".to_owned(), path.as_bytes().to_vec()),
            ("x-proxy-api-key".to_owned(), header.as_bytes().to_vec()),
        ];
        match decide(
            keys,
            &Request::read(&map, &Policy::default()),
            0,
            &Peer { local: "10.0.0.1:1", names },
        ) {
            Decision::Admit(client) => client.map(|client| client.id.as_str().to_owned()),
            Decision::Refuse(refusal) | Decision::Forbid(_, refusal) => {
                Some(refusal.status.to_string())
            }
            Decision::AwaitBundle => None,
        }
    };
    assert_eq!(with(&[name], "wrong", "/v1/models").as_deref(), Some("chat"));
    assert_eq!(with(&[name], "alice-key", "/health").as_deref(), Some("alice"));
    assert_eq!(with(&[name], "", "/health").as_deref(), Some("403"));
    assert_eq!(with(&["spiffe://example.org/other"], "", "/v1/models").as_deref(), Some("401"));
    assert_eq!(with(&[], "", "/v1/models").as_deref(), Some("401"));
}

#[test]
fn without_keys_only_loopback_is_served() {
    for local in ["127.0.0.1:9996", "127.8.8.8:1", "[::1]:80", "[::ffff:127.0.0.1]:1", "/run/x"] {
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
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "",
        "a:b:c",
        "localhost.",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "[127.0.0.1]",
        "::1",
        "localhost:80@evil.example",
        "evil.example@localhost",
        "localhost:8o",
        "localhost,localhost",
    ] {
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
        &[("origin", "http://localhost:3000@evil.example")],
        &[("origin", "")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "Cross-Site")],
        &[("sec-fetch-site", "")],
        &[("sec-fetch-site", "none"), ("sec-fetch-site", "none")],
    ] {
        assert_eq!(without_keys(headers, LOOPBACK), "403", "{headers:?}");
    }
    for headers in [
        [("origin", "http://localhost:3000")].as_slice(),
        &[("origin", "http://127.0.0.1:9996"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("origin", "http://[::1]:3000"), ("sec-fetch-site", "same-site")],
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
        "/v1/..;/health",
        "/v1/.;a=b/x",
        "/;a/health",
        "/v1/..%3b/health",
        "/v1/%252e%252E/health",
        "/v1/%252%65%25%32e/health",
        "/v1/%2%65%2%65/health",
        "/v1/%c0%ae%c0%ae/health",
        "/v1/%E0%80%AE/health",
        "/v1/\u{e9}",
        "/v1/a b",
        "/v1/a\tb",
    ] {
        assert_eq!(without_keys(&[(":path", path)], LOOPBACK), "400", "{path}");
    }
    for path in [
        "/",
        "*",
        "/v1/models",
        "/v1/files/a..b",
        "/a?x=//../%2e",
        "/health/",
        "/...",
        "/a;b=c",
        "/50%25",
        "/%25%25a%e0%a4%85",
    ] {
        assert_eq!(without_keys(&[(":path", path)], LOOPBACK), "anybody", "{path}");
    }
}

#[test]
fn tunnels_and_traces_are_refused() {
    for method in ["CONNECT", "TRACE", "TRACK", "trace", "Connect"] {
        assert_eq!(without_keys(&[(":method", method)], LOOPBACK), "405", "{method}");
    }
    for (method, upgrade, outcome) in [
        ("GET", "websocket", "anybody"),
        ("POST", "websocket", "405"),
        ("get", "websocket", "405"),
        ("GET", "foo", "405"),
    ] {
        let mut headers =
            vec![(":method", method), ("connection", "a, Upgrade"), ("upgrade", upgrade)];
        assert_eq!(without_keys(&headers, LOOPBACK), outcome, "{method} {upgrade}");
        // Without both of them Envoy does not take it for an upgrade either.
        headers.remove(1);
        assert_eq!(without_keys(&headers, LOOPBACK), "anybody", "{method} {upgrade}");
    }
}

proptest! {
    #[test]
    fn no_wrong_key_passes(value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let keys = keys();
        let map = [("authorization".to_owned(), value.clone()), ("x-proxy-api-key".to_owned(), value)];
        let decision = decide(
            Keys { configured: &keys, published: Published::Unmanaged },
            &Request::read(&map, &Policy::default()), 0, &Peer { local: "", names: &[] });
        prop_assert_eq!(decision, Decision::Refuse(Refusal::INVALID_CLIENT_KEY));
    }
}
