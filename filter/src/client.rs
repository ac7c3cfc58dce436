//! Client keys: what a caller presents to a gate, and how a gate finds whose it is.
//!
//! A key itself is never stored, only its SHA-256 digest. A presented key is compared with all
//! digests in constant time, so the time of an answer does not tell how close a guess was.

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::bundle::DEFAULT_CREDENTIAL;

/// What a client is known by, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "Wire", into = "Wire")]
pub struct ClientKey {
    /// The name of the client, as the access log and the metrics show it. Several keys may have
    /// the same one, so that a client can change its key without a pause.
    pub id: ClientId,
    /// How the client shows who it is.
    pub proof: Proof,
    /// Unix seconds before which the key is refused; 0: none.
    pub not_before: u64,
    /// Unix seconds from which on the key is refused; 0: never.
    pub not_after: u64,
    /// The credential that this client's requests use.
    pub credential: String,
    /// Path prefixes that the key is good for; empty: all.
    pub paths: Vec<String>,
    /// Models that the key is good for, with `*` at the end as a wildcard; empty: all.
    pub models: Vec<String>,
    /// Requests a minute, counted for the client's name; 0: no limit.
    pub requests_per_minute: u32,
    /// Requests at the same time, counted for the client's name; 0: no limit.
    pub concurrency: u32,
}

/// How a client shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By a key, of which only the SHA-256 digest is known.
    Key(Digest),
    /// By a TLS client certificate, which Envoy has verified, with this subject alternative name:
    /// a URI such as a SPIFFE id, or a DNS name.
    Certificate(String),
}

/// A client key as it stands in a document.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "ClientKey"))]
#[serde(deny_unknown_fields)]
struct Wire {
    /// Name of the client, for the access log and the metrics.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", regex(pattern = "^[A-Za-z0-9._@-]{1,64}$"))
    )]
    id: ClientId,
    /// SHA-256 of its key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<String>", regex(pattern = "^[0-9A-Fa-f]{64}$"))
    )]
    sha256: Option<Digest>,
    /// Instead of a key: a name in its TLS certificate, which Envoy has verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject_alt_name: Option<String>,
    /// Unix seconds before which the key is refused; 0: none.
    #[serde(default)]
    not_before: u64,
    /// Unix seconds from which on it is refused; 0: never.
    #[serde(default)]
    not_after: u64,
    /// The login whose token its requests get.
    #[serde(default = "default_credential")]
    credential: String,
    /// Beginnings of paths that the key is good for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    /// Models that the key is good for, `*` at the end as a wildcard; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    models: Vec<String>,
    /// Requests a minute; 0: no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    requests_per_minute: u32,
    /// Requests at the same time; 0: no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    concurrency: u32,
}

