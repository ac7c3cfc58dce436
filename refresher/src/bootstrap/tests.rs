use super::*;

fn rendered(upstream: &str, client_keys: &[ClientKey]) -> Result<Value, Error> {
    let upstream: Url = upstream.parse().unwrap();
    let rendered = render(&Settings {
        listen: "127.0.0.2:1234".parse().unwrap(),
        upstream: &upstream,
        filter: Path::new("/lib/filter.wasm"),
        socket: Path::new("/state/refresher.sock"),
        admin: Path::new("/state/admin.sock"),
        trusted_ca: Some(Path::new("/etc/ca.pem")),
        client_keys,
        upstream_headers: &[],
        dead_token: &Rule::default(),
        proxy: &Proxy::default(),
    })?;
    Ok(serde_json::from_str(&rendered).unwrap())
}

#[test]
fn every_value_is_set_and_none_of_the_shipped_ones_is_left() {
    let bootstrap = rendered("https://api.example.com", &[]).unwrap();
    let text = bootstrap.to_string();
    for shipped in ["api.x.ai", "9996", "target/filter.wasm", "/run/torchbearer", "/etc/ssl"] {
        assert!(!text.contains(shipped), "{shipped}");
    }
    for (value, times) in [
        ("api.example.com", 4),
        ("127.0.0.2", 1),
        ("/lib/filter.wasm", 2),
        ("/state/refresher.sock", 1),
        ("/state/admin.sock", 1),
        ("/etc/ca.pem", 1),
    ] {
        assert_eq!(text.matches(value).count(), times, "{value}");
    }
}

#[test]
fn an_api_without_tls_gets_no_tls() {
    let bootstrap = rendered("http://127.0.0.1:8080", &[]).unwrap();
    let upstream = bootstrap.pointer(UPSTREAM).unwrap();
    assert_eq!(upstream.get("transport_socket"), None);
    let http = upstream.pointer(&format!("/{HTTP}")).unwrap();
    assert!(http.get("auto_config").is_none() && http.get("explicit_http_config").is_some());
    assert!(bootstrap.to_string().contains("\"host_rewrite_literal\":\"127.0.0.1:8080\""));
}

#[test]
fn an_ipv6_api_is_addressed_without_brackets() {
    let bootstrap = rendered("http://[::1]:8080", &[]).unwrap();
    let address = format!("{UPSTREAM}/{ADDRESS}/socket_address/address");
    assert_eq!(bootstrap.pointer(&address), Some(&json!("::1")));
}

#[test]
fn keys_and_rule_reach_the_filter_in_the_form_that_it_reads() {
    let key = ClientKey::of_key("alice".parse().unwrap(), b"key-of-alice");
    let bootstrap = rendered("https://api.example.com", std::slice::from_ref(&key)).unwrap();
    let value = format!("{MANAGER}/http_filters/0/{WASM}/configuration/value");
    let document = bootstrap.pointer(&value).unwrap().as_str().unwrap();
    let config = filter::config::Config::parse(document.as_bytes()).unwrap();
    assert_eq!(config.gate.unwrap().client_keys, [key.into()]);
    let value = format!("{UPSTREAM}/{HTTP}/http_filters/0/{WASM}/configuration/value");
    let document = bootstrap.pointer(&value).unwrap().as_str().unwrap();
    let config = filter::config::Config::parse(document.as_bytes()).unwrap();
    assert_eq!(config.bearer.unwrap().dead_token, Rule::default());
}

#[test]
fn headers_for_the_api_replace_the_clients_and_are_taken_literally() {
    let upstream: Url = "https://api.example.com".parse().unwrap();
    let rule = Rule::default();
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        upstream: &upstream,
        filter: Path::new("/f"),
        socket: Path::new("/s"),
        admin: Path::new("/a"),
        trusted_ca: None,
        client_keys: &[],
        upstream_headers: &[],
        dead_token: &rule,
        proxy: &Proxy::default(),
    };
    let headers = [("x-team".to_owned(), "50%REQ(authorization)%".to_owned())];
    let with = render(&Settings { upstream_headers: &headers, ..settings }).unwrap();
    let with: Value = serde_json::from_str(&with).unwrap();
    let path = format!("{MANAGER}/route_config/virtual_hosts/0/request_headers_to_add");
    let expected = json!([{"header": {"key": "x-team", "value": "50%%REQ(authorization)%%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
    assert_eq!(with.pointer(&path), Some(&expected));
    let without: Value = serde_json::from_str(&render(&settings).unwrap()).unwrap();
    assert_eq!(without.pointer(&path), None);
}

fn with_proxy(proxy: &Proxy) -> Value {
    let upstream: Url = "https://api.example.com".parse().unwrap();
    let rule = Rule::default();
    let rendered = render(&Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        upstream: &upstream,
        filter: Path::new("/f"),
        socket: Path::new("/s"),
        admin: Path::new("/a"),
        trusted_ca: None,
        client_keys: &[],
        upstream_headers: &[],
        dead_token: &rule,
        proxy,
    });
    serde_json::from_str(&rendered.unwrap()).unwrap()
}

fn route<'a>(bootstrap: &'a Value, name: &str) -> &'a Value {
    let routes = bootstrap.pointer(ROUTES).unwrap().as_array().unwrap();
    routes.iter().find(|route| route["name"] == name).unwrap()
}

