//! Client keys: what a caller presents to a gate, and how a gate finds whose it is.
//!
//! A key itself is never stored, only its SHA-256 digest. A presented key is compared with all
//! digests in constant time, so the time of an answer does not tell how close a guess was.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::bundle::DEFAULT_CREDENTIAL;

/// One client key, known by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientKey {
    /// The name of the client, as the access log and the metrics show it.
    pub id: ClientId,
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: Digest,
    /// Unix seconds before which the key is refused; 0: none.
    #[serde(default)]
    pub not_before: u64,
    /// Unix seconds from which on the key is refused; 0: never.
    #[serde(default)]
    pub not_after: u64,
    /// The credential that this client's requests use.
    #[serde(default = "default_credential")]
    pub credential: String,
    /// Path prefixes that the key is good for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Models that the key is good for, with `*` at the end as a wildcard; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

fn default_credential() -> String {
    DEFAULT_CREDENTIAL.to_owned()
}

impl ClientKey {
    /// An unrestricted key for the default credential.
    pub fn new(id: ClientId, key: &[u8]) -> Self {
        Self {
            id,
            sha256: Digest::of(key),
            not_before: 0,
            not_after: 0,
            credential: default_credential(),
            paths: Vec::new(),
            models: Vec::new(),
        }
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

/// What a presented key turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// This client's key.
    Client(&'a ClientKey),
    /// Nobody's, or not at this time.
    Unknown,
}

/// Finds whose key `presented` is, at `now` in Unix seconds.
///
/// Looks at every key whatever the outcome, and compares digests in constant time. Of two entries
/// with the same digest the later one counts, so that a bundle can renew what the plugin
/// configuration has.
pub fn identify<'a>(
    keys: impl Iterator<Item = &'a ClientKey> + Clone,
    presented: &[u8],
    now: u64,
) -> Identity<'a> {
    let digest = Digest::of(presented);
    let mut found = 0_u32;
    for (position, key) in (1..).zip(keys.clone()) {
        let holds = Choice::from(u8::from(key.holds_at(now)));
        found.conditional_assign(&position, key.sha256.0.ct_eq(&digest.0) & holds);
    }
    // Only here does the outcome steer anything, and it is the same outcome for every wrong key.
    let matched = found.checked_sub(1).and_then(|index| keys.clone().nth(index as usize));
    matched.map_or(Identity::Unknown, Identity::Client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: &str, secret: &str) -> ClientKey {
        ClientKey::new(id.parse().unwrap(), secret.as_bytes())
    }

    fn found(keys: &[ClientKey], presented: &str, now: u64) -> Option<String> {
        match identify(keys.iter(), presented.as_bytes(), now) {
            Identity::Client(key) => Some(key.id.as_str().to_owned()),
            Identity::Unknown => None,
        }
    }

    #[test]
    fn each_of_several_keys_finds_its_client() {
        let keys = [key("alice", "key-of-alice"), key("bob", "key-of-bob"), key("eve", "k")];
        assert_eq!(found(&keys, "key-of-alice", 0).as_deref(), Some("alice"));
        assert_eq!(found(&keys, "key-of-bob", 0).as_deref(), Some("bob"));
        assert_eq!(found(&keys, "k", 0).as_deref(), Some("eve"));
        assert_eq!(found(&[], "k", 0), None);
    }

    #[test]
    fn a_near_miss_is_a_miss() {
        let keys = [key("alice", "torchbearer-key-0123456789")];
        for presented in [
            "",
            "torchbearer-key-012345678",
            "torchbearer-key-01234567890",
            "torchbearer-key-012345678X",
            "Torchbearer-key-0123456789",
        ] {
            assert_eq!(found(&keys, presented, 0), None, "{presented}");
        }
    }

    #[test]
    fn a_key_holds_from_its_first_to_before_its_last_second() {
        let mut limited = key("alice", "k");
        limited.not_before = 100;
        limited.not_after = 200;
        for (now, held) in [(0, false), (99, false), (100, true), (199, true), (200, false)] {
            assert_eq!(found(std::slice::from_ref(&limited), "k", now).is_some(), held, "{now}");
        }
    }

    #[test]
    fn a_digest_reads_what_it_writes_and_refuses_the_rest() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        let short = text.split_at(1).1;
        for bad in ["", "ba78", short, &text.replace('b', "g"), &format!("{text}00")] {
            assert_eq!(bad.parse::<Digest>(), Err(InvalidDigest), "{bad}");
        }
    }

    #[test]
    fn ids_are_safe_to_print() {
        for good in ["alice", "team-a.prod_1", "bob@example.com"] {
            assert!(good.parse::<ClientId>().is_ok(), "{good}");
        }
        for bad in ["", "two words", "line\nbreak", "quote\"", &"x".repeat(65)] {
            assert!(bad.parse::<ClientId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_key_matches_but_its_own(secret in ".{1,40}", guess in ".{0,40}") {
            prop_assume!(secret != guess);
            prop_assert_eq!(found(&[key("alice", &secret)], &guess, 0), None);
        }
    }
}
