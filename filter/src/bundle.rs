//! The contract between the refresher, which publishes bundles, and the filter, which accepts them.
//!
//! A bundle is one JSON document with everything that a filter needs to serve: the state of each
//! credential and the client keys. The filter owns this module: what [`Bundle::parse`] accepts is
//! the contract, and the refresher builds the same types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::client::ClientKey;
use crate::json;

/// The contract version that this crate reads and writes.
pub const VERSION: u32 = 1;

/// The credential that a request uses when its client key names none.
pub const DEFAULT_CREDENTIAL: &str = "default";

/// The largest bundle that a filter reads, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Path of the long poll: `GET /v1/bundle?generation=G&wait=SECONDS&worker=ID`.
pub const BUNDLE_PATH: &str = "/v1/bundle";

/// The parameter of the long poll by which a VM names itself, so that the refresher can tell which
/// generation each of them serves: 1 to 32 hexadecimal digits.
pub const WORKER_PARAMETER: &str = "worker";

/// Path to which a filter reports a token that the upstream refused.
pub const REJECTIONS_PATH: &str = "/v1/rejections";

/// Everything a filter serves from, as of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    version: u32,
    /// Grows with every publication, over restarts too: milliseconds since the Unix epoch at
    /// publication, and at least one more than the last.
    pub generation: u64,
    /// Credentials by name.
    pub credentials: Credentials,
    /// Client keys that hold in addition to those of the plugin configuration. Where there is a
    /// list, a client key is required, even if the list has become empty: revoking the last key
    /// must not open what it protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_keys: Option<Vec<ClientKey>>,
    /// How the refresher itself gets through the gate, for its check of the whole way. It has the
    /// form of a client key and is none: it opens `GET` of exactly its one path, and does not count
    /// where it matters whether there are keys. The key is new with each start of the refresher,
    /// which alone knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ClientKey>,
}

impl Bundle {
    /// A bundle of the current contract version.
    pub fn new(
        generation: u64,
        credentials: impl IntoIterator<Item = (String, Credential)>,
        client_keys: Option<Vec<ClientKey>>,
    ) -> Self {
        let credentials = Credentials(credentials.into_iter().collect());
        Self { version: VERSION, generation, credentials, client_keys, probe: None }
    }

    /// The same for a filter behind which Envoy's own `credential_injector` puts in the tokens: all
    /// that is known of them, but not them.
    #[must_use]
    pub fn without_tokens(mut self) -> Self {
        for (_, credential) in &mut self.credentials.0 {
            if let Credential::Ready(token) = credential {
                token.access_token = None;
            }
        }
        self
    }

    /// Reads a published bundle.
    ///
    /// # Errors
    ///
    /// When the document is larger than [`MAX_BYTES`], is not valid JSON of this shape, or has
    /// another version. The error never quotes the document, which holds access tokens.
    pub fn parse(document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > MAX_BYTES {
            return Err(BundleError::TooLarge { bytes: document.len() });
        }
        let version = json::read::<Version>(document)?.version;
        if version != VERSION {
            return Err(BundleError::UnknownVersion { version });
        }
        Ok(json::read(document)?)
    }
}

/// Only the field that says how to read the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why a document is not a bundle that this filter can serve from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Larger than [`MAX_BYTES`].
    #[error("bundle of {bytes} bytes is larger than the {MAX_BYTES} that are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Of a contract version that this filter does not know.
    #[error("bundle has version {version}, this filter reads version {VERSION}")]
    UnknownVersion {
        /// The version it has.
        version: u32,
    },
    /// Not JSON, or not of the contract's shape.
    #[error("bundle: {0}")]
    Shape(#[from] json::Error),
}

/// Credentials by name, few enough that a list is as good as a map and much less code in the
/// module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials(Vec<(String, Credential)>);

impl Credentials {
    /// The credential of this name.
    pub fn get(&self, name: &str) -> Option<&Credential> {
        self.iter().find_map(|(known, credential)| (known == name).then_some(credential))
    }

