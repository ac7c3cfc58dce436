//! A table of the file, emptied setting by setting: what is left over is unknown.

use std::ops::RangeInclusive;
use std::time::Duration;

use filter::client::Digest;
use toml::{Table, Value};

use super::problem::Problems;
use crate::import::moment;

/// A table that is being read.
pub(super) struct Section {
    name: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    pub(super) fn new(name: &str, table: Table) -> Self {
        Self { name: name.to_owned(), table, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn refuse(&self, key: &str, value: &Value, accepted: &str, problems: &mut Problems) {
        problems.unaccepted(&self.path(key), &shown(value), accepted);
    }

    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            other => {
                self.refuse(key, &other, "a string that is not empty", problems);
                None
            }
        }
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        accepted: &str,
        problems: &mut Problems,
    ) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(key, &value, accepted, problems);
        }
        number
    }

    /// A duration in seconds, whole or not.
    pub(super) fn seconds(
        &mut self,
        key: &'static str,
        parse: impl Fn(f64) -> Option<Duration>,
        accepted: &str,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let value = self.take(key)?;
        let text = value.to_string();
        let number = value.is_integer() || value.is_float();
        let duration = number.then(|| text.parse().ok().and_then(parse)).flatten();
        if duration.is_none() {
            self.refuse(key, &value, accepted, problems);
        }
        duration
    }

    pub(super) fn switch(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let value = self.take(key)?;
        let switch = value.as_bool();
        if switch.is_none() {
            self.refuse(key, &value, "true or false", problems);
        }
        switch
    }

    pub(super) fn texts(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<String>> {
        self.list(key, "a list of strings", |item| item.as_str().map(str::to_owned), problems)
    }

    pub(super) fn ports(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<u16>> {
        let port = |item: &Value| u16::try_from(item.as_integer()?).ok().filter(|&port| port > 0);
        self.list(key, "a list of ports from 1 to 65535", port, problems)
    }

    pub(super) fn statuses(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<u16>> {
        let status = |item: &Value| {
            let status = u16::try_from(item.as_integer()?).ok();
            status.filter(|status| (400..500).contains(status))
        };
        self.list(key, "a list of status codes from 400 to 499", status, problems)
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        accepted: &str,
        parse: impl Fn(&Value) -> Option<T>,
        problems: &mut Problems,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let items = value.as_array().and_then(|items| items.iter().map(parse).collect());
        if items.is_none() {
            self.refuse(key, &value, accepted, problems);
        }
        items
    }

    /// A table whose keys are the user's own, with strings as values.
    pub(super) fn map(
        &mut self,
        key: &'static str,
        accepted: &str,
        problems: &mut Problems,
    ) -> Option<Vec<(String, String)>> {
        let value = self.take(key)?;
        let pairs = value.as_table().and_then(|table| {
            let pair = |(name, value): (&String, &Value)| {
                value.as_str().map(|value| (name.clone(), value.to_owned()))
            };
            table.iter().map(pair).collect()
        });
        if pairs.is_none() {
            // Not shown: what was meant as a digest may be the key itself.
            problems.unaccepted(&self.path(key), "of another shape", accepted);
        }
        pairs
    }

    /// A table whose keys are the user's own, with values of any kind.
    pub(super) fn entries(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Vec<(String, Value)> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Table(table)) => table.into_iter().collect(),
            // Not shown: what was meant as a digest may be the key itself.
            Some(_) => {
                problems.unaccepted(&self.path(key), "of another shape", "a table");
                Vec::new()
            }
        }
    }

    /// Whether there is anything under a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A digest, which is not shown where it is refused: it may be the key itself.
    pub(super) fn digest(
        &mut self,
        key: &'static str,
        accepted: &str,
        problems: &mut Problems,
    ) -> Option<Digest> {
        let digest = self.take(key)?.as_str().and_then(|text| text.parse().ok());
        if digest.is_none() {
            problems.unaccepted(&self.path(key), "not a digest", accepted);
        }
        digest
    }

    /// A moment in Unix seconds, stated as such or as a date-time.
    pub(super) fn moment(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        let value = self.take(key)?;
        let moment = match &value {
            // The end of the year 9999: more are no seconds.
            Value::Integer(unix) => {
                u64::try_from(*unix).ok().filter(|unix| *unix < 253_402_300_800)
            }
            // Without an offset it is no moment.
            Value::Datetime(at) if at.offset.is_some() => moment::rfc3339(&at.to_string()),
            _ => None,
        };
        if moment.is_none() {
            const ACCEPTED: &str =
                "a date-time with its offset, such as 2027-01-31T12:00:00Z, or Unix seconds";
            self.refuse(key, &value, ACCEPTED, problems);
        }
        moment
    }

    /// A table of settings; empty where the file has none.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Self {
        let path = self.path(key);
        match self.take(key) {
            Some(Value::Table(table)) => Self::new(&path, table),
            Some(other) => {
                self.refuse(key, &other, "a table", problems);
                Self::new(&path, Table::new())
            }
            None => Self::new(&path, Table::new()),
        }
    }

    /// A table of tables, each with a name of the user's.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Vec<(String, Self)> {
        let mut sections = Vec::new();
        let outer = self.section(key, problems);
        for (name, value) in outer.table {
            let path = format!("{}.{name}", outer.name);
            match value {
                Value::Table(table) => sections.push((name, Self::new(&path, table))),
                other => problems.unaccepted(&path, &shown(&other), "a table"),
            }
        }
        sections
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        let accepted = self.known.join(", ");
        for key in self.table.keys() {
            problems.unaccepted(&self.path(key), "unknown setting", &accepted);
        }
    }
}

/// A value in one short line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Datetime(at) => at.to_string(),
        other => format!("a {}", other.type_str()),
    }
}
