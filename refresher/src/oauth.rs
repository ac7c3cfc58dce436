//! OAuth 2.0 as plain requests and plain answers. Nothing here opens a socket or reads a clock.

pub mod answer;
pub mod authorize;
pub mod client;
pub mod device;
pub mod lifetime;
pub mod request;
pub mod retry_after;

use std::fmt;

/// An error code of a provider, safe to print: 1 to 64 of the characters `A-Z a-z 0-9 _ -`.
///
/// Nothing else of a provider's error is kept or logged: descriptions and bodies may carry
/// anything. See [`Words`] for the one that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCode(String);

impl ErrorCode {
    /// The longest code that is kept, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Keeps a code that is safe to print.
    pub fn parse(code: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let good = (1..=Self::MAX_BYTES).contains(&code.len()) && code.bytes().all(allowed);
        good.then(|| Self(code.to_owned()))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Words of a provider that are safe to print: 1 to 200 printable ASCII characters.
///
/// They are for the terminal of whoever is logging in and for nothing else: what a provider writes
/// may be about an account, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// The longest words that are kept, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Keeps words that are safe to print.
    pub fn parse(words: &str) -> Option<Self> {
        let printable = words.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let good = (1..=Self::MAX_BYTES).contains(&words.len()) && printable;
        good.then(|| Self(words.to_owned()))
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[words of the provider]")
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_words_of_some_length_are_kept() {
        for good in ["no such scope", "x", &"x".repeat(200)] {
            assert_eq!(Words::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "a\nb", "\u{1b}[2J", "ümlaut", "\u{202e}x", &"x".repeat(201)] {
            assert_eq!(Words::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_plain_words_are_error_codes() {
        for good in ["invalid_grant", "slow_down", "A-1"] {
            assert_eq!(ErrorCode::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "two words", "a\nb", "<b>", "ümlaut", &"x".repeat(65)] {
            assert_eq!(ErrorCode::parse(bad), None, "{bad}");
        }
    }
}
