//! The provider: a preset, overridden field by field, or one of the user's own.

use std::collections::BTreeMap;

use axum::http::HeaderName;
use filter::headers::{Policy, Reason};
use url::Url;

use super::problem::Problems;
use filter::verdict::Rule;

use crate::oauth::client::AuthMethod;
use crate::provider::preset::{self, Fields};
use crate::provider::{Provider, require_secure};

/// The provider of this name, or nothing and the reasons on the list.
pub(super) fn choose(
    name: &str,
    mut configured: Vec<(String, Fields)>,
    problems: &mut Problems,
) -> Option<Provider> {
    let names: Vec<&str> = configured.iter().map(|(name, _)| name.as_str()).collect();
    let mut known: Vec<&str> = preset::NAMES.iter().copied().chain(names).collect();
    known.sort_unstable();
    known.dedup();
    let known = known.join(", ");
    let own = configured.iter().position(|(own, _)| own == name);
    let own = own.map(|index| configured.swap_remove(index).1);
    let fields = match (own, preset::preset(name)) {
        (Some(own), Some(preset)) => own.or(preset),
        (Some(own), None) => own,
        (None, Some(preset)) => preset,
        (None, None) => {
            problems.unaccepted("provider", &format!("{name:?}"), &format!("one of {known}"));
            return None;
        }
    };
    build(name, fields, problems)
}

fn build(name: &str, fields: Fields, problems: &mut Problems) -> Option<Provider> {
    let mut url = |field: &str, text: Option<String>| -> Option<Url> {
        let text = text?;
        let url = Url::parse(&text).ok().filter(|url| require_secure(url).is_ok());
        if url.is_none() {
            let setting = format!("providers.{name}.{field}");
            let accepted = "an https URL without user name, or an http URL on loopback";
            problems.unaccepted(&setting, &format!("{text:?}"), accepted);
        }
        url
    };
    let stated = (fields.issuer.is_some() || fields.token_endpoint.is_some(), &fields.upstream);
    let stated = (stated.0, stated.1.is_some());
    let issuer = url("issuer", fields.issuer);
    let authorization_endpoint = url("authorization_endpoint", fields.authorization_endpoint);
    let token_endpoint = url("token_endpoint", fields.token_endpoint);
    let device = url("device_authorization_endpoint", fields.device_authorization_endpoint);
    let revocation_endpoint = url("revocation_endpoint", fields.revocation_endpoint);
    let upstream = url("upstream", fields.upstream);
    if let Some(upstream) = upstream.as_ref().filter(|url| !is_origin(url)) {
        let accepted = "https://HOST[:PORT]; a client's path is passed on as it is";
        problems.unaccepted(
            &format!("providers.{name}.upstream"),
            &format!("{:?}", upstream.as_str()),
            accepted,
        );
    }
    let method = fields.token_endpoint_auth_method.and_then(|text| {
        let method = AuthMethod::parse(&text);
        if method.is_none() {
            let setting = format!("providers.{name}.token_endpoint_auth_method");
            let accepted = "client_secret_basic or client_secret_post";
            problems.unaccepted(&setting, &format!("{text:?}"), accepted);
        }
        method
    });
    let setting = |field: &str| format!("providers.{name}.{field}");
    let (params, own) = (fields.authorize_params, &OWN_AUTHORIZE_PARAMS);
    let authorize_params = parameters(&setting("authorize_params"), params, own, problems);
    let (params, own) = (fields.token_params, &OWN_TOKEN_PARAMS);
    let token_params = parameters(&setting("token_params"), params, own, problems);
    let redirect_ports = fields.redirect_ports.unwrap_or_else(|| vec![56121]);
    let redirect_path = fields.redirect_path.unwrap_or_else(|| "/callback".to_owned());
    redirect(name, &redirect_ports, &redirect_path, problems);
    let upstream_headers =
        upstream_headers(name, fields.upstream_headers.unwrap_or_default(), problems);
    let mut require = |met: bool, field: &str, accepted: &str| {
        if !met {
            problems.unaccepted(&format!("providers.{name}.{field}"), "unset", accepted);
        }
    };
    require(stated.0, "issuer", "the issuer's URL, or a token_endpoint");
    require(stated.1, "upstream", "the API's origin");
    require(fields.client_id.is_some(), "client_id", "the id of a registered client");
    let default = Rule::default();
    Some(Provider {
        name: name.to_owned(),
        issuer,
        authorization_endpoint,
        token_endpoint,
        device_authorization_endpoint: device,
        revocation_endpoint,
        client_secret_file: fields.client_secret_file.map(Into::into),
        token_endpoint_auth_method: method,
        client_id: fields.client_id?,
        scopes: fields.scopes.unwrap_or_default(),
        redirect_ports,
        redirect_path,
        authorize_params,
        token_params,
        callback_origins: fields.callback_origins.unwrap_or_default(),
        ca_file: fields.ca_file.map(Into::into),
        upstream: upstream?,
        upstream_headers,
        dead_token: Rule {
            statuses: fields.dead_token_statuses.unwrap_or(default.statuses),
            codes: fields.dead_token_codes.unwrap_or(default.codes),
        },
    })
}

