//! The requests that a client sends (RFC 6749, RFC 7009, RFC 7636, RFC 8628).

use std::collections::BTreeMap;

use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::oauth::client::{AuthMethod, Client, Proof};
use crate::secret::Secret;

/// A request to a provider, ready to send: `GET` without a form, else `POST` of that form.
#[derive(Debug)]
pub struct Request {
    /// Where it goes.
    pub url: Url,
    /// The body, `application/x-www-form-urlencoded`.
    pub form: Option<Secret>,
    /// User name and password of `Authorization: Basic`, encoded as RFC 6749, section 2.3.1, asks
    /// for.
    pub basic: Option<(String, Secret)>,
}

/// Asks for metadata (RFC 8414).
pub fn fetch(url: Url) -> Request {
    Request { url, form: None, basic: None }
}

/// Spends a refresh token (RFC 6749, section 6).
pub fn refresh(token_endpoint: &Url, client: &Client, refresh_token: &Secret) -> Request {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
    token(token_endpoint, client, &fields)
}

/// Redeems an authorization code (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
pub fn redeem_code(
    token_endpoint: &Url,
    client: &Client,
    code: &Secret,
    redirect_uri: &str,
    code_verifier: &Secret,
) -> Request {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.expose()),
        ("redirect_uri", redirect_uri),
        ("code_verifier", code_verifier.expose()),
    ];
    token(token_endpoint, client, &fields)
}

/// Parameters of an authorization request that are not for the device authorization endpoint:
/// those about the page that a browser shows or the way back from it (RFC 6749, section 4.1.1, RFC
/// 7636, section 4.3, `OpenID` Connect Core, section 3.1.2.1), and what this request says itself.
const NOT_FOR_DEVICES: [&str; 16] = [
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "display",
    "id_token_hint",
    "login_hint",
    "max_age",
    "nonce",
    "prompt",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
    "ui_locales",
];

/// Asks for a device and a user code (RFC 8628, section 3.1). Of `params`, the further parameters
/// of authorization requests, those are sent that say what is asked for, such as `audience` or
/// `resource`, and not those that only make sense in a browser, such as `prompt` or `nonce`.
pub fn authorize_device(
    endpoint: &Url,
    client: &Client,
    scopes: &[String],
    params: &BTreeMap<String, String>,
) -> Request {
    let scope = scopes.join(" ");
    let further = params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let further = further.filter(|(name, _)| !NOT_FOR_DEVICES.contains(name));
    let fields: Vec<_> = std::iter::once(("scope", scope.as_str())).chain(further).collect();
    post(endpoint, client, &fields)
}

/// Asks whether the user has approved (RFC 8628, section 3.4).
pub fn poll_device(token_endpoint: &Url, client: &Client, device_code: &Secret) -> Request {
    let fields = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device_code.expose()),
    ];
    token(token_endpoint, client, &fields)
}

/// Ends a grant (RFC 7009, section 2.1).
pub fn revoke(revocation_endpoint: &Url, client: &Client, refresh_token: &Secret) -> Request {
    let fields = [("token", refresh_token.expose()), ("token_type_hint", "refresh_token")];
    post(revocation_endpoint, client, &fields)
}

fn token(url: &Url, client: &Client, fields: &[(&str, &str)]) -> Request {
    let further = client.params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let fields: Vec<_> = fields.iter().copied().chain(further).collect();
    post(url, client, &fields)
}

/// A form with what says who the client is. With `Authorization: Basic` nothing of that is in the
/// body: a client must not use two methods at once (RFC 6749, section 2.3).
fn post(url: &Url, client: &Client, fields: &[(&str, &str)]) -> Request {
    let mut fields = fields.to_vec();
    let mut basic = None;
    match &client.proof {
        Proof::Secret(secret, AuthMethod::Basic) => {
            let encoded = |text: &str| -> String {
                form_urlencoded::byte_serialize(text.as_bytes()).collect()
            };
            basic = Some((encoded(&client.id), Secret::new(encoded(secret.expose()))));
        }
        Proof::Secret(secret, AuthMethod::Post) => {
            fields.extend([("client_id", client.id.as_str()), ("client_secret", secret.expose())]);
        }
        Proof::None => fields.push(("client_id", &client.id)),
    }
    // Room for the whole form at once: growing would leave copies of the secrets behind.
    let length: usize = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut form = form_urlencoded::Serializer::new(String::with_capacity(length));
    form.extend_pairs(fields);
    let mut form = Zeroizing::new(form.finish());
    Request { url: url.clone(), form: Some(Secret::new(std::mem::take(&mut *form))), basic }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proof: Proof) -> Client {
        let params = [("audience".to_owned(), "api".to_owned())].into();
        Client { id: "cli ent".to_owned(), proof, params }
    }

    fn request(proof: Proof) -> Request {
        let url = Url::parse("https://id.example/token").unwrap();
        refresh(&url, &client(proof), &Secret::new("a+b&c=d".into()))
    }

    #[test]
    fn a_form_is_encoded_and_not_printed() {
        let request = request(Proof::None);
        assert_eq!(
            request.form.as_ref().unwrap().expose(),
            "grant_type=refresh_token&refresh_token=a%2Bb%26c%3Dd&audience=api&client_id=cli+ent"
        );
        assert!(!format!("{request:?}").contains("a%2B"));
        assert_eq!(request.basic, None);
    }

    #[test]
    fn a_secret_is_in_the_header_or_in_the_body_and_never_printed() {
        let secret = || Secret::new("s:cret%".into());
        let basic = request(Proof::Secret(secret(), AuthMethod::Basic));
        assert!(!basic.form.as_ref().unwrap().expose().contains("client"));
        let (user, password) = basic.basic.as_ref().unwrap();
        assert_eq!((user.as_str(), password.expose()), ("cli+ent", "s%3Acret%25"));
        let post = request(Proof::Secret(secret(), AuthMethod::Post));
        assert_eq!(post.basic, None);
        let form = post.form.as_ref().unwrap().expose();
        assert!(form.ends_with("&client_id=cli+ent&client_secret=s%3Acret%25"), "{form}");
        for request in [basic, post] {
            assert!(!format!("{request:?}").contains("cret%"));
        }
    }

    #[test]
    fn a_device_request_asks_for_the_same_but_not_for_a_page() {
        let url = Url::parse("https://id.example/device").unwrap();
        let params = [("audience", "the api"), ("nonce", "n"), ("prompt", "login"), ("plan", "x")];
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let scopes = ["openid".to_owned(), "api".to_owned()];
        let request = authorize_device(&url, &client(Proof::None), &scopes, &params);
        assert_eq!(
            request.form.unwrap().expose(),
            "scope=openid+api&audience=the+api&plan=x&client_id=cli+ent"
        );
    }

    #[test]
    fn a_revocation_names_the_token_and_what_it_is() {
        let url = Url::parse("https://id.example/revoke").unwrap();
        let request = revoke(&url, &client(Proof::None), &Secret::new("rt".into()));
        let form = request.form.unwrap();
        assert_eq!(form.expose(), "token=rt&token_type_hint=refresh_token&client_id=cli+ent");
    }
}
