use filter::client::Proof;

use filter::management::PublicPaths;
mod described;

use super::*;
use std::collections::HashMap;

fn with(document: &str, env: &[(&str, &str)]) -> Result<Config, Error> {
    let mut variables: HashMap<String, String> =
        env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    variables.entry("HOME".into()).or_insert("/home/u".into());
    let config = resolve(document, &Overrides::default(), &|name| variables.get(name).cloned());
    if config.is_ok() {
        // What the reader accepts, the schema does.
        assert_eq!(described::complaints(document), [""; 0], "{document}");
    }
    config
}

fn refusal(document: &str, env: &[(&str, &str)]) -> String {
    with(document, env).unwrap_err().to_string()
}

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn nothing_set_is_the_xai_preset_on_loopback() {
    let config = with("", &[]).unwrap();
    assert_eq!(config.provider.name, "xai");
    assert_eq!(config.provider.issuer.unwrap().as_str(), "https://auth.x.ai/");
    assert_eq!(config.provider.redirect_ports, [56121]);
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/torchbearer"));
    assert_eq!(config.socket, Path::new("/home/u/.local/state/torchbearer/refresher.sock"));
    assert_eq!(config.listener.host.to_string(), "127.0.0.1");
    assert_eq!(config.listener.port, 9996);
    assert_eq!(config.rotation, Rotation { window_s: None, spacing_s: 60 });
    assert!(config.client_keys.is_empty());
}

#[test]
fn flags_win_over_environment_over_file() {
    let document = "[listener]\nport = 1\nhost = \"127.0.0.2\"\n[rotation]\nwindow = 40\n";
    assert_eq!(with(document, &[]).unwrap().listener.port, 1);
    let env = [("PROXY_PORT", "2"), ("TOKEN_REFRESH_WINDOW", "300")];
    let config = with(document, &env).unwrap();
    assert_eq!((config.listener.port, config.rotation.window_s), (2, Some(300)));
    let flags = Overrides { port: Some(3), ..Overrides::default() };
    let config = resolve(document, &flags, &|name| (name == "HOME").then(|| "/h".into())).unwrap();
    assert_eq!(config.listener.port, 3);
    assert_eq!(config.listener.host.to_string(), "127.0.0.2");
}

#[test]
fn a_preset_is_overridden_field_by_field() {
    let document = "provider = \"demo\"\n[providers.demo]\nissuer = \"http://127.0.0.1:7\"\n";
    let provider = with(document, &[]).unwrap().provider;
    assert_eq!(provider.issuer.unwrap().as_str(), "http://127.0.0.1:7/");
    assert_eq!(provider.client_id, "torchbearer-demo");
}

#[test]
fn another_provider_needs_only_configuration() {
    let document = "provider = \"acme\"\n[providers.acme]\nclient_id = \"c\"\n\
        token_endpoint = \"https://id.acme.example/token\"\nupstream = \"https://api.acme.example\"\n\
        authorize_params = { plan = \"generic\" }\nredirect_ports = [8123]\n";
    let provider = with(document, &[]).unwrap().provider;
    assert_eq!(provider.authorize_params["plan"], "generic");
    assert_eq!(provider.redirect_ports, [8123]);
}

#[test]
fn a_redirect_is_one_that_a_browser_can_follow() {
    for path in ["callback", "/a b", "/a?b=c", "/a#b", "/a/../b"] {
        let document = format!("{ACME}redirect_path = \"{path}\"\nredirect_ports = []\n");
        let message = refusal(&document, &[]);
        assert!(
            message.contains(&format!("redirect_path: {path:?}; accepted: the path")),
            "{message}"
        );
        assert!(message.contains("redirect_ports: none; accepted: at least one"), "{message}");
    }
    assert!(with(&format!("{ACME}redirect_path = \"/a/b%20c\"\n"), &[]).is_ok());
}