fn default_credential() -> String {
    DEFAULT_CREDENTIAL.to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Why an entry is not a client key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientKey {
    /// It has no proof, or two.
    #[error("a client key has either sha256 or subject_alt_name")]
    Proof,
    /// An empty name would be that of every certificate without one.
    #[error("subject_alt_name is empty")]
    EmptyName,
    /// No request has such a path.
    #[error("a path of a client key begins with /")]
    Path,
    /// A pattern that would not mean what it seems to.
    #[error("a model of a client key is a name, with * only at its end")]
    Model,
}

impl TryFrom<Wire> for ClientKey {
    type Error = InvalidClientKey;

    fn try_from(wire: Wire) -> Result<Self, InvalidClientKey> {
        let proof = match (wire.sha256, wire.subject_alt_name) {
            (Some(digest), None) => Proof::Key(digest),
            (None, Some(name)) if name.is_empty() => return Err(InvalidClientKey::EmptyName),
            (None, Some(name)) => Proof::Certificate(name),
            _ => return Err(InvalidClientKey::Proof),
        };
        if !wire.paths.iter().all(|path| path.starts_with('/')) {
            return Err(InvalidClientKey::Path);
        }
        let literal = |model: &String| !model.strip_suffix('*').unwrap_or(model).contains('*');
        if !wire.models.iter().all(|model| !model.is_empty() && literal(model)) {
            return Err(InvalidClientKey::Model);
        }
        Ok(Self {
            id: wire.id,
            proof,
            not_before: wire.not_before,
            not_after: wire.not_after,
            credential: wire.credential,
            paths: wire.paths,
            models: wire.models,
            requests_per_minute: wire.requests_per_minute,
            concurrency: wire.concurrency,
        })
    }
}

impl From<ClientKey> for Wire {
    fn from(key: ClientKey) -> Self {
        let (sha256, subject_alt_name) = match key.proof {
            Proof::Key(digest) => (Some(digest), None),
            Proof::Certificate(name) => (None, Some(name)),
        };
        Self {
            id: key.id,
            sha256,
            subject_alt_name,
            not_before: key.not_before,
            not_after: key.not_after,
            credential: key.credential,
            paths: key.paths,
            models: key.models,
            requests_per_minute: key.requests_per_minute,
            concurrency: key.concurrency,
        }
    }
}

impl ClientKey {
    /// An unrestricted entry for the default credential.
    pub fn new(id: ClientId, proof: Proof) -> Self {
        Self {
            id,
            proof,
            not_before: 0,
            not_after: 0,
            credential: default_credential(),
            paths: Vec::new(),
            models: Vec::new(),
            requests_per_minute: 0,
            concurrency: 0,
        }
    }

    /// The refresher's own way in: a key that is good for this path alone.
    pub fn of_probe(key: &[u8], path: &str) -> Self {
        let id = ClientId("probe".to_owned());
        Self { paths: vec![path.to_owned()], ..Self::of_key(id, key) }
    }

    /// The same under a name that no client can have.
    #[must_use]
    pub fn into_probe(self) -> Self {
        Self { id: ClientId("(probe)".to_owned()), ..self }
    }

    /// An unrestricted entry for this key.
    pub fn of_key(id: ClientId, key: &[u8]) -> Self {
        Self::new(id, Proof::Key(Digest::of(key)))
    }

    /// Whether a request for this path may use the key.
    pub fn allows_path(&self, path: &[u8]) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|prefix| path.starts_with(prefix.as_bytes()))
    }

    /// Whether a request for this model may use the key.
    pub fn allows_model(&self, model: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => model.starts_with(prefix),
            None => model == pattern,
        };
        self.models.is_empty() || self.models.iter().any(fits)
    }

    /// Whether this is the key, found in constant time.
    pub fn is_shown_by(&self, presented: &[u8]) -> bool {
        let known = match &self.proof {
            Proof::Key(digest) => digest,
            Proof::Certificate(_) => return false,
        };
        known.0.ct_eq(&Digest::of(presented).0).into()
    }

    fn holds_at(&self, now: u64) -> bool {
        now >= self.not_before && (self.not_after == 0 || now < self.not_after)
    }
}

/// The name of a client: 1 to 64 of ASCII letters, digits, `.`, `_`, `-` and `@`, so that it can
/// stand in a log line or a metric's name as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ClientId(String);

impl ClientId {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that a client cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client's id has 1 to {} of the characters A-Z a-z 0-9 . _ - @", ClientId::MAX_BYTES)]
pub struct InvalidClientId;

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(id: &str) -> Result<Self, InvalidClientId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        if (1..=Self::MAX_BYTES).contains(&id.len()) && id.bytes().all(allowed) {
            Ok(Self(id.to_owned()))
        } else {
            Err(InvalidClientId)
        }
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// SHA-256 of a client key. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest has 64 hexadecimal digits")]
pub struct InvalidDigest;

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(InvalidDigest);
        }
        let mut digest = [0; 32];
        for (byte, &[high, low]) in digest.iter_mut().zip(pairs) {
            *byte = (hex_digit(high)? << 4) | hex_digit(low)?;
        }
        Ok(Self(digest))
    }
}

fn hex_digit(digit: u8) -> Result<u8, InvalidDigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidDigest),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Finds whose key `presented` is, at `now` in Unix seconds.
///
/// Looks at every key whatever the outcome, and compares digests in constant time. Of two entries
/// with the same digest the later one counts, so that a bundle can renew what the plugin
/// configuration has.
pub fn identify<'a>(
    keys: impl Iterator<Item = &'a Rc<ClientKey>> + Clone,
    presented: &[u8],
    now: u64,
) -> Option<&'a Rc<ClientKey>> {
    let digest = Digest::of(presented);
    let mut found = 0_u32;
    for (position, key) in (1..).zip(keys.clone()) {
        // Which entries have a digest at all is no secret.
        if let Proof::Key(known) = &key.proof {
            let holds = Choice::from(u8::from(key.holds_at(now)));
            found.conditional_assign(&position, known.0.ct_eq(&digest.0) & holds);
        }
    }
    // Only here does the outcome steer anything, and it is the same outcome for every wrong key.
    found.checked_sub(1).and_then(|index| keys.clone().nth(index as usize))
}

/// Finds the client of a verified certificate with these subject alternative names, at `now` in
/// Unix seconds.
pub fn identify_certificate<'a>(
    mut keys: impl Iterator<Item = &'a Rc<ClientKey>>,
    names: &[Vec<u8>],
    now: u64,
) -> Option<&'a Rc<ClientKey>> {
    keys.find(|key| match &key.proof {
        Proof::Certificate(name) => {
            key.holds_at(now) && names.iter().any(|presented| presented == name.as_bytes())
        }
        Proof::Key(_) => false,
    })
}

#[cfg(test)]
mod tests;