    /// All of them, in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Credential)> {
        self.0.iter().map(|(name, credential)| (name.as_str(), credential))
    }
}

impl Serialize for Credentials {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Credentials;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("credentials by name")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Credentials, A::Error> {
                let mut credentials = Credentials::default();
                while let Some((name, credential)) = map.next_entry::<String, _>()? {
                    // RFC 8259, section 4: of a repeated name, readers differ in what they take.
                    if credentials.get(&name).is_some() {
                        return Err(de::Error::custom("a credential is named twice"));
                    }
                    credentials.0.push((name, credential));
                }
                Ok(credentials)
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// The state of one credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", try_from = "WireCredential")]
pub enum Credential {
    /// There is an access token to inject.
    Ready(Token),
    /// Nothing helps but a new login.
    LoginRequired {
        /// Why, in a word of the protocol (`invalid_grant`) or of ours (`never_logged_in`).
        reason: String,
    },
    /// There is a grant, but no valid access token at the moment; a refresh is being tried.
    Unavailable {
        /// Why, in a word.
        reason: String,
        /// When the refresher tries next, in Unix seconds.
        retry_at: u64,
    },
}

/// A credential with the members of all states, as it stands in the document.
#[derive(Deserialize)]
struct WireCredential {
    state: String,
    access_token: Option<AccessToken>,
    token_type: Option<TokenType>,
    expires_at: Option<u64>,
    generation: Option<u64>,
    #[serde(default)]
    reason: String,
    retry_at: Option<u64>,
}

impl TryFrom<WireCredential> for Credential {
    type Error = InvalidCredential;

    fn try_from(wire: WireCredential) -> Result<Self, InvalidCredential> {
        let WireCredential { reason, .. } = wire;
        match wire.state.as_str() {
            "ready" => Ok(Self::Ready(Token {
                access_token: wire.access_token,
                token_type: wire.token_type.ok_or(InvalidCredential)?,
                expires_at: wire.expires_at.ok_or(InvalidCredential)?,
                generation: wire.generation.ok_or(InvalidCredential)?,
            })),
            "login_required" => Ok(Self::LoginRequired { reason }),
            "unavailable" => {
                Ok(Self::Unavailable { reason, retry_at: wire.retry_at.ok_or(InvalidCredential)? })
            }
            _ => Err(InvalidCredential),
        }
    }
}

/// A credential in a state that this contract does not have, or that lacks a member of its state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a credential is ready, login_required or unavailable, with the members of that state")]
pub struct InvalidCredential;

/// An access token and what a filter must know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// The token itself; absent where it reaches Envoy in another way, as a secret of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,
    /// The scheme under which it is presented. RFC 6749, section 7.1: `Bearer`, in any case.
    pub token_type: TokenType,
    /// When it expires, in Unix seconds.
    pub expires_at: u64,
    /// The bundle generation that first carried this token; a rejection names it.
    pub generation: u64,
}

/// The only token type that this contract knows (RFC 6750).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TokenType {
    /// RFC 6750.
    Bearer,
}

impl<'de> Deserialize<'de> for TokenType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer)
        } else {
            Err(de::Error::custom("token_type is not Bearer"))
        }
    }
}

/// An access token: valid as the `b64token` of RFC 6750, section 2.1, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// The token in the clear, for the header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccessToken {
    type Err = InvalidToken;

    /// RFC 6750 allows `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`. Some
    /// providers use further visible characters, so everything is accepted that cannot end or
    /// split a header value: visible ASCII.
    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(token.to_owned())))
        } else {
            Err(InvalidToken)
        }
    }
}

/// A token that could not be sent in a header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("access token is empty or has characters other than visible ASCII")]
pub struct InvalidToken;

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for AccessToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for AccessToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let token = Zeroizing::new(String::deserialize(deserializer)?);
        token.parse().map_err(de::Error::custom)
    }
}

/// What a filter says when the upstream refused a token: the body of `POST /v1/rejections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The credential whose token was refused.
    pub credential: String,
    /// The generation of the refused token, as in [`Token::generation`].
    pub generation: u64,
    /// The upstream's status code.
    pub status: u16,
}

