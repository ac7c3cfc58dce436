//! Moments as other programs write them, in Unix seconds.

use serde::Deserialize;
use serde_json::Value;

use crate::oauth::lifetime;

/// From here on a number counts milliseconds: as seconds it would lie beyond the year 5000.
const MILLISECONDS_FROM: u64 = 100_000_000_000;

/// The end of the year 9999, in Unix seconds.
const LAST: u64 = 253_402_300_799;

/// Reads Unix seconds or milliseconds, as a number or in digits, or a time of RFC 3339.
pub fn read(value: &Value) -> Option<u64> {
    let text = value.as_str().map(str::trim);
    if let Some(unix) = text.and_then(rfc3339) {
        return Some(unix);
    }
    let number = lifetime::number(value).filter(|&number| number > 0)?;
    Some(if number >= MILLISECONDS_FROM { number / 1000 } else { number })
}

/// The `iat` claim of a JWT in Unix seconds, unverified.
pub fn issue_claim(access_token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        iat: Value,
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(access_token).ok()?;
    read(&claims.iat)
}

/// Reads a time of RFC 3339 from 1970 on. One without an offset, which some programs write, is
/// taken as UTC.
pub fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (part(&mut date, 4)?, part(&mut date, 2)?, part(&mut date, 2)?);
    let zone = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at_checked(zone)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':');
    let (hour, minute, second) = (part(&mut clock, 2)?, part(&mut clock, 2)?, part(&mut clock, 2)?);
    // Section 5.7: a leap second is written as 60.
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && (hour, minute) <= (23, 59)
        && minute <= 59
        && second <= 60
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !valid {
        return None;
    }
    let days = (1970..year).map(|year| 337 + days_of(year, 2)).sum::<i64>()
        + (1..month).map(|month| days_of(year, month)).sum::<i64>()
        + day
        - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset(zone)?;
    u64::try_from(seconds).ok()
}

/// Writes a time as RFC 3339 has it, in UTC. What lies beyond the year 9999 is written as its end.
pub fn show(unix: u64) -> String {
    let unix = unix.min(LAST);
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Howard Hinnant's civil_from_days, for days from 1970 on: years begin in March, so that the
    // leap day is the last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn part<'a>(parts: &mut impl Iterator<Item = &'a str>, length: usize) -> Option<i64> {
    digits(parts.next()?, length)
}

fn digits(text: &str, length: usize) -> Option<i64> {
    let good = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn moments_are_read_in_every_known_notation() {
        for (value, expected) in [
            (json!("1970-01-01T00:00:00Z"), Some(0)),
            (json!("2026-05-17T06:40:00Z"), Some(1_779_000_000)),
            (json!("2026-05-17t06:40:00.123456789z"), Some(1_779_000_000)),
            (json!("2026-05-17T08:40:00+02:00"), Some(1_779_000_000)),
            (json!("2026-05-17 01:10:00-05:30"), Some(1_779_000_000)),
            (json!("2026-05-17T06:40:00.5"), Some(1_779_000_000)),
            (json!("2000-02-29T00:00:00Z"), Some(951_782_400)),
            (json!("2100-03-01T00:00:00Z"), Some(4_107_542_400)),
            (json!("9999-12-31T23:59:60Z"), Some(253_402_300_800)),
            (json!(1_779_000_000), Some(1_779_000_000)),
            (json!(1_779_000_000.75), Some(1_779_000_000)),
            (json!(1_779_000_000_123_u64), Some(1_779_000_000)),
            (json!("1779000000"), Some(1_779_000_000)),
            (json!("2100-02-29T00:00:00Z"), None),
            (json!("2026-13-01T00:00:00Z"), None),
            (json!("2026-05-17T24:00:00Z"), None),
            (json!("2026-05-17T06:60:00Z"), None),
            (json!("2026-05-17T06:40Z"), None),
            (json!("2026-05-17T06:40:00+2"), None),
            (json!("1970-01-01T00:00:00+00:01"), None),
            (json!("1969-12-31T23:59:59Z"), None),
            (json!("soon"), None),
            (json!(""), None),
            (json!(0), None),
            (json!(-5), None),
            (json!(null), None),
            (json!([1_779_000_000]), None),
        ] {
            assert_eq!(read(&value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}", near in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.Zz+-]{0,24}") {
            let _ = rfc3339(&text);
            let _ = rfc3339(&near);
        }

        #[test]
        fn what_is_written_is_read_back(days in 0_u64..200_000, seconds in 0_u64..86_400) {
            let unix = days * 86_400 + seconds;
            let text = show(unix);
            prop_assert_eq!(text.len(), 20);
            prop_assert_eq!(rfc3339(&text), Some(unix));
        }
    }

    #[test]
    fn moments_are_written_as_they_are_read() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_779_000_000, "2026-05-17T06:40:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(show(unix), text);
        }
    }
}
