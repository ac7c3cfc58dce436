//! Every setting of the file in one table: what it is called, where else it can be set, what is
//! accepted, what it means, and what it is at present. The schema, the example and `config show` are
//! made of it, and a test holds it to what the file's reader knows.

mod providers;

use filter::management::PAGES;
use serde_json::{Value, json};

use super::{Config, DEFAULT_PORT, PublishTls, value};
use crate::admin::Admin;

pub(super) use providers::PROVIDER;

/// A setting.
pub(super) struct Setting {
    /// Its place in the file.
    pub(super) path: &'static str,
    /// The environment variables that set it, the first of them first.
    pub(super) variables: &'static [&'static str],
    /// The flag of every command that sets it.
    pub(super) flag: Option<&'static str>,
    /// What it means, in sentences.
    pub(super) meaning: &'static str,
    /// The JSON Schema of its value.
    pub(super) schema: fn() -> Value,
    /// What the example file has.
    pub(super) example: Example,
    /// What it is at present; null: unset.
    pub(super) present: fn(&Config) -> Value,
}

/// What the example file has of a setting.
pub(super) enum Example {
    /// Its default.
    Default(fn() -> Value),
    /// It is unset by default, or depends on the machine; this is shown behind a `#`.
    Unset(&'static str),
}

/// An integer within bounds.
pub(super) fn integer(minimum: u64, maximum: u64) -> Value {
    // A TOML integer has 63 bits.
    match maximum {
        u64::MAX => json!({"type": "integer", "minimum": minimum}),
        _ => json!({"type": "integer", "minimum": minimum, "maximum": maximum}),
    }
}

/// A string that is not empty.
pub(super) fn text() -> Value {
    json!({"type": "string", "minLength": 1})
}

/// A list of strings.
pub(super) fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn shown(path: Option<&std::path::Path>) -> Value {
    path.map_or(Value::Null, |path| path.display().to_string().into())
}

fn tls(config: &Config, read: impl Fn(&PublishTls) -> Value) -> Value {
    config.publish.tls.as_ref().map_or(Value::Null, read)
}

/// All of them but those of a provider and of a client key, which have the user's names.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "provider",
        variables: &["TORCHBEARER_PROVIDER"],
        flag: Some("--provider"),
        meaning: "The provider: a preset (xai, demo) or a name under [providers].",
        schema: text,
        example: Example::Default(|| "xai".into()),
        present: |config| config.provider.name.clone().into(),
    },
    Setting {
        path: "state_dir",
        variables: &["TORCHBEARER_STATE_DIR"],
        flag: Some("--state-dir"),
        meaning: "Where grants, the socket and logs live, mode 0700. Unset: torchbearer in \
                  $XDG_STATE_HOME, else in ~/.local/state.",
        schema: text,
        example: Example::Unset("\"~/.local/state/torchbearer\""),
        present: |config| shown(Some(&config.state_dir)),
    },
    Setting {
        path: "socket",
        variables: &["TORCHBEARER_SOCKET"],
        flag: Some("--socket"),
        meaning: "The unix socket of the sidecar. Unset: refresher.sock in the state directory.",
        schema: text,
        example: Example::Unset("\"/run/torchbearer/refresher.sock\""),
        present: |config| shown(Some(&config.socket)),
    },
    Setting {
        path: "listener.host",
        variables: &["PROXY_HOST"],
        flag: Some("--host"),
        meaning: "Where `up` listens: an IP address or localhost. One that is not on loopback needs \
                  client keys.",
        schema: text,
        example: Example::Default(|| "127.0.0.1".into()),
        present: |config| config.listener.host.to_string().into(),
    },
    Setting {
        path: "listener.port",
        variables: &["PROXY_PORT"],
        flag: Some("--port"),
        meaning: "The first of 20 ports to try; 0 lets the kernel choose.",
        schema: || integer(0, 65_535),
        example: Example::Default(|| DEFAULT_PORT.into()),
        present: |config| config.listener.port.into(),
    },
    Setting {
        path: "listener.buffer_bytes",
        variables: &[],
        flag: None,
        meaning: "What Envoy holds for one connection of a client, in bytes: the largest body that is \
                  read for its model, and of an answer that the client does not read.",
        schema: || integer(*value::BUFFER.start(), *value::BUFFER.end()),
        example: Example::Default(|| 1_048_576.into()),
        present: |config| config.proxy.buffer_bytes.into(),
    },
    Setting {
        path: "rotation.window",
        variables: &["TOKEN_REFRESH_WINDOW"],
        flag: None,
        meaning: "Refresh so many seconds before expiry. Unset: at half of the token's life.",
        schema: || integer(value::MIN_WINDOW_S, u64::MAX),
        example: Example::Unset("300"),
        present: |config| config.rotation.window_s.into(),
    },
    Setting {
        path: "rotation.spacing",
        variables: &[],
        flag: None,
        meaning: "The shortest time between two scheduled refreshes, in seconds.",
        schema: || integer(1, 86_400),
        example: Example::Default(|| 60.into()),
        present: |config| config.rotation.spacing_s.into(),
    },
    Setting {
        path: "envoy.bin",
        variables: &["ENVOY_BIN"],
        flag: Some("--envoy"),
        meaning: "The Envoy that `up` runs, 1.37 or later. Unset: envoy beside this program, \
                  else on PATH.",
        schema: text,
        example: Example::Unset("\"/usr/local/bin/envoy\""),
        present: |config| shown(config.envoy.bin.as_deref()),
    },
    Setting {
        path: "envoy.filter",
        variables: &["TORCHBEARER_FILTER"],
        flag: Some("--filter"),
        meaning: "The filter's module. Unset: filter.wasm beside the program.",
        schema: text,
        example: Example::Unset("\"/usr/local/lib/torchbearer/filter.wasm\""),
        present: |config| shown(config.envoy.filter.as_deref()),
    },
    Setting {
        path: "envoy.concurrency",
        variables: &[],
        flag: None,
        meaning: "Envoy's worker threads. Unset: one for each core.",
        schema: || integer(1, 1024),
        example: Example::Unset("2"),
        present: |config| config.envoy.concurrency.into(),
    },
    Setting {
        path: "envoy.trusted_ca",
        variables: &[],
        flag: None,
        meaning: "Certificates, PEM, that the API's is checked against. Unset: the system's.",
        schema: text,
        example: Example::Unset("\"/etc/ssl/certs/ca-certificates.crt\""),
        present: |config| shown(config.envoy.trusted_ca.as_deref()),
    },
    Setting {
        path: "envoy.admin",
        variables: &[],
        flag: None,
        meaning: "Where an Envoy that `up` did not start has its admin interface: the path of a unix \
                  socket, or http:// with a loopback address. Unset: envoy-admin.sock beside the \
                  refresher's socket.",
        schema: text,
        example: Example::Unset("\"/run/torchbearer/envoy-admin.sock\""),
        present: |config| match &config.envoy.admin {
            None => Value::Null,
            Some(Admin::Socket(path)) => shown(Some(path)),
            Some(Admin::Http(url)) => url.as_str().into(),
        },
    },
    Setting {
        path: "envoy.drain_timeout",
        variables: &[],
        flag: None,
        meaning: "How long requests under way may go on when `up` is stopped, in seconds.",
        schema: || integer(0, 86_400),
        example: Example::Default(|| 10.into()),
        present: |config| config.envoy.drain_timeout.as_secs().into(),
    },
    Setting {
        path: "envoy.reload_timeout",
        variables: &[],
        flag: None,
        meaning: "How long streams of an earlier configuration may go on after a reload, in seconds.",
        schema: || integer(10, 604_800),
        example: Example::Default(|| 900.into()),
        present: |config| config.envoy.reload_timeout.as_secs().into(),
    },
    Setting {
        path: "envoy.log_max_bytes",
        variables: &[],
        flag: None,
        meaning: "At which size the log of `up`'s Envoy is rotated, in bytes.",
        schema: || integer(65_536, 1_073_741_824),
        example: Example::Default(|| 16_777_216.into()),
        present: |config| config.envoy.log_max_bytes.into(),
    },
    Setting {
        path: "envoy.log_files",
        variables: &[],
        flag: None,
        meaning: "How many files of that log there are, the present one included.",
        schema: || integer(2, 100),
        example: Example::Default(|| 5.into()),
        present: |config| config.envoy.log_files.into(),
    },
    Setting {
        path: "health.public",
        variables: &[],
        flag: None,
        meaning: "Pages of the refresher that need no client key. They open no way to the API.",
        schema: || json!({"type": "array", "items": {"enum": PAGES}}),
        example: Example::Default(|| json!([])),
        present: |config| config.proxy.public_paths.targets().into(),
    },
    Setting {
        path: "health.check_path",
        variables: &[],
        flag: None,
        meaning: "What the deep check asks the API for, by GET.",
        schema: || json!({"type": "string", "pattern": "^/"}),
        example: Example::Default(|| "/v1/models".into()),
        present: |config| config.check_path.clone().into(),
    },
    Setting {
        path: "status_page.enabled",
        variables: &[],
        flag: None,
        meaning: "Whether there is a status page, on loopback. Unset: with `up`, not with `serve`.",
        schema: || json!({"type": "boolean"}),
        example: Example::Unset("true"),
        present: |config| config.status_page.enabled.into(),
    },
    Setting {
        path: "status_page.port",
        variables: &[],
        flag: None,
        meaning: "The first of 20 ports to try for it; 0 lets the kernel choose.",
        schema: || integer(0, 65_535),
        example: Example::Default(|| 9997.into()),
        present: |config| config.status_page.port.into(),
    },
    Setting {
        path: "publish.listen",
        variables: &[],
        flag: None,
        meaning: "Where Envoys on other machines fetch the token, by mutual TLS: an IP address with a \
                  port. With it go the next four. Unset: nowhere.",
        schema: text,
        example: Example::Unset("\"0.0.0.0:9443\""),
        present: |config| tls(config, |tls| tls.listen.to_string().into()),
    },
    Setting {
        path: "publish.certificate",
        variables: &[],
        flag: None,
        meaning: "The refresher's certificate there, PEM, with those between it and its authority's.",
        schema: text,
        example: Example::Unset("\"/etc/torchbearer/tls/tls.crt\""),
        present: |config| tls(config, |tls| shown(Some(&tls.certificate))),
    },
    Setting {
        path: "publish.private_key",
        variables: &[],
        flag: None,
        meaning: "Its private key, PEM, that nobody else can read.",
        schema: text,
        example: Example::Unset("\"/etc/torchbearer/tls/tls.key\""),
        present: |config| tls(config, |tls| shown(Some(&tls.private_key))),
    },
    Setting {
        path: "publish.client_ca",
        variables: &[],
        flag: None,
        meaning: "The authorities that have signed the certificates of Envoys, PEM.",
        schema: text,
        example: Example::Unset("\"/etc/torchbearer/tls/ca.crt\""),
        present: |config| tls(config, |tls| shown(Some(&tls.client_ca))),
    },
    Setting {
        path: "publish.allowed_names",
        variables: &[],
        flag: None,
        meaning: "The URIs or DNS names in certificates that admit, at least one; * as the end of a \
                  URI's path or as the first label of a DNS name stands for anything.",
        schema: || json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        example: Example::Unset("[\"spiffe://example.org/envoy/*\", \"envoy.example.org\"]"),
        present: |config| {
            tls(config, |tls| tls.allowed_names.iter().map(ToString::to_string).collect())
        },
    },
    Setting {
        path: "publish.loopback_port",
        variables: &[],
        flag: None,
        meaning: "A port of 127.0.0.1 where whoever can connect gets the token by plain HTTP: for a \
                  pod of its own whose Envoy cannot reach a unix socket. Unset: none.",
        schema: || integer(1, 65_535),
        example: Example::Unset("9995"),
        present: |config| config.publish.loopback_port.into(),
    },
    Setting {
        path: "publish.sds_dir",
        variables: &[],
        flag: None,
        meaning: "A directory of its own for tokens as secrets of Envoy's (SDS), one file a login; the \
                  socket and the loopback port are then without them. Unset: none.",
        schema: text,
        example: Example::Unset("\"/run/torchbearer/sds\""),
        present: |config| shown(config.publish.sds_dir.as_deref()),
    },
    Setting {
        path: "headers.strip",
        variables: &[],
        flag: None,
        meaning: "Request headers that are stripped besides those of the table in the README; * at \
                  the end is a wildcard.",
        schema: texts,
        example: Example::Default(|| json!([])),
        present: |config| config.proxy.strip_headers.clone().into(),
    },
    Setting {
        path: "headers.keep",
        variables: &[],
        flag: None,
        meaning: "Headers of that table that pass all the same: cookies, forwarding headers, \
                  accept-encoding; never a credential.",
        schema: texts,
        example: Example::Default(|| json!([])),
        present: |config| config.proxy.keep_headers.clone().into(),
    },
    Setting {
        path: "retry.attempts",
        variables: &["UPSTREAM_RETRY_ATTEMPTS"],
        flag: None,
        meaning: "How often a GET, HEAD or OPTIONS is tried again after 429, 502, 503 or a lost \
                  connection, and any request for which no connection could be made.",
        schema: || integer(0, 10),
        example: Example::Default(|| 2.into()),
        present: |config| config.proxy.retry_attempts.into(),
    },
    Setting {
        path: "retry.delay",
        variables: &["UPSTREAM_RETRY_DELAY"],
        flag: None,
        meaning: "The longest pause before that, in seconds. The API's Retry-After comes first, if it \
                  is 10 s at most.",
        schema: || json!({"type": "number", "minimum": 0.025, "maximum": 60}),
        example: Example::Default(|| json!(1.0)),
        present: |config| config.proxy.retry_delay.as_secs_f64().into(),
    },
    Setting {
        path: "replay.max_body_bytes",
        variables: &[],
        flag: None,
        meaning: "The largest body that is sent again after a refused token, in bytes.",
        schema: || integer(1, 0x400_0000),
        example: Example::Default(|| 4_194_304.into()),
        present: |config| config.proxy.max_replay_body_bytes.into(),
    },
    Setting {
        path: "usage.enabled",
        variables: &[],
        flag: None,
        meaning: "Whether the tokens that answers tell are counted.",
        schema: || json!({"type": "boolean"}),
        example: Example::Default(|| true.into()),
        present: |config| config.proxy.usage.into(),
    },
    Setting {
        path: "websocket.paths",
        variables: &[],
        flag: None,
        meaning: "Beginnings of the paths on which WebSockets may be opened, such as /v1/realtime.",
        schema: || json!({"type": "array", "items": {"type": "string", "pattern": "^/[^?#]*$"}}),
        example: Example::Default(|| json!([])),
        present: |config| config.proxy.websocket_paths.clone().into(),
    },
    Setting {
        path: "import.hermes",
        variables: &["HERMES_AUTH_PATH"],
        flag: None,
        meaning: "Hermes's auth.json, whose new logins `serve` and `up` take over. Unset: none.",
        schema: text,
        example: Example::Unset("\"~/.hermes/auth.json\""),
        present: |config| shown(config.import.hermes.as_deref()),
    },
    Setting {
        path: "import.poll_interval",
        variables: &["HERMES_POLL_INTERVAL"],
        flag: None,
        meaning: "How often that file is looked at, besides file events, in seconds.",
        schema: || integer(value::MIN_POLL_S, 86_400),
        example: Example::Default(|| 60.into()),
        present: |config| config.import.poll_interval_s.into(),
    },
];

/// What only the environment sets: the variable, what it means, and what it is at present.
pub(super) struct Variable {
    pub(super) names: &'static [&'static str],
    pub(super) setting: &'static str,
    pub(super) present: fn(&Config) -> Value,
}

/// A secret, or what tells of one, as it is shown.
pub(super) const REDACTED: &str = "[redacted]";

/// All of those.
pub(super) const VARIABLES: &[Variable] = &[
    Variable {
        names: &["GROK_PROXY_AUTH_STATE", "XAI_PROXY_TOKEN_PATH"],
        setting: "grant_file",
        present: |config| shown(config.grant_file.as_deref()),
    },
    Variable {
        names: &["PROXY_API_KEY"],
        setting: "api_key",
        present: |config| if config.api_key { REDACTED.into() } else { Value::Null },
    },
];