/// Whether it is nothing more than an origin.
fn is_origin(url: &Url) -> bool {
    url.path() == "/" && url.query().is_none() && url.fragment().is_none()
}

/// Parameters of authorization requests that are not for a configuration to set.
const OWN_AUTHORIZE_PARAMS: [&str; 7] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
];

/// Parameters of token requests that are not for a configuration to set.
const OWN_TOKEN_PARAMS: [&str; 8] = [
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "device_code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
];

/// Checks further parameters: `own` are not for a configuration to set.
fn parameters(
    setting: &str,
    params: Option<BTreeMap<String, String>>,
    own: &[&str],
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let params = params.unwrap_or_default();
    for name in params.keys().filter(|name| own.contains(&name.as_str())) {
        let setting = format!("{setting}.{name}");
        problems.unaccepted(&setting, "set by the refresher itself", "any other parameter");
    }
    params
}

/// Checks where a browser is sent back to.
fn redirect(provider: &str, ports: &[u16], path: &str, problems: &mut Problems) {
    let setting = |field: &str| format!("providers.{provider}.{field}");
    if ports.is_empty() {
        problems.unaccepted(&setting("redirect_ports"), "none", "at least one port");
    }
    // What a browser makes of it is what it has to be compared with.
    let url = Url::parse(&format!("http://127.0.0.1{path}"));
    if !path.starts_with('/') || !url.is_ok_and(|url| url.path() == path) {
        let accepted = "the path of a URL, such as /callback";
        problems.unaccepted(&setting("redirect_path"), &format!("{path:?}"), accepted);
    }
}

/// The longest value of a header, in bytes.
const MAX_HEADER_BYTES: usize = 4096;

/// Checks the headers for the API. Values are not shown.
fn upstream_headers(
    provider: &str,
    headers: Vec<(String, String)>,
    problems: &mut Problems,
) -> Vec<(String, String)> {
    let mut checked = Vec::new();
    for (name, value) in headers {
        let setting = format!("providers.{provider}.upstream_headers.{name}");
        let Ok(known) = name.parse::<HeaderName>() else {
            problems.unaccepted(&setting, "not a header name", "the name of an HTTP header");
            continue;
        };
        if !is_settable(known.as_str()) {
            let accepted = "a name that is not of one connection, of routing, or of Envoy or us, \
                            and not authorization";
            problems.unaccepted(&setting, "not for a configuration to set", accepted);
        }
        let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || value.trim() != value || !(1..=MAX_HEADER_BYTES).contains(&value.len()) {
            let accepted = "1 to 4096 printable ASCII characters without spaces around them";
            problems.unaccepted(&setting, "not a header value", accepted);
        }
        checked.push((known.as_str().to_owned(), value));
    }
    checked
}

/// Whether a header can be set for every request. Other systems' credentials can: a name alone
/// does not tell what is secret.
fn is_settable(name: &str) -> bool {
    match Policy::default().of_request(name) {
        None => !matches!(name, "host" | "content-length" | "content-type" | "expect"),
        Some(Reason::Credential) => !matches!(name, "authorization" | "proxy-authorization"),
        Some(_) => false,
    }
}
