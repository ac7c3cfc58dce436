//! SHA-256, in the spellings that this crate needs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// 64 hexadecimal digits.
pub(crate) fn sha256_hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The code challenge of RFC 7636, section 4.2, method S256.
pub(crate) fn s256(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

/// Names a secret in the ledger: enough digits to tell two apart, too few to matter.
pub(crate) fn fingerprint(secret: &str) -> String {
    sha256_hex(secret.as_bytes()).chars().take(12).collect()
}

/// A source of values that nobody can guess who does not know the seed.
pub(crate) struct Entropy {
    seed: [u8; 32],
    counter: u64,
}

impl Entropy {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        self.counter += 1;
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.counter.to_be_bytes())
            .finalize()
            .into()
    }

    /// 43 characters of the unreserved alphabet.
    pub(crate) fn opaque(&mut self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s256_is_that_of_the_rfc() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(s256(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn entropy_never_repeats_and_depends_on_the_seed() {
        let (mut one, mut other) = (Entropy::new([1; 32]), Entropy::new([2; 32]));
        let first = one.opaque();
        assert_ne!(first, one.opaque());
        assert_ne!(first, other.opaque());
        assert_eq!(first.len(), 43);
    }
}
