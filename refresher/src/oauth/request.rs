//! The requests that a public client sends (RFC 6749, RFC 7636, RFC 8628).

use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// A request to a provider, ready to send: `GET` without a form, else `POST` of that form.
#[derive(Debug)]
pub struct Request {
    /// Where it goes.
    pub url: Url,
    /// The body, `application/x-www-form-urlencoded`.
    pub form: Option<Secret>,
}

/// Asks for metadata (RFC 8414).
pub fn fetch(url: Url) -> Request {
    Request { url, form: None }
}

/// Spends a refresh token (RFC 6749, section 6).
pub fn refresh(token_endpoint: &Url, client_id: &str, refresh_token: &Secret) -> Request {
    post(
        token_endpoint,
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose()),
            ("client_id", client_id),
        ],
    )
}

/// Redeems an authorization code (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
pub fn redeem_code(
    token_endpoint: &Url,
    client_id: &str,
    code: &Secret,
    redirect_uri: &str,
    code_verifier: &Secret,
) -> Request {
    post(
        token_endpoint,
        &[
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri),
            ("client_id", client_id),
            ("code_verifier", code_verifier.expose()),
        ],
    )
}

/// Asks for a device and a user code (RFC 8628, section 3.1).
pub fn authorize_device(endpoint: &Url, client_id: &str, scopes: &[String]) -> Request {
    post(endpoint, &[("client_id", client_id), ("scope", &scopes.join(" "))])
}

/// Asks whether the user has approved (RFC 8628, section 3.4).
pub fn poll_device(token_endpoint: &Url, client_id: &str, device_code: &Secret) -> Request {
    post(
        token_endpoint,
        &[
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device_code.expose()),
            ("client_id", client_id),
        ],
    )
}

fn post(url: &Url, fields: &[(&str, &str)]) -> Request {
    // Room for the whole form at once: growing would leave copies of the secrets behind.
    let length: usize = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut form = form_urlencoded::Serializer::new(String::with_capacity(length));
    form.extend_pairs(fields);
    let mut form = Zeroizing::new(form.finish());
    Request { url: url.clone(), form: Some(Secret::new(std::mem::take(&mut *form))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_and_not_printed() {
        let url = Url::parse("https://id.example/token").unwrap();
        let request = refresh(&url, "client", &Secret::new("a+b&c=d".into()));
        assert_eq!(
            request.form.as_ref().unwrap().expose(),
            "grant_type=refresh_token&refresh_token=a%2Bb%26c%3Dd&client_id=client"
        );
        assert!(!format!("{request:?}").contains("a%2B"));
    }
}
