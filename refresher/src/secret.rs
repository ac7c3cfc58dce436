//! Text that must not be seen: redacted wherever it is printed, wiped when dropped.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// A refresh token, authorization code, code verifier, device code or state.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text in the clear, for the one place that must send or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What tells this secret from another without revealing it: the first 16 hexadecimal digits
    /// of its SHA-256 digest.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        let hex = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Fingerprint(hex)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The name of a refresh token in records and logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("rt-very-secret".into());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(!secret.fingerprint().to_string().contains("secret"));
    }

    #[test]
    fn fingerprints_tell_secrets_apart() {
        let print = |text: &str| Secret::new(text.into()).fingerprint();
        assert_eq!(print("abc").to_string(), "ba7816bf8f01cfea");
        assert_eq!(print("abc"), print("abc"));
        assert_ne!(print("abc"), print("abd"));
    }
}