#[test]
fn the_default_settings_are_the_shipped_values() {
    let shipped: Value = serde_saphyr::from_str(SHIPPED).unwrap();
    let rendered = with_proxy(&Proxy::default());
    for path in ["/route/retry_policy", "/route/timeout"] {
        for name in ["reading", "generating"] {
            assert_eq!(
                route(&rendered, name).pointer(path),
                route(&shipped, name).pointer(path),
                "{name} {path}"
            );
        }
    }
    let limit = format!("{HOST}/request_body_buffer_limit");
    assert_eq!(rendered.pointer(&limit), shipped.pointer(&limit));
    let buffered = format!("{LISTENER}/per_connection_buffer_limit_bytes");
    assert_eq!(rendered.pointer(&buffered), shipped.pointer(&buffered));
    let small = with_proxy(&Proxy { buffer_bytes: 65_536, ..Proxy::default() });
    assert_eq!(small.pointer(&buffered), Some(&json!(65_536)));
    for place in [
        format!("{MANAGER}/http_filters/0/{WASM}/configuration/value"),
        format!("{UPSTREAM}/{HTTP}/http_filters/0/{WASM}/configuration/value"),
    ] {
        let config = |bootstrap: &Value| {
            let document = bootstrap.pointer(&place).unwrap().as_str().unwrap();
            filter::config::Config::parse(document.as_bytes()).unwrap()
        };
        assert_eq!(config(&rendered), config(&shipped), "{place}");
    }
}

#[test]
fn without_attempts_only_a_refused_token_is_tried_again() {
    let proxy = Proxy { retry_attempts: 0, ..Proxy::default() };
    for name in ["reading", "generating"] {
        let bootstrap = with_proxy(&proxy);
        let policy = &route(&bootstrap, name)["route"]["retry_policy"];
        assert_eq!(policy["retry_on"], "retriable-headers", "{name}");
        assert_eq!(policy["num_retries"], 1, "{name}");
    }
}

#[test]
fn a_websocket_has_a_route_and_a_cluster_of_its_own() {
    let proxy = Proxy { websocket_paths: vec!["/v1/realtime".to_owned()], ..Proxy::default() };
    let bootstrap = with_proxy(&proxy);
    let first = bootstrap.pointer(&format!("{ROUTES}/0")).unwrap();
    assert_eq!(first["match"]["prefix"], "/v1/realtime");
    assert_eq!(first["route"]["cluster"], WEBSOCKET);
    assert_eq!(first["route"]["host_rewrite_literal"], "api.example.com");
    let cluster = bootstrap.pointer("/static_resources/clusters/2").unwrap();
    assert_eq!(cluster["name"], WEBSOCKET);
    assert!(cluster.to_string().contains("torchbearer.bearer"));
    assert!(!cluster.to_string().contains("\"h2\""));
    assert!(!with_proxy(&Proxy::default()).to_string().contains("upgrade_type"));
}

#[test]
fn an_upstream_that_is_not_http_is_refused() {
    assert!(matches!(rendered("ftp://example.com", &[]), Err(Error::Upstream { .. })));
}

#[test]
fn the_bootstrap_with_injection_by_envoy_is_the_shipped_one_and_no_more() {
    let own = include_str!("../../../envoy/sds/bootstrap.yaml");
    let own: Value = serde_saphyr::from_str(own).unwrap();
    let mut made = Bootstrap(serde_saphyr::from_str(SHIPPED).unwrap());
    made.inject_by_envoy("/run/torchbearer/sds").unwrap();
    let plugin = format!("{UPSTREAM}/{HTTP}/http_filters/0/{WASM}/configuration/value");
    let text = "{\"bearer\": {\"credential_injector\": \"default\"}, \"usage\": {}}\n";
    made.set(&plugin, text).unwrap();
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    let (own, made) = (text(&own), text(&made.0));
    let differ = own.lines().zip(made.lines()).find(|(own, made)| own != made);
    assert_eq!(
        differ, None,
        "do the same in envoy/standalone/bootstrap.yaml and envoy/sds/bootstrap.yaml"
    );
    assert_eq!(own.lines().count(), made.lines().count());
}

#[test]
fn the_token_is_put_in_by_envoy_where_there_is_a_directory_for_it() {
    let proxy = Proxy {
        sds_dir: Some("/s".into()),
        websocket_paths: vec!["/v1/realtime".to_owned()],
        ..Proxy::default()
    };
    let bootstrap = with_proxy(&proxy);
    // The upstream, and that of WebSockets.
    for cluster in [0, 2] {
        let place = format!("/static_resources/clusters/{cluster}/{HTTP}/http_filters");
        let filters = bootstrap.pointer(&place).unwrap().as_array().unwrap();
        let names: Vec<_> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
        let expected = [
            "torchbearer.bearer",
            "envoy.filters.http.credential_injector",
            "envoy.filters.http.upstream_codec",
        ];
        assert_eq!(names, expected);
        let plugin = filters[0].pointer(&format!("/{WASM}/configuration/value")).unwrap();
        let config = filter::config::Config::parse(plugin.as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(config.bearer.unwrap().credential_injector.as_deref(), Some("default"));
        assert!(filters[1].to_string().contains("\"/s/default.json\""));
    }
    assert!(!with_proxy(&Proxy::default()).to_string().contains("credential_injector"));
}
