//! `Retry-After` (RFC 9110, section 10.2.3).

use std::time::{Duration, UNIX_EPOCH};

/// The shortest wait that a provider can ask for, in seconds.
pub const MIN_SECONDS: u64 = 1;

/// The longest wait that a provider can ask for, in seconds.
pub const MAX_SECONDS: u64 = 300;

/// Reads the header's value, seconds or an HTTP date, as a wait in seconds from `unix`, the time
/// now in Unix seconds. Clamped to [`MIN_SECONDS`] and [`MAX_SECONDS`]; what is neither form is
/// nothing.
pub fn parse(value: &str, unix: u64) -> Option<u64> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a long wait, not a malformed one.
        value.parse().unwrap_or(u64::MAX)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        let until = date.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        until.as_secs().saturating_sub(unix)
    };
    Some(seconds.clamp(MIN_SECONDS, MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_honoured_and_clamped() {
        let unix = 1_779_000_000; // Sun, 17 May 2026 06:40:00 GMT
        for (value, wait) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("864000", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Sun, 17 May 2026 06:40:30 GMT", Some(30)),
            ("Sun, 17 May 2026 06:00:00 GMT", Some(1)),
            ("Wed, 27 May 2026 06:40:00 GMT", Some(300)),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(parse(value, unix), wait, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_escapes_the_bounds(value in ".{0,40}", unix in any::<u64>()) {
            if let Some(wait) = parse(&value, unix) {
                prop_assert!((MIN_SECONDS..=MAX_SECONDS).contains(&wait));
            }
        }
    }
}
