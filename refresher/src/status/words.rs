//! Numbers in words.

/// How many characters a bar has.
const BAR: u64 = 20;

/// A time span in its two largest units.
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut words: Vec<String> = Vec::new();
    let mut rest = seconds;
    for (size, unit) in UNITS {
        let (count, left) = (rest / size, rest % size);
        rest = left;
        // Two units that follow each other, from the first that there is.
        if !words.is_empty() || count > 0 {
            words.push(format!("{count} {unit}"));
        }
        if words.len() == 2 {
            break;
        }
    }
    let said: Vec<_> = words.into_iter().filter(|word| !word.starts_with("0 ")).collect();
    if said.is_empty() { "0 s".to_owned() } else { said.join(" ") }
}

/// What is left of a whole as a bar, and in per cent.
pub fn bar(left: u64, whole: u64) -> String {
    let left = left.min(whole);
    let share = |of: u64| left.saturating_mul(of).checked_div(whole).unwrap_or(0);
    let full = usize::try_from(share(BAR)).unwrap_or_default();
    let empty = usize::try_from(BAR).unwrap_or_default().saturating_sub(full);
    format!("[{}{}] {} %", "#".repeat(full), "-".repeat(empty), share(100))
}

/// A number of things.
pub fn count(number: u64, one: &str, several: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {several}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (125, "2 min 5 s"),
            (3_600, "1 h"),
            (3_661, "1 h 1 min"),
            (21_599, "5 h 59 min"),
            (86_400 + 59, "1 d"),
            (200_000, "2 d 7 h"),
        ] {
            assert_eq!(span(seconds), words);
        }
    }

    #[test]
    fn a_bar_shows_what_is_left() {
        assert_eq!(bar(50, 100), "[##########----------] 50 %");
        assert_eq!(bar(0, 100), "[--------------------] 0 %");
        assert_eq!(bar(300, 100), "[####################] 100 %");
        assert_eq!(bar(1, 0), "[--------------------] 0 %");
        assert!(bar(u64::MAX, u64::MAX).starts_with('['));
    }
}
