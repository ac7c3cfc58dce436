use super::*;
use proptest::prelude::*;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn map(headers: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn tables_are_sorted_lower_case_and_without_repetition() {
    for table in [REQUEST, REQUEST_PREFIXES, RESPONSE, RESPONSE_PREFIXES] {
        assert!(table.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(table.iter().all(|(name, _)| normalised(name) == *name));
    }
    for families in [REQUEST_PREFIXES, RESPONSE_PREFIXES] {
        let fit =
            |name: &str| families.iter().filter(|(family, _)| name.starts_with(family)).count();
        for (family, why) in families {
            assert_eq!(fit(family), 1, "{family}");
            for name in [(*family).to_owned(), format!("{family}~"), format!("{family}\0")] {
                let found = reason(&[], families, &name);
                assert_eq!(found, Some(*why), "{name:?}");
            }
            let (shorter, _) = family.split_at(family.len() - 1);
            assert_eq!(reason(&[], families, shorter), None, "{shorter}");
        }
        assert_eq!(reason(&[], families, ""), None);
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
        "client-cert",
        "cdn-loop",
        "ssl-client-cert",
        "x-appengine-user-ip",
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
    for name in
        [REPLAY, "x-envoy-upstream-service-time", "keep-alive", "transfer-encoding", "set-cookie"]
    {
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
    let request = Request::read(&headers, &Policy::default());
    assert_eq!(request.method, b"POST");
    assert_eq!(request.authorization.value(), Some(b"Bearer a".as_slice()));
    assert_eq!(request.strip, ["authorization", "cookie", "x-custom", "connection"]);
}

#[test]
fn configuration_adds_names_and_keeps_what_credits_nobody() {
    let policy = |document: &str| serde_json::from_str::<Policy>(document);
    let changed =
        policy(r#"{"strip": ["X-Tenant", "x_internal_*"], "keep": ["Cookie", "x-real-ip"]}"#)
            .unwrap();
    for (name, reason) in [
        ("x-tenant", Some(Reason::Configured)),
        ("x-internal-a", Some(Reason::Configured)),
        ("x-tenants", None),
        ("cookie", None),
        ("x-real-ip", None),
        ("cookie2", Some(Reason::Cookie)),
        ("authorization", Some(Reason::Credential)),
    ] {
        assert_eq!(changed.of_request(name), reason, "{name}");
    }
    assert_eq!(changed.of_response("set-cookie"), None, "cookies go both ways");
    let kept = policy(r#"{"keep": ["set-cookie"]}"#).unwrap();
    assert_eq!(kept.of_response("set-cookie"), None);
    assert_eq!(kept.of_request("cookie"), Some(Reason::Cookie));
    for (document, said) in [
        (r#"{"keep": ["authorization"]}"#, "cannot be kept"),
        (r#"{"keep": ["X_API_KEY"]}"#, "cannot be kept"),
        (r#"{"keep": ["connection"]}"#, "cannot be kept"),
        (r#"{"keep": ["x-torchbearer-replay"]}"#, "cannot be kept"),
        (r#"{"keep": ["x-forwarded-proto"]}"#, "cannot be kept"),
        (r#"{"keep": ["x-custom"]}"#, "cannot be kept"),
        (r#"{"strip": [":path"]}"#, "no header name"),
        (r#"{"strip": ["*"]}"#, "no header name"),
        (r#"{"strip": ["a*b"]}"#, "no header name"),
        (r#"{"drop": []}"#, "expected `strip` or `keep`"),
    ] {
        let error = policy(document).unwrap_err().to_string();
        assert!(error.contains(said), "{document}: {error}");
    }
}

#[test]
fn a_websocket_keeps_its_handshake_and_loses_its_key() {
    let headers = map(&[
        (":method", "GET"),
        ("connection", "Upgrade, x-mine"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("x-mine", "1"),
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.k1,openai-beta.v1"),
    ]);
    let request = Request::read(&headers, &Policy::default());
    assert!(request.is_websocket);
    assert_eq!(request.strip, ["x-mine"]);
    assert_eq!(request.subprotocol_key.value(), Some(b"k1".as_slice()));
    let rewritten = ("sec-websocket-protocol", b"realtime, openai-beta.v1".to_vec());
    assert_eq!(request.set, [rewritten, ("connection", b"upgrade".to_vec())]);
    let over_http2 =
        map(&[(":method", "GET"), ("connection", "upgrade"), ("upgrade", "websocket")]);
    let request = Request::read(&over_http2, &Policy::default());
    assert!(request.set.contains(&("sec-websocket-key", HANDSHAKE_NONCE.to_vec())));

    for (connection, upgrade) in
        [("upgrade", "h2c"), ("close", "websocket"), ("keep-alive", "websocket, h2c")]
    {
        let headers = map(&[(":method", "GET"), ("connection", connection), ("upgrade", upgrade)]);
        let request = Request::read(&headers, &Policy::default());
        assert!(!request.is_websocket);
        assert!(request.strip.contains(&"upgrade") && request.strip.contains(&"connection"));
    }
    let only = map(&[("sec-websocket-protocol", "OpenAI-Insecure-API-Key.k1")]);
    let request = Request::read(&only, &Policy::default());
    assert_eq!(request.strip, ["sec-websocket-protocol"]);
    assert_eq!(request.set, []);
}

#[test]
fn a_repeated_credential_says_nothing() {
    let headers = map(&[("authorization", "Bearer good"), ("authorization", "Bearer bad")]);
    assert_eq!(Request::read(&headers, &Policy::default()).authorization, Single::Repeated);
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
        let request = Request::read(&headers, &Policy::default());
        prop_assert!(request.strip.contains(&planted.0));
        for (name, _) in &headers {
            let stripped = request.strip.contains(&name.as_str());
            prop_assert!(stripped || name == ROUTED_BY || request_reason(name).is_none());
        }
    }
}

#[test]
fn the_readme_has_the_same_tables() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("### Headers that stay here").nth(1).unwrap();
    for (title, names, families) in [
        ("| Of requests", REQUEST, REQUEST_PREFIXES),
        ("| Of answers", RESPONSE, RESPONSE_PREFIXES),
    ] {
        let table = section.split(title).nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut shown: Vec<(String, bool)> = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let names = cells[1].split('`').skip(1).step_by(2);
            // Of that header only a part stays.
            let names = names.filter(|name| *name != "sec-websocket-protocol");
            shown.extend(names.map(|name| (name.to_owned(), cells[3].starts_with("yes"))));
        }
        let families = families.iter().map(|(name, reason)| (format!("{name}*"), *reason));
        let names = names.iter().map(|(name, reason)| ((*name).to_owned(), *reason));
        let known = names.chain(families).map(|(name, reason)| (name, reason.is_negotiable()));
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, known);
    }
}
