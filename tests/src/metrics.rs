//! Envoy's metrics in the form that Prometheus reads, taken strictly.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// One line of a metrics page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A metrics page.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads a page.
    ///
    /// # Errors
    ///
    /// When a line is not of the form, a sample has no type, or a series is there twice.
    pub fn parse(page: &str) -> Result<Self> {
        let mut typed = BTreeSet::new();
        let mut samples = Vec::new();
        let mut series = BTreeSet::new();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(typing) = line.strip_prefix("# TYPE ") {
                let (name, _) = typing.split_once(' ').with_context(|| line.to_owned())?;
                ensure!(typed.insert(name.to_owned()), "{name} is typed twice");
            } else if !line.starts_with('#') {
                let sample = sample(line).with_context(|| line.to_owned())?;
                let ends = ["_bucket", "_sum", "_count"];
                let base = ends.iter().find_map(|end| sample.name.strip_suffix(end));
                ensure!(
                    typed.contains(&sample.name) || base.is_some_and(|base| typed.contains(base)),
                    "no type: {line}"
                );
                ensure!(series.insert((sample.name.clone(), sample.labels.clone())), "{line}");
                samples.push(sample);
            }
        }
        Ok(Self(samples))
    }

    /// The samples of a metric.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The value of the series with exactly these labels; none when it is not there.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.of(name).find(|sample| sample.labels == wanted).map(|sample| sample.value)
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at_checked(end).context("no value")?;
    ensure!(is_name(name), "not a metric's name: {name}");
    let mut labels = BTreeMap::new();
    if let Some(within) = rest.strip_prefix('{') {
        rest = within;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            ensure!(is_name(label), "not a label's name: {label}");
            let (value, after) = quoted(after).context("a value without an end")?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "{label} is there twice");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}').unwrap_or_default();
    }
    let value = rest.strip_prefix(' ').context("no value")?.parse()?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its quotation mark, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
}