#[test]
fn an_api_is_named_by_its_origin() {
    for origin in ["https://api.acme.example/", "http://127.0.0.1:7"] {
        let document = format!("[providers.xai]\nupstream = \"{origin}\"\n");
        assert!(with(&document, &[]).is_ok(), "{origin}");
    }
    for more in ["v1", "api/v1", "?a=b", "#a"] {
        let document = format!("[providers.xai]\nupstream = \"https://api.acme.example/{more}\"\n");
        let message = refusal(&document, &[]);
        assert!(message.contains("providers.xai.upstream") && message.contains(more), "{message}");
        assert!(message.contains("accepted: https://HOST[:PORT]"), "{message}");
    }
}

#[test]
fn all_bad_settings_are_named_at_once_with_what_is_accepted() {
    let document = "provder = \"xai\"\nstate_dir = 7\n[listener]\nport = 70000\nprot = 1\n\
        [rotation]\nwindow = 29\nspacing = 0\n[providers.xai]\nissuer = \"http://auth.x.ai\"\nx = 1\n";
    let message = refusal(document, &[("PROXY_HOST", "::zz")]);
    let lines: Vec<&str> = message.lines().collect();
    for expected in [
        "provder: unknown setting; accepted: provider, state_dir, socket, listener,",
        "state_dir: 7; accepted: a string",
        "listener.port: 70000; accepted: a port from 0 to 65535",
        "listener.prot: unknown setting; accepted: host, port",
        "rotation.window: 29; accepted: seconds, at least 30",
        "rotation.spacing: 0; accepted: seconds from 1",
        "providers.xai.issuer: \"http://auth.x.ai\"; accepted: an https URL",
        "providers.xai.x: unknown setting; accepted: issuer,",
        "PROXY_HOST: \"::zz\"; accepted: an IP address or localhost",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\n{message}");
    }
    assert_eq!(lines.len(), 9, "{message}");
}

#[test]
fn an_unknown_provider_is_told_the_known_ones() {
    let document = "provider = \"acme\"\n[providers.other]\nclient_id = \"c\"\n";
    let message = refusal(document, &[]);
    assert_eq!(message, "provider: \"acme\"; accepted: one of demo, other, xai");
}

#[test]
fn a_file_that_is_not_toml_is_refused_by_line() {
    assert!(
        refusal("a = 1\nb = = 2\n", &[]).starts_with("configuration is not valid TOML at line 2")
    );
}

#[test]
fn what_the_proxy_does_is_set_in_the_file_or_by_the_predecessors_variables() {
    let document = "[headers]\nstrip = [\"x-tenant\"]\nkeep = [\"cookie\"]\n\
        [retry]\nattempts = 4\ndelay = 0.5\n[replay]\nmax_body_bytes = 1024\n\
        [listener]\nbuffer_bytes = 65536\n[usage]\nenabled = false\n[websocket]\npaths = [\"/v1/realtime\"]\n\
        [health]\npublic = [\"/ready\"]\n";
    let proxy = with(document, &[]).unwrap().proxy;
    let expected = Proxy {
        strip_headers: vec!["x-tenant".to_owned()],
        keep_headers: vec!["cookie".to_owned()],
        retry_attempts: 4,
        retry_delay: Duration::from_millis(500),
        max_replay_body_bytes: 1024,
        buffer_bytes: 65_536,
        usage: false,
        websocket_paths: vec!["/v1/realtime".to_owned()],
        public_paths: PublicPaths::of(&["/ready".to_owned()]).unwrap(),
        sds_dir: None,
    };
    assert_eq!(proxy, expected);
    assert_eq!(with("", &[]).unwrap().proxy, Proxy::default());
    let env = [("UPSTREAM_RETRY_ATTEMPTS", "0"), ("UPSTREAM_RETRY_DELAY", "2.5")];
    let proxy = with(document, &env).unwrap().proxy;
    assert_eq!(proxy.retry_attempts, 0);
    assert_eq!(proxy.retry_delay, Duration::from_millis(2500));
}