/// The body of an answer to a rejection that could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionRefusal {
    /// `login_required` with status 409, `unavailable` with status 503.
    pub error: String,
    /// With status 503: seconds after which a new try makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const EXAMPLE: &str = r#"{"version": 1, "generation": 1779000000042,
        "credentials": {
            "default": {"state": "ready", "access_token": "abc.def", "token_type": "bearer",
                        "expires_at": 1779021600, "generation": 1779000000042},
            "bob": {"state": "login_required", "reason": "invalid_grant"},
            "eve": {"state": "unavailable", "reason": "server_error", "retry_at": 1779000100}},
        "client_keys": [{"id": "alice",
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "not_before": 0, "not_after": 0, "credential": "default",
            "paths": ["/v1/"], "models": ["grok-4*"]}],
        "probe": {"id": "probe", "paths": ["/v1/models"],
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}"#;

    #[test]
    fn reads_the_documented_example() {
        let bundle = Bundle::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(bundle.generation, 1_779_000_000_042);
        let Some(Credential::Ready(token)) = bundle.credentials.get("default") else {
            panic!("default is ready");
        };
        let shown = token.access_token.as_ref().map(AccessToken::expose);
        assert_eq!(shown, Some("abc.def"));
        assert!(matches!(bundle.credentials.get("bob"), Some(Credential::LoginRequired { .. })));
        assert_eq!(bundle.client_keys.map(|keys| keys.len()), Some(1));
        assert_eq!(bundle.probe.unwrap().paths, ["/v1/models"]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bundle = Bundle::parse(EXAMPLE.as_bytes()).unwrap();
        let written = serde_json::to_vec(&bundle).unwrap();
        assert_eq!(Bundle::parse(&written), Ok(bundle));
    }

    #[test]
    fn a_token_that_is_withheld_is_ready_all_the_same() {
        let bundle = Bundle::parse(EXAMPLE.as_bytes()).unwrap().without_tokens();
        let written = serde_json::to_string(&bundle).unwrap();
        assert!(!written.contains("abc.def") && !written.contains("access_token"), "{written}");
        assert!(matches!(
            Bundle::parse(written.as_bytes()).unwrap().credentials.get("default"),
            Some(Credential::Ready(Token {
                access_token: None,
                generation: 1_779_000_000_042,
                ..
            }))
        ));
    }

    #[test]
    fn refuses_what_is_not_a_bundle() {
        for document in [
            "",
            "null",
            "[]",
            "<html>",
            "{\"version\": 1}",
            EXAMPLE.split_at(EXAMPLE.len() / 2).0,
            &EXAMPLE.replace("abc.def", ""),
            &EXAMPLE.replace("abc.def", "a\\r\\nx-evil: 1"),
            &EXAMPLE.replace("\"bearer\"", "\"mac\""),
            &EXAMPLE.replace("ba78", "zz78"),
            &EXAMPLE.replace("\"ready\"", "\"other\""),
        ] {
            assert!(
                matches!(Bundle::parse(document.as_bytes()), Err(BundleError::Shape(_))),
                "{document}"
            );
        }
        let newer = EXAMPLE.replacen("\"version\": 1", "\"version\": 2", 1);
        assert_eq!(
            Bundle::parse(newer.as_bytes()),
            Err(BundleError::UnknownVersion { version: 2 })
        );
        assert_eq!(
            Bundle::parse(&vec![b' '; MAX_BYTES + 1]),
            Err(BundleError::TooLarge { bytes: MAX_BYTES + 1 })
        );
    }

    #[test]
    fn no_print_shows_a_token() {
        let bundle = Bundle::parse(EXAMPLE.as_bytes()).unwrap();
        assert!(!format!("{bundle:?}").contains("abc.def"));
        let broken = EXAMPLE.replace("\"abc.def\"", "[\"abc.def\"]");
        let error = Bundle::parse(broken.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("abc.def"));
    }

    proptest! {
        #[test]
        fn no_input_panics(document in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Bundle::parse(&document);
        }
    }
}
