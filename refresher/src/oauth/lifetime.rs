//! How long an access token lives, whatever the provider says about it.

use serde::Deserialize;
use serde_json::Value;

/// The life of a token about which nothing usable is known, in seconds.
pub const DEFAULT_SECONDS: u64 = 3600;

/// The longest life that is believed, in seconds: 30 days.
pub const MAX_SECONDS: u64 = 30 * 24 * 3600;

/// The life of an access token in seconds, counted from `unix` (now, in Unix seconds).
///
/// In this order, the first that is positive counts, at most [`MAX_SECONDS`]: `expires_in` (RFC
/// 6749, section 5.1) as a number, a fraction cut off, or as a string of digits; the `exp` claim
/// of a token that is a JWT (RFC 7519, section 4.1.4), read without verification since it only
/// schedules; [`DEFAULT_SECONDS`]. An odd value never makes an answer unusable: it may carry the
/// only copy of a refresh token.
pub fn seconds(expires_in: Option<&Value>, access_token: &str, unix: u64) -> u64 {
    let stated = expires_in.and_then(number).filter(|&life| life > 0);
    let claimed = || expiry_claim(access_token)?.checked_sub(unix).filter(|&life| life > 0);
    stated.or_else(claimed).unwrap_or(DEFAULT_SECONDS).min(MAX_SECONDS)
}

/// A positive number, a fraction cut off, or the same as a string of digits.
pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok().and_then(whole),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only positive numbers arrive here, and the cast saturates"
)]
fn whole(number: f64) -> Option<u64> {
    (number > 0.0).then_some(number as u64)
}

/// The `exp` claim of a JWT in Unix seconds, unverified.
pub fn expiry_claim(access_token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: Value,
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(access_token).ok()?;
    number(&claims.exp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: u64 = 1_779_000_000;
    /// Header `{"alg":"none"}`, payload `{"exp":1779000900}`, no signature.
    const JWT: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3NzkwMDA5MDB9.x";

    #[test]
    fn every_odd_value_has_a_documented_life() {
        for (expires_in, opaque, jwt) in [
            (None, DEFAULT_SECONDS, 900),
            (Some(json!(21600)), 21600, 21600),
            (Some(json!(1)), 1, 1),
            (Some(json!(0)), DEFAULT_SECONDS, 900),
            (Some(json!(-1)), DEFAULT_SECONDS, 900),
            (Some(json!("600")), 600, 600),
            (Some(json!("600.5")), 600, 600),
            (Some(json!("soon")), DEFAULT_SECONDS, 900),
            (Some(json!("NaN")), DEFAULT_SECONDS, 900),
            (Some(json!(null)), DEFAULT_SECONDS, 900),
            (Some(json!([600])), DEFAULT_SECONDS, 900),
            (Some(json!(599.9)), 599, 599),
            (Some(json!(0.5)), DEFAULT_SECONDS, 900),
            (Some(json!(1e300)), MAX_SECONDS, MAX_SECONDS),
            (Some(json!("99999999999999999999")), MAX_SECONDS, MAX_SECONDS),
            (Some(json!(u64::MAX)), MAX_SECONDS, MAX_SECONDS),
        ] {
            assert_eq!(seconds(expires_in.as_ref(), "opaque", NOW), opaque, "{expires_in:?}");
            assert_eq!(seconds(expires_in.as_ref(), JWT, NOW), jwt, "{expires_in:?}");
        }
        // A claim that is past says that the clocks differ, not that the new token is useless.
        assert_eq!(seconds(None, JWT, NOW + 901), DEFAULT_SECONDS);
    }

    proptest! {
        #[test]
        fn no_token_panics(token in ".{0,80}", expires_in in any::<f64>(), unix in any::<u64>()) {
            let life = seconds(Some(&json!(expires_in)), &token, unix);
            prop_assert!((1..=MAX_SECONDS).contains(&life));
        }
    }
}
