//! How long something lasts, as a flag says it.

/// What is accepted, in words.
pub const RULE: &str = "a number with its unit, such as 90s, 15m, 12h or 30d; at most 36500d";

/// The longest, in seconds: a hundred years.
const MAX_S: u64 = 36_500 * 86_400;

/// Reads `90s`, `15m`, `12h` or `30d`, in seconds. Of 0 the unit does not matter.
pub fn parse(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1),
        b'm' => (text.strip_suffix('m')?, 60),
        b'h' => (text.strip_suffix('h')?, 3_600),
        b'd' => (text.strip_suffix('d')?, 86_400),
        b'0' if text == "0" => return Some(0),
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse::<u64>().ok()?.checked_mul(factor)?;
    (seconds <= MAX_S).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_is_a_number_with_its_unit() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("12h", Some(43_200)),
            ("30d", Some(2_592_000)),
            ("36500d", Some(3_153_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("36501d", None),
            ("18446744073709551615d", None),
            ("99999999999999999999s", None),
            ("", None),
            ("30", None),
            ("d", None),
            ("-1d", None),
            ("+1d", None),
            ("1.5h", None),
            ("1 h", None),
            (" 1h", None),
            ("1H", None),
            ("1w", None),
            ("1h30m", None),
            ("soon", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
