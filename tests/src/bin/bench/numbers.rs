//! Numbers of several rounds.

use serde::Deserialize;
use serde_json::{Value, json};

/// The middle of several rounds, and how far they spread.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// That of these; 0 of none.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<_> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
        let last = numbers.len().saturating_sub(1);
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, min: at(0), max: at(last) }
    }

    /// Where it is the worst that counts: it takes the middle one's place.
    pub fn worst(self) -> Self {
        Self { median: self.max, ..self }
    }

    /// For the report, to three decimals.
    pub fn json(self) -> Value {
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        json!({"median": round(self.median), "min": round(self.min), "max": round(self.max)})
    }
}

/// The number below which this share of the sorted numbers is.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

/// A number with a comma after each thousand.
pub fn with_commas(number: f64) -> String {
    let text = number.to_string();
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut marked = String::new();
    for (digit, left) in whole.chars().zip((0..whole.len()).rev()) {
        marked.push(digit);
        if digit != '-' && left > 0 && left.is_multiple_of(3) {
            marked.push(',');
        }
    }
    marked + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_between_the_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([]), Spread { median: 0.0, min: 0.0, max: 0.0 });
    }

    #[test]
    fn thousands_have_commas() {
        let numbers = [0.1, 100.0, -100.0, 1000.0, -1234567.5];
        assert_eq!(numbers.map(with_commas), ["0.1", "100", "-100", "1,000", "-1,234,567.5"]);
    }

    #[test]
    fn one_in_a_hundred_is_above_the_99th() {
        let numbers: Vec<_> = (0..100).map(f64::from).collect();
        assert_eq!(percentile(&numbers, 0.99), 99.0);
        assert_eq!(percentile(&numbers, 0.5), 50.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
