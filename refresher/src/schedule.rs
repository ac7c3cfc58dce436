//! When a token is due for its refresh.

use crate::clock::Share;

/// How long before expiry a token is refreshed at the latest, in milliseconds.
pub const LATEST_MS: u64 = 120_000;

/// From when until when a token is valid, in milliseconds of the boot-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was granted.
    pub obtained_ms: u64,
    /// When it expires.
    pub expires_ms: u64,
}

/// When to refresh a token, on the clock of its life.
///
/// At half of its life, ± 10 % of that, spread by `share` so that many refreshers do not ask at
/// the same moment. With a `window_s` that long before expiry instead, unless the token does not
/// even live that long. In both cases not later than [`LATEST_MS`] before expiry, or half of a
/// life that is shorter than that.
pub fn due(life: Life, window_s: Option<u64>, share: Share) -> u64 {
    let length = life.expires_ms.saturating_sub(life.obtained_ms);
    let half = length / 2;
    let middle = half - half / 10 + share.times(half / 5);
    let wanted = match window_s.map(|window| window.saturating_mul(1000)) {
        Some(window) if window < length => length - window,
        Some(_) => half,
        None => middle,
    };
    let latest = if length > LATEST_MS { length - LATEST_MS } else { half };
    life.obtained_ms.saturating_add(wanted.min(latest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(length: u64, window_s: Option<u64>, share: u32) -> u64 {
        let life = Life { obtained_ms: 1_000_000, expires_ms: 1_000_000 + length * 1000 };
        (due(life, window_s, Share::of(share)) - 1_000_000) / 1000
    }

    #[test]
    fn half_of_the_life_or_the_window_and_never_late() {
        for (length, window_s, share, expected) in [
            (21_600, None, 0, 9_720),
            (21_600, None, u32::MAX, 11_879),
            (900, None, 1 << 31, 450),
            (200, None, 1 << 31, 80),
            (100, None, u32::MAX, 50),
            (1, None, 1 << 31, 0),
            (21_600, Some(300), 0, 21_300),
            (21_600, Some(30), 0, 21_480),
            (200, Some(300), 0, 80),
            (100, Some(300), 0, 50),
        ] {
            assert_eq!(seconds(length, window_s, share), expected, "{length} {window_s:?}");
        }
    }

    proptest! {
        #[test]
        fn due_within_the_life(length in 0_u64..10_000_000, window in proptest::option::of(30_u64..100_000), share: u32) {
            let life = Life { obtained_ms: 7, expires_ms: 7 + length };
            let due = due(life, window, Share::of(share));
            prop_assert!(due >= life.obtained_ms);
            prop_assert!(due <= life.expires_ms);
            if length > LATEST_MS {
                prop_assert!(due <= life.expires_ms - LATEST_MS);
            }
        }
    }
}
