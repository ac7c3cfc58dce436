//! Which series and labels an expression of PromQL names. `promtool` has judged its grammar before.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};

/// A label, an operator, and a value.
type Matcher = (String, String, String);

/// What an expression names.
#[derive(Debug, Default)]
pub struct References {
    /// Series with their matchers.
    pub selectors: Vec<(String, Vec<Matcher>)>,
    /// Labels by which series are grouped or joined.
    pub grouping: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(String),
}

fn tokens(expression: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let after_first = rest.get(first.len_utf8()..).unwrap_or_default();
        let length = match first {
            '"' => 2 + after_first.find('"').context("a text without an end")?,
            '[' => 1 + rest.find(']').context("a range without an end")?,
            it if it.is_alphanumeric() || "_:.".contains(it) => {
                let inside = |it: char| it.is_alphanumeric() || "_:.".contains(it);
                rest.find(|it| !inside(it)).unwrap_or(rest.len())
            }
            '=' | '!' | '<' | '>' => 1 + usize::from(after_first.starts_with(['=', '~'])),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match first {
            '"' => tokens.push(Token::Text(token.trim_matches('"').to_owned())),
            '[' => {}
            it if it.is_alphabetic() || it == '_' => tokens.push(Token::Word(token.to_owned())),
            it if it.is_ascii_digit() => {}
            _ => tokens.push(Token::Sign(token.to_owned())),
        }
        rest = after.trim_start();
    }
    Ok(tokens)
}

/// The series and labels of an expression.
pub fn references(expression: &str) -> Result<References> {
    const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
    let mut found = References::default();
    let tokens = tokens(expression)?;
    let sign = |at: usize, sign: &str| tokens.get(at) == Some(&Token::Sign(sign.to_owned()));
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else { continue };
        let next = tokens.get(at);
        if GROUPING.contains(&word.as_str()) && sign(at, "(") {
            while !sign(at, ")") {
                if let Some(Token::Word(label)) = tokens.get(at) {
                    found.grouping.insert(label.clone());
                }
                at += 1;
            }
        } else if sign(at, "(")
            || OPERATORS.contains(&word.as_str())
            || matches!(next, Some(Token::Word(by)) if GROUPING[..2].contains(&by.as_str()))
        {
            // A function, an aggregation, or an operator.
        } else {
            let mut matchers = Vec::new();
            if sign(at, "{") {
                at += 1;
                while !sign(at, "}") {
                    match (tokens.get(at), tokens.get(at + 1), tokens.get(at + 2)) {
                        (
                            Some(Token::Word(label)),
                            Some(Token::Sign(op)),
                            Some(Token::Text(to)),
                        ) => {
                            matchers.push((label.clone(), op.clone(), to.clone()));
                        }
                        _ => bail!("not a matcher in {expression}"),
                    }
                    at += if sign(at + 3, ",") { 4 } else { 3 };
                }
            }
            found.selectors.push((word.clone(), matchers));
        }
    }
    Ok(found)
}

#[test]
fn series_matchers_and_groupings_are_found() -> Result<()> {
    let found = references(
        "sum by (client, status) (rate(a_total{client=~\"x|y\", status=\"5xx\"}[5m]))\n\
         / on (instance) group_left () 60 * b{} < 0.05 or vector(0) and histogram_quantile(0.5, c)",
    )?;
    let matcher = |label: &str, operator: &str, value: &str| {
        (label.to_owned(), operator.to_owned(), value.to_owned())
    };
    let of_a = vec![matcher("client", "=~", "x|y"), matcher("status", "=", "5xx")];
    let expected =
        [("a_total".to_owned(), of_a), ("b".to_owned(), vec![]), ("c".to_owned(), vec![])];
    assert_eq!(found.selectors, expected);
    let grouping: Vec<_> = found.grouping.iter().map(String::as_str).collect();
    assert_eq!(grouping, ["client", "instance", "status"]);
    Ok(())
}
