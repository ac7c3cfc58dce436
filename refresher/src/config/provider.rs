//! The provider: a preset, overridden field by field, or one of the user's own.

use url::Url;

use super::problem::Problems;
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
    let upstream = url("upstream", fields.upstream);
    let mut require = |met: bool, field: &str, accepted: &str| {
        if !met {
            problems.unaccepted(&format!("providers.{name}.{field}"), "unset", accepted);
        }
    };
    require(stated.0, "issuer", "the issuer's URL, or a token_endpoint");
    require(stated.1, "upstream", "the API's base URL");
    require(fields.client_id.is_some(), "client_id", "the id of a public client");
    Some(Provider {
        name: name.to_owned(),
        issuer,
        authorization_endpoint,
        token_endpoint,
        device_authorization_endpoint: device,
        client_id: fields.client_id?,
        scopes: fields.scopes.unwrap_or_default(),
        redirect_ports: fields.redirect_ports.unwrap_or_else(|| vec![56121]),
        redirect_path: fields.redirect_path.unwrap_or_else(|| "/callback".to_owned()),
        authorize_params: fields.authorize_params.unwrap_or_default(),
        callback_origins: fields.callback_origins.unwrap_or_default(),
        upstream: upstream?,
    })
}
