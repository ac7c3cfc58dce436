//! Client keys that are made, replaced and ended while everything runs.
//!
//! [`ring`] says what a change does, [`change`] what a user may change, [`listing`] what is shown, [`duration`] how long something
//! lasts; [`mod@file`] keeps the keys on disk. Of a key only its digest is ever kept.

pub mod change;
pub mod duration;
pub mod file;
pub mod listing;
pub mod ring;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filter::client::ClientKey;
use filter::json;

use crate::config::MIN_KEY_BYTES;
use crate::secret::Secret;

pub use file::KeyFile;
pub use ring::{Entry, Refused, Ring};

/// How a key of ours begins, so that people and scanners of code know one when they see it.
pub const PREFIX: &str = "tb_";

/// The longest key that a user may bring, in bytes.
pub const MAX_BROUGHT_BYTES: usize = 1024;

/// What a user may bring as a key, in words.
pub const BROUGHT_RULE: &str = "16 to 1024 visible ASCII characters, in one line";

/// A key as it is shown to the user, from 256 random bits.
pub fn encode(bits: &[u8; 32]) -> Secret {
    // Room for all at once: growing would leave copies behind.
    let mut text = String::with_capacity(PREFIX.len() + 44);
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(bits, &mut text);
    Secret::new(text)
}

/// The key in what a user has brought, less the end of its line; nothing where that could not be
/// sent in a header, or is too short.
pub fn brought(input: &[u8]) -> Option<Secret> {
    let line = input.strip_suffix(b"\n").unwrap_or(input);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let fits = (MIN_KEY_BYTES..=MAX_BROUGHT_BYTES).contains(&line.len());
    let text = str::from_utf8(line).ok().filter(|_| fits)?;
    text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Secret::new(text.to_owned()))
}

/// A client key that the filter accepts: the filter's own rules are asked.
///
/// # Errors
///
/// What the filter says against it.
pub fn validated(key: &ClientKey) -> Result<ClientKey, json::Error> {
    json::read(&serde_json::to_vec(key).unwrap_or_default())
}

/// How much room client keys take in a bundle, in bytes.
pub fn size<'a>(keys: impl Iterator<Item = &'a ClientKey>) -> usize {
    keys.map(|key| serde_json::to_vec(key).map_or(0, |json| json.len() + 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use filter::client::{Digest, Proof};

    #[test]
    fn a_key_of_ours_is_recognised_and_carries_all_its_bits() {
        let key = encode(&[0xff; 32]);
        assert_eq!(key.expose(), format!("tb_{}8", "_".repeat(42)));
        assert_ne!(encode(&[0; 32]).expose(), encode(&[1; 32]).expose());
        assert_eq!(format!("{key:?}"), "[redacted]");
    }

    #[test]
    fn what_a_user_brings_is_one_line_that_fits_into_a_header() {
        let long = "k".repeat(1024);
        for (input, expected) in [
            ("0123456789abcdef", Some("0123456789abcdef")),
            ("0123456789abcdef\n", Some("0123456789abcdef")),
            ("0123456789abcdef\r\n", Some("0123456789abcdef")),
            (&long, Some(long.as_str())),
            (&format!("{long}k"), None),
            ("0123456789abcde\n", None),
            ("0123456789abcdef\n\n", None),
            ("01234567 89abcdef", None),
            ("0123456789abcdeä", None),
            ("", None),
        ] {
            let key = brought(input.as_bytes());
            assert_eq!(key.as_ref().map(Secret::expose), expected, "{input:?}");
        }
    }

    #[test]
    fn the_filters_own_rules_hold() {
        let mut key = ClientKey::new("a".parse().unwrap(), Proof::Key(Digest::of(b"k")));
        assert_eq!(validated(&key).as_ref(), Ok(&key));
        key.models = vec!["gr*k".to_owned()];
        assert!(validated(&key).unwrap_err().to_string().contains("* only at its end"));
        key.models.clear();
        key.paths = vec!["v1".to_owned()];
        assert!(validated(&key).unwrap_err().to_string().contains("begins with /"));
    }
}
