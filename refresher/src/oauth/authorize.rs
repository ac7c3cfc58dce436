//! The authorization request (RFC 6749, section 4.1.1) with PKCE (RFC 7636).

use std::collections::BTreeMap;

use oauth2::basic::BasicClient;
use oauth2::{
    AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};
use url::Url;

use crate::secret::Secret;

/// The secrets of one login attempt.
#[derive(Debug)]
pub struct Attempt {
    /// Ties the answer to this attempt (RFC 6749, section 10.12).
    pub state: Secret,
    /// Proves at redemption that we asked (RFC 7636, section 4.1): 43 characters.
    pub code_verifier: Secret,
    /// Ties an ID token to this attempt (`OpenID` Connect Core, section 3.1.2.1). Some providers
    /// insist on one; ID tokens are ignored here, so nothing is compared with it.
    pub nonce: Secret,
}

impl Attempt {
    /// Fresh secrets of 128 random bits, the verifier of 256.
    pub fn fresh() -> Self {
        let (_, verifier) = PkceCodeChallenge::new_random_sha256();
        Self {
            state: Secret::new(CsrfToken::new_random().into_secret()),
            code_verifier: Secret::new(verifier.into_secret()),
            nonce: Secret::new(CsrfToken::new_random().into_secret()),
        }
    }
}

/// What an authorization request names besides the attempt.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The client id.
    pub id: &'a str,
    /// The scopes to ask for.
    pub scopes: &'a [String],
    /// Further parameters that a provider wants.
    pub params: &'a BTreeMap<String, String>,
    /// Where the answer goes, exactly as registered.
    pub redirect_uri: &'a str,
}

/// The address to open in a browser, or nothing when the redirect URI is not one.
pub fn url(endpoint: &Url, client: &Client<'_>, attempt: &Attempt) -> Option<Url> {
    let redirect = RedirectUrl::new(client.redirect_uri.to_owned()).ok()?;
    let verifier = PkceCodeVerifier::new(attempt.code_verifier.expose().to_owned());
    let state = attempt.state.expose().to_owned();
    let oauth = BasicClient::new(ClientId::new(client.id.to_owned()))
        .set_auth_uri(AuthUrl::from_url(endpoint.clone()))
        .set_redirect_uri(redirect);
    let mut request = oauth
        .authorize_url(|| CsrfToken::new(state))
        .add_scopes(client.scopes.iter().cloned().map(Scope::new))
        .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
    let openid = client.scopes.iter().any(|scope| scope == "openid");
    if openid && !client.params.contains_key("nonce") {
        request = request.add_extra_param("nonce", attempt.nonce.expose());
    }
    for (name, value) in client.params {
        request = request.add_extra_param(name, value);
    }
    Some(request.url().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_fresh_and_its_secrets_differ() {
        let (one, two) = (Attempt::fresh(), Attempt::fresh());
        assert_ne!(one.state, two.state);
        assert_ne!(one.code_verifier, two.code_verifier);
        assert_ne!(one.state, one.code_verifier);
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.nonce, one.state);
        for attempt in [one, two] {
            assert!((43..=128).contains(&attempt.code_verifier.expose().len()));
            assert!(attempt.state.expose().len() >= 22);
        }
    }

    #[test]
    fn the_request_has_what_the_standards_ask_for() {
        let attempt = Attempt {
            state: Secret::new("st".into()),
            // RFC 7636, appendix B.
            code_verifier: Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into()),
            nonce: Secret::new("no".into()),
        };
        let client = Client {
            id: "client",
            scopes: &["openid".into(), "api".into()],
            params: &BTreeMap::from([("plan".to_owned(), "generic".to_owned())]),
            redirect_uri: "http://127.0.0.1:56121/callback",
        };
        let endpoint = Url::parse("https://id.example/authorize?tenant=1").unwrap();
        let url = url(&endpoint, &client, &attempt).unwrap();
        let pairs: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        for (name, value) in [
            ("tenant", "1"),
            ("response_type", "code"),
            ("client_id", "client"),
            ("redirect_uri", "http://127.0.0.1:56121/callback"),
            ("scope", "openid api"),
            ("state", "st"),
            ("nonce", "no"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
            ("plan", "generic"),
        ] {
            assert_eq!(pairs.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!url.as_str().contains("dBjft"));
        let nonces = |scopes: &[String], params: &BTreeMap<String, String>| -> Vec<String> {
            let url =
                super::url(&endpoint, &Client { scopes, params, ..client }, &attempt).unwrap();
            let pairs = url.query_pairs().filter(|(name, _)| name == "nonce");
            pairs.map(|(_, value)| value.into_owned()).collect()
        };
        let own = BTreeMap::from([("nonce".to_owned(), "mine".to_owned())]);
        assert_eq!(nonces(&["api".into()], &BTreeMap::new()), [""; 0]);
        assert_eq!(nonces(&["openid".into()], &own), ["mine"]);
    }
}
