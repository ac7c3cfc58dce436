//! The text format of Prometheus, version 0.0.4: families of samples, read and written.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What a page of this format is, for `content-type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples by size.
    Histogram,
}

/// One line: a number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name, or that with an ending such as `_bucket`.
    pub name: String,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// As written.
    pub value: String,
}

impl Sample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value as a number; 0 for what is none.
    pub fn number(&self) -> f64 {
        self.value.parse().unwrap_or_default()
    }

    /// The value as a count; 0 for what is none.
    pub fn count(&self) -> u64 {
        self.value.parse().unwrap_or_default()
    }
}

/// Samples of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// The name.
    pub name: String,
    /// What the samples are.
    pub kind: Kind,
    /// A sentence on them; may be empty.
    pub help: &'static str,
    /// The samples.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family without samples.
    pub fn new(kind: Kind, name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), kind, help, samples: Vec::new() }
    }

    /// The same with one more sample.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: impl ToString) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (name, labels) = (self.name.clone(), labels.collect());
        self.samples.push(Sample { name, labels, value: value.to_string() });
        self
    }
}

/// A page of families.
#[derive(Clone, Debug, Default)]
pub struct Page(Vec<Family>);

impl Page {
    /// Reads a page. What is not of the format, or of no family, is left out.
    pub fn parse(text: &str) -> Self {
        let mut families: Vec<Family> = Vec::new();
        for line in text.lines() {
            if let Some(typing) = line.strip_prefix("# TYPE ") {
                let kind = match typing.split_once(' ') {
                    Some((_, "counter")) => Kind::Counter,
                    Some((_, "gauge")) => Kind::Gauge,
                    Some((_, "histogram")) => Kind::Histogram,
                    _ => continue,
                };
                let name = typing.split(' ').next().unwrap_or_default();
                families.push(Family::new(kind, name, ""));
            } else if let Some(family) = families.last_mut()
                && let Some(sample) = sample(line)
                && is_of(family, &sample.name)
            {
                family.samples.push(sample);
            }
        }
        Self(families)
    }

    /// The samples of this name.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        let samples = self.0.iter().flat_map(|family| &family.samples);
        samples.filter(move |sample| sample.name == name)
    }

    /// Adds a family.
    pub fn push(&mut self, family: Family) {
        self.0.push(family);
    }

    /// Takes the family of this name out.
    pub fn take(&mut self, name: &str) -> Option<Family> {
        let index = self.0.iter().position(|family| family.name == name)?;
        Some(self.0.remove(index))
    }

    /// Adds the families of another page.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The page as text. No family and no series is there twice; the first one counts.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut named = BTreeSet::new();
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            // Some readers take this ending for no part of a counter's name.
            let stem = family.name.strip_suffix("_total").unwrap_or(&family.name);
            if !named.insert(stem) {
                continue;
            }
            if !family.help.is_empty() {
                let _ = writeln!(text, "# HELP {} {}", family.name, family.help);
            }
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(text, "# TYPE {} {kind}", family.name);
            let mut series = BTreeSet::new();
            for sample in &family.samples {
                let line = series_of(sample);
                if !series.contains(&line) {
                    let _ = writeln!(text, "{line} {}", sample.value);
                    series.insert(line);
                }
            }
        }
        text
    }
}

fn is_of(family: &Family, name: &str) -> bool {
    match name.strip_prefix(family.name.as_str()) {
        Some("") => family.kind != Kind::Histogram,
        Some("_bucket" | "_sum" | "_count") => family.kind == Kind::Histogram,
        _ => false,
    }
}

/// A sample's name with its labels.
fn series_of(sample: &Sample) -> String {
    let mut text = sample.name.clone();
    for (index, (name, value)) in sample.labels.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let begin = if index == 0 { '{' } else { ',' };
        let _ = write!(text, "{begin}{name}=\"{value}\"");
    }
    if !sample.labels.is_empty() {
        text.push('}');
    }
    text
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at_checked(end)?;
    let mut labels = Vec::new();
    if let Some(within) = rest.strip_prefix('{') {
        rest = within;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?;
    value.parse::<f64>().ok()?;
    Some(Sample { name: name.to_owned(), labels, value: value.to_owned() })
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
                escaped => escaped,
            }),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = "# TYPE a counter\n\
                        a{client=\"x\",status=\"2xx\"} 3\n\
                        # TYPE b gauge\n\
                        b 1.5\n\
                        # TYPE c histogram\n\
                        c_bucket{le=\"+Inf\"} 2\n\
                        c_sum{} 7\n\
                        c_count{} 2\n";

    #[test]
    fn what_is_read_is_written_again() {
        assert_eq!(Page::parse(PAGE).text(), PAGE.replace("{}", ""));
    }

    #[test]
    fn nothing_is_there_twice() {
        let mut page = Page::parse(PAGE);
        page.extend(Page::parse("# TYPE a counter\na 9\n# TYPE d gauge\nd 1\nd 2\n"));
        page.extend(Page::parse("# TYPE b_total counter\nb_total 9\n"));
        assert_eq!(page.text(), PAGE.replace("{}", "") + "# TYPE d gauge\nd 1\n");
    }

    #[test]
    fn what_is_not_of_the_format_is_left_out() {
        for line in
            ["a", "a x", "a{b} 1", "a{b=\"c} 1", "b 1", "a_sum 1", "{", "# a", "a{b=\"c\"}1"]
        {
            let page = Page::parse(&format!("# TYPE a gauge\n{line}\n"));
            assert_eq!(page.text(), "", "{line}");
        }
        assert_eq!(Page::parse("a 1\n# TYPE b summary\nb 1\n").text(), "");
    }

    proptest! {
        #[test]
        fn labels_of_any_text_come_back(value: String) {
            let mut page = Page::default();
            page.push(Family::new(Kind::Gauge, "a", "help").with(&[("b", &value)], 1));
            let value = value.replace('\r', "");
            let text = page.text().replace('\r', "");
            let read = Page::parse(&text);
            prop_assert_eq!(read.samples("a").next().and_then(|it| it.label("b")), Some(&*value));
        }

        #[test]
        fn no_input_panics(text: String) {
            let _ = Page::parse(&text).text();
            let _ = Page::parse(&format!("# TYPE a gauge\na{{{text}")).text();
        }
    }
}