#[test]
fn what_the_proxy_cannot_do_is_named() {
    let document = "[headers]\nkeep = [\"authorization\"]\n[retry]\nattempts = 11\ndelay = 0\n\
        [replay]\nmax_body_bytes = 0\n[listener]\nbuffer_bytes = 65535\n\
        [usage]\nenabled = 1\n[websocket]\npaths = [\"v1\"]\n";
    let message = refusal(document, &[("UPSTREAM_RETRY_DELAY", "soon")]);
    for said in [
        "headers: \"authorization\" cannot be kept; accepted: cookies",
        "retry.attempts: 11; accepted: a number from 0 to 10",
        "retry.delay: 0; accepted: seconds from 0.025 to 60",
        "UPSTREAM_RETRY_DELAY: \"soon\"; accepted: seconds from 0.025 to 60",
        "replay.max_body_bytes: 0",
        "listener.buffer_bytes: 65535; accepted: bytes from 65536 to 67108864",
        "usage.enabled: 1; accepted: true or false",
        "websocket.paths: \"v1\"",
    ] {
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn for_an_open_listener_a_key_has_to_be_long_enough() {
    let open = ("PROXY_HOST", "0.0.0.0");
    let short = refusal("", &[open, ("PROXY_API_KEY", "short-key")]);
    assert!(short.starts_with("PROXY_API_KEY: too short"), "{short}");
    assert!(!short.contains("short-key"));
    assert!(with("", &[open, ("PROXY_API_KEY", "0123456789abcdef")]).is_ok());
    assert!(with("", &[("PROXY_API_KEY", "short-key")]).is_ok());
    // Whether there are keys at all is known only with those that were made by command.
    assert!(with("", &[open]).is_ok());
}

#[test]
fn the_predecessors_key_is_one_of_a_client_named_default() {
    let document = format!("[client_keys]\nalice = \"{DIGEST}\"\n");
    let config = with(&document, &[("PROXY_API_KEY", "0123456789abcdef")]).unwrap();
    let names: Vec<_> = config.client_keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(names, ["alice", "default"]);
    let places: Vec<_> = config.client_keys.iter().map(|key| config.place_of(key)).collect();
    assert_eq!(places, [Place::Configuration, Place::Environment]);
    assert_eq!(config.client_keys[0].proof, Proof::Key(DIGEST.parse().unwrap()));
}

#[test]
fn a_key_written_where_its_digest_belongs_is_not_shown() {
    for document in
        ["client_keys = \"my-plain-key\"\n", "[client_keys]\nalice = \"my-plain-key\"\n"]
    {
        let message = refusal(document, &[]);
        assert!(message.starts_with("client_keys"), "{message}");
        assert!(!message.contains("my-plain-key"));
    }
}

#[test]
fn the_predecessors_variables_mean_the_same() {
    let config = with("", &[("GROK_PROXY_AUTH_STATE", "~/auth_state.json")]).unwrap();
    assert_eq!(config.grant_file.unwrap(), Path::new("/home/u/auth_state.json"));
    let config = with("", &[("XAI_PROXY_TOKEN_PATH", "/t/tokens.json")]).unwrap();
    assert_eq!(config.grant_file.unwrap(), Path::new("/t/tokens.json"));
}

const ACME: &str = "provider = \"acme\"\n[providers.acme]\nclient_id = \"c\"\n\
    token_endpoint = \"https://id.acme.example/token\"\nupstream = \"https://api.acme.example\"\n";

#[test]
fn a_confidential_client_and_its_headers_need_only_configuration() {
    let document = format!(
        "{ACME}client_secret_file = \"~/secret\"\nca_file = \"/ca.pem\"\n\
         token_endpoint_auth_method = \"client_secret_post\"\n\
         revocation_endpoint = \"https://id.acme.example/revoke\"\n\
         token_params = {{ audience = \"api\" }}\n\
         upstream_headers = {{ X-Team = \"50% a\", x-api-key = \"k\" }}\n"
    );
    let provider = with(&document, &[]).unwrap().provider;
    assert_eq!(provider.client_secret_file.unwrap(), Path::new("/home/u/secret"));
    assert_eq!(provider.ca_file.unwrap(), Path::new("/ca.pem"));
    assert_eq!(provider.token_params["audience"], "api");
    assert_eq!(provider.revocation_endpoint.unwrap().path(), "/revoke");
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(provider.upstream_headers, [header("x-team", "50% a"), header("x-api-key", "k")]);
}

#[test]
fn what_a_refused_token_looks_like_is_the_providers_own() {
    let default = with(ACME, &[]).unwrap().provider.dead_token;
    assert_eq!(default, filter::verdict::Rule::default());
    let rule = "dead_token_statuses = [401, 419]\ndead_token_codes = [\"token_\"]\n";
    let stated = with(&format!("{ACME}{rule}"), &[]).unwrap().provider.dead_token;
    assert_eq!((stated.statuses, stated.codes), (vec![401, 419], vec!["token_".to_owned()]));
    let message = refusal(&format!("{ACME}dead_token_statuses = [500]\n"), &[]);
    assert!(message.contains("a list of status codes from 400 to 499"), "{message}");
}

#[test]
fn what_the_refresher_or_envoy_sets_is_not_for_the_file() {
    let document = format!(
        "{ACME}token_endpoint_auth_method = \"none\"\n\
         token_params = {{ client_id = \"x\", refresh_token = \"y\" }}\n\
         authorize_params = {{ state = \"x\", nonce = \"n\" }}\n"
    );
    let message = refusal(&document, &[]);
    for setting in [
        "authorize_params.state: set by the refresher itself",
        "token_endpoint_auth_method: \"none\"; accepted: client_secret_basic or",
        "token_params.client_id: set by the refresher itself",
        "token_params.refresh_token: set by",
    ] {
        assert!(message.contains(&format!("providers.acme.{setting}")), "{message}");
    }
    assert_eq!(message.lines().count(), 4, "{message}");
    for name in [
        "authorization",
        "Proxy-Authorization",
        "Connection",
        "transfer-encoding",
        "te",
        "host",
        "cookie",
        "x-forwarded-for",
        "x-envoy-retry-on",
        "x-torchbearer-replay",
        "accept-encoding",
        "bad name",
        ":path",
        "",
    ] {
        let document = format!("{ACME}upstream_headers = {{ \"{name}\" = \"hidden-value\" }}\n");
        let message = refusal(&document, &[]);
        assert_eq!(message.lines().count(), 1, "{name}: {message}");
        assert!(!message.contains("hidden-value"), "{message}");
    }
    for value in ["", " a", "a ", "a\\nb", "a\\u0000", "\\u00e4"] {
        let document = format!("{ACME}upstream_headers = {{ x-a = \"{value}\" }}\n");
        assert!(refusal(&document, &[]).contains("x-a: not a header value"), "{value:?}");
    }
}

#[test]
fn a_file_of_hermes_is_watched_only_where_one_is_named() {
    let import = with("", &[]).unwrap().import;
    assert_eq!((import.hermes, import.poll_interval_s), (None, 60));
    assert_eq!(import.hermes_file.unwrap(), Path::new("/home/u/.hermes/auth.json"));
    assert_eq!(import.grok_file.unwrap(), Path::new("/home/u/.grok/auth.json"));
    let document = "[import]\nhermes = \"~/h.json\"\npoll_interval = 5\n";
    let import = with(document, &[]).unwrap().import;
    assert_eq!(import.hermes.as_deref(), Some(Path::new("/home/u/h.json")));
    assert_eq!((import.hermes_file, import.poll_interval_s), (import.hermes, 5));
    let env = [("HERMES_AUTH_PATH", "/e/auth.json"), ("HERMES_POLL_INTERVAL", "90")];
    let import = with(document, &env).unwrap().import;
    assert_eq!(import.hermes.unwrap(), Path::new("/e/auth.json"));
    assert_eq!(import.poll_interval_s, 90);
    let message = refusal("[import]\npoll_interval = 4\nx = 1\n", &[("HERMES_POLL_INTERVAL", "4")]);
    assert_eq!(
        message.lines().collect::<Vec<_>>(),
        [
            "import.poll_interval: 4; accepted: seconds from 5 to 86400",
            "import.x: unknown setting; accepted: hermes, poll_interval",
            "HERMES_POLL_INTERVAL: \"4\"; accepted: seconds from 5 to 86400",
        ]
    );
}

#[test]
fn where_envoy_is_and_what_is_checked_can_be_said() {
    let config = with("", &[]).unwrap();
    assert_eq!(config.check_path, "/v1/models");
    assert_eq!(config.envoy.admin, None);
    let document =
        |admin| format!("[health]\ncheck_path = \"/v2/ping?a=b\"\n[envoy]\nadmin = \"{admin}\"\n");
    for (admin, expected) in [
        ("/run/envoy.sock", Admin::Socket("/run/envoy.sock".into())),
        ("~/envoy.sock", Admin::Socket("/home/me/envoy.sock".into())),
        ("http://127.0.0.1:9901", Admin::Http("http://127.0.0.1:9901/".parse().unwrap())),
        ("http://[::1]:9901/", Admin::Http("http://[::1]:9901/".parse().unwrap())),
    ] {
        let config = with(&document(admin), &[("HOME", "/home/me")]).unwrap();
        assert_eq!(config.check_path, "/v2/ping?a=b");
        assert_eq!(config.envoy.admin, Some(expected));
    }
    for admin in
        ["envoy.sock", "http://10.0.0.1:9901", "https://127.0.0.1:1", "http://localhost:1/stats"]
    {
        let message = refusal(&document(admin), &[]);
        assert!(message.contains("accepted: the path of a unix socket, or http://"), "{message}");
    }
    for path in ["v1/models", "//evil.example/", "/a b", "/a#b", "/\u{e9}"] {
        let message = refusal(&format!("[health]\ncheck_path = \"{path}\"\n"), &[]);
        assert!(message.contains("accepted: a path of the API"), "{message}");
    }
    let message = refusal("[health]\npublic = [\"/v1/models\"]\n", &[]);
    let accepted = "accepted: /health, /health?deep=1, /ready, /metrics";
    assert!(message.starts_with("health.public: [\"/v1/models\"]; ") && message.contains(accepted));
}

#[test]
fn a_key_of_the_environment_is_one_that_a_header_can_carry() {
    let digest =
        |key: &str| with("", &[("PROXY_API_KEY", key)]).unwrap().client_keys.pop().unwrap();
    assert_eq!(digest("abc\n").proof, digest("abc").proof);
    assert_eq!(digest("abc\r\n").proof, digest("abc").proof);
    for key in ["\n", "a b", "abc ", "abc\n\n", "clé", "a\u{7f}"] {
        let message = refusal("", &[("PROXY_API_KEY", key)]);
        assert!(message.starts_with("PROXY_API_KEY: empty, or has other"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn variables_that_are_no_text_are_refused() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    let latin = |wanted: &'static str| {
        move |name: &str| (name == wanted).then(|| OsString::from_vec(b"cl\xe9".to_vec()))
    };
    for name in ["PROXY_API_KEY", "PROXY_HOST", "TORCHBEARER_STATE_DIR", "HOME"] {
        let message = require_text(&latin(name)).unwrap_err().to_string();
        assert_eq!(message, format!("{name}: not UTF-8; accepted: text in UTF-8"));
    }
    assert!(require_text(&latin("LANG")).is_ok());
    assert!(require_text(&|_| Some("text".into())).is_ok());
}

#[test]
fn only_a_usual_file_that_is_surely_not_there_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let usual = directory.path().join("torchbearer/config.toml");
    let env =
        |name: &str| (name == "XDG_CONFIG_HOME").then(|| directory.path().display().to_string());
    let found = || read(&Overrides::default(), &env);
    assert!(matches!(found(), Ok(None)));
    std::fs::write(directory.path().join("torchbearer"), "").unwrap();
    assert!(matches!(found(), Ok(None)));
    std::fs::remove_file(directory.path().join("torchbearer")).unwrap();
    std::fs::create_dir(directory.path().join("torchbearer")).unwrap();
    assert!(matches!(found(), Ok(None)));
    std::os::unix::fs::symlink("gone", &usual).unwrap();
    assert!(matches!(found(), Err(Error::Read { .. })));
    std::fs::remove_file(&usual).unwrap();
    std::fs::write(&usual, "port = 7\n").unwrap();
    assert!(matches!(found(), Ok(Some(_))));
}
