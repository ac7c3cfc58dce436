//! The settings of a provider, `[providers.NAME]`.

use serde_json::{Map, Value, json};
use url::Url;

use super::{REDACTED, text, texts};
use crate::oauth::client::AuthMethod;
use crate::provider::Provider;

/// A setting of a provider.
pub(in crate::config) struct Field {
    /// Its name.
    pub(in crate::config) name: &'static str,
    /// What it means, in sentences.
    pub(in crate::config) meaning: &'static str,
    /// The JSON Schema of its value.
    pub(in crate::config) schema: fn() -> Value,
    /// What the example file has, behind a `#`.
    pub(in crate::config) example: &'static str,
    /// What it is at present; null: unset.
    pub(in crate::config) present: fn(&Provider) -> Value,
}

/// All of them.
pub(in crate::config) const PROVIDER: &[Field] = &[
    Field {
        name: "issuer",
        meaning: "Where the endpoints are discovered (OpenID Connect Discovery, else RFC 8414).",
        schema: url,
        example: "\"https://login.example.com\"",
        present: |provider| shown(provider.issuer.as_ref()),
    },
    Field {
        name: "authorization_endpoint",
        meaning: "Instead of discovery.",
        schema: url,
        example: "\"https://login.example.com/authorize\"",
        present: |provider| shown(provider.authorization_endpoint.as_ref()),
    },
    Field {
        name: "token_endpoint",
        meaning: "Instead of discovery.",
        schema: url,
        example: "\"https://login.example.com/token\"",
        present: |provider| shown(provider.token_endpoint.as_ref()),
    },
    Field {
        name: "device_authorization_endpoint",
        meaning: "Instead of discovery.",
        schema: url,
        example: "\"https://login.example.com/device\"",
        present: |provider| shown(provider.device_authorization_endpoint.as_ref()),
    },
    Field {
        name: "revocation_endpoint",
        meaning: "Instead of discovery.",
        schema: url,
        example: "\"https://login.example.com/revoke\"",
        present: |provider| shown(provider.revocation_endpoint.as_ref()),
    },
    Field {
        name: "client_id",
        meaning: "As registered with the provider.",
        schema: text,
        example: "\"my-client\"",
        present: |provider| provider.client_id.clone().into(),
    },
    Field {
        name: "client_secret_file",
        meaning: "A file with the client's secret, 0600, where the provider gave one.",
        schema: text,
        example: "\"~/.config/torchbearer/client-secret\"",
        present: |provider| super::shown(provider.client_secret_file.as_deref()),
    },
    Field {
        name: "token_endpoint_auth_method",
        meaning: "How the secret is presented. Unset: as discovered, else client_secret_basic.",
        schema: || json!({"enum": ["client_secret_basic", "client_secret_post"]}),
        example: "\"client_secret_basic\"",
        present: |provider| match provider.token_endpoint_auth_method {
            None => Value::Null,
            Some(AuthMethod::Basic) => "client_secret_basic".into(),
            Some(AuthMethod::Post) => "client_secret_post".into(),
        },
    },
    Field {
        name: "scopes",
        meaning: "The scopes to ask for.",
        schema: texts,
        example: "[\"openid\", \"offline_access\"]",
        present: |provider| provider.scopes.clone().into(),
    },
    Field {
        name: "redirect_ports",
        meaning: "The ports of the loopback redirects that are registered, in order of choice.",
        schema: || json!({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65_535}}),
        example: "[56121]",
        present: |provider| provider.redirect_ports.clone().into(),
    },
    Field {
        name: "redirect_path",
        meaning: "Their path.",
        schema: text,
        example: "\"/callback\"",
        present: |provider| provider.redirect_path.clone().into(),
    },
    Field {
        name: "authorize_params",
        meaning: "Further parameters of authorization requests, browser and device.",
        schema: strings,
        example: "{ prompt = \"consent\" }",
        present: |provider| names(provider.authorize_params.keys()),
    },
    Field {
        name: "token_params",
        meaning: "Further parameters of token requests.",
        schema: strings,
        example: "{ audience = \"https://api.example.com\" }",
        present: |provider| names(provider.token_params.keys()),
    },
    Field {
        name: "callback_origins",
        meaning: "Origins whose pages may call the callback.",
        schema: texts,
        example: "[\"https://login.example.com\"]",
        present: |provider| provider.callback_origins.clone().into(),
    },
    Field {
        name: "ca_file",
        meaning: "Certificates, PEM, to trust for the provider besides the system's.",
        schema: text,
        example: "\"/etc/ssl/example-ca.pem\"",
        present: |provider| super::shown(provider.ca_file.as_deref()),
    },
    Field {
        name: "upstream",
        meaning: "The API: https://HOST[:PORT], or http:// on loopback.",
        schema: url,
        example: "\"https://api.example.com\"",
        present: |provider| shown(Some(&provider.upstream)),
    },
    Field {
        name: "dead_token_statuses",
        meaning: "Status codes by which the API refuses a token.",
        schema: || json!({"type": "array", "items": {"type": "integer", "minimum": 400, "maximum": 499}}),
        example: "[401]",
        present: |provider| provider.dead_token.statuses.clone().into(),
    },
    Field {
        name: "dead_token_codes",
        meaning: "Beginnings of the codes by which it does so in the JSON body of a 403.",
        schema: texts,
        example: "[\"unauthenticated:\"]",
        present: |provider| provider.dead_token.codes.clone().into(),
    },
    Field {
        name: "upstream_headers",
        meaning: "Headers that every request to the API gets. They stand in Envoy's configuration, \
                  so no secrets.",
        schema: strings,
        example: "{ x-team = \"research\" }",
        present: |provider| names(provider.upstream_headers.iter().map(|(name, _)| name)),
    },
];

/// An address: `https`, or `http` on loopback, which only the reader can judge.
fn url() -> Value {
    json!({"type": "string", "format": "uri", "pattern": "^https?://"})
}

fn strings() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

fn shown(url: Option<&Url>) -> Value {
    url.map_or(Value::Null, |url| url.as_str().into())
}

/// Values that a user has chosen may be secret, whatever is said about that.
fn names<'a>(names: impl Iterator<Item = &'a String>) -> Value {
    let redacted = names.map(|name| (name.clone(), REDACTED.into()));
    Value::Object(redacted.collect::<Map<_, _>>())
}
