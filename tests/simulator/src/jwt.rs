//! Access tokens and id tokens: JSON web tokens (RFC 7519) signed with HS256 and a key that lives
//! as long as the process.
//!
//! Written out here, because the usual crates bring RSA and elliptic curves along for one HMAC.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// What an access token says (RFC 9068, section 2.2).
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) client_id: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) jti: String,
    pub(crate) scope: String,
}

/// What an id token says (OpenID Connect Core, section 2).
#[derive(Serialize)]
pub(crate) struct IdClaims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<String>,
}

/// The signing key.
pub(crate) struct Key(Hmac<Sha256>);

impl Key {
    pub(crate) fn new(secret: [u8; 64]) -> Self {
        Self(Hmac::new(&secret.into()))
    }

    /// Signs `claims`; `typ` is the token's type in the header.
    pub(crate) fn sign(&self, typ: &str, claims: &impl Serialize) -> String {
        let header = serde_json::json!({"alg": "HS256", "typ": typ}).to_string();
        let claims = serde_json::to_vec(claims).unwrap_or_default();
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.0.clone().chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The claims of a token with our signature, whatever its age.
    pub(crate) fn verify(&self, token: &[u8]) -> Option<Claims> {
        let (signed, signature) = std::str::from_utf8(token).ok()?.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.0.clone().chain_update(signed).verify_slice(&signature).ok()?;
        // An id token is signed with the same key and is no access token: it lacks these claims.
        let (_, claims) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            iss: "i".into(),
            sub: "s".into(),
            aud: "a".into(),
            client_id: "c".into(),
            iat: 1,
            exp: 2,
            jti: "f1-t1".into(),
            scope: "openid".into(),
        }
    }

    #[test]
    fn only_the_signed_bytes_verify() {
        let key = Key::new([7; 64]);
        let token = key.sign("at+jwt", &claims());
        assert_eq!(key.verify(token.as_bytes()).unwrap().jti, "f1-t1");
        for (at, _) in token.char_indices().filter(|&(at, _)| at + 1 < token.len()) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(key.verify(&bytes).is_none(), "byte {at}");
        }
        assert!(Key::new([8; 64]).verify(token.as_bytes()).is_none());
        for bad in ["", ".", "..", "a.b.c", "\u{ff}.\u{ff}.\u{ff}"] {
            assert!(key.verify(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_id_token_is_no_access_token() {
        let key = Key::new([7; 64]);
        let id = IdClaims {
            iss: "i".into(),
            sub: "s".into(),
            aud: "a".into(),
            iat: 1,
            exp: 2,
            nonce: None,
        };
        assert!(key.verify(key.sign("JWT", &id).as_bytes()).is_none());
    }
}
