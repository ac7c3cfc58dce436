//! A JSON object whose text is wiped when it is dropped.

use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::moment;
use crate::secret::Secret;

/// The longest identifier or address that is believed, in bytes.
const MAX_WORD_BYTES: usize = 1024;

/// A JSON object.
pub(super) struct Document(Map<String, Value>);

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        match serde_json::from_slice(bytes).ok()? {
            Value::Object(map) => Some(Self(map)),
            mut other => {
                wipe(&mut other);
                None
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.0.remove(from) {
            self.0.insert(to.to_owned(), value);
        }
    }

    /// Takes over what only the object around this one says.
    pub(super) fn inherit(&mut self, name: &str, outer: &Self) {
        if let (false, Some(value)) = (self.has(name), outer.get(name)) {
            self.0.insert(name.to_owned(), value.clone());
        }
    }

    /// Text that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// Text that is safe to print.
    pub(super) fn word(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| is_word(text)).map(str::to_owned)
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(|text| Secret::new(text.to_owned()))
    }

    pub(super) fn moment(&self, name: &str) -> Option<u64> {
        moment::read(self.get(name)?)
    }

    /// An object within.
    pub(super) fn child(&self, name: &str) -> Option<Self> {
        self.get(name)?.as_object().cloned().map(Self)
    }

    /// The objects of a list within.
    pub(super) fn children(&self, name: &str) -> Vec<Self> {
        let items = self.get(name).and_then(Value::as_array);
        let objects = items.into_iter().flatten().filter_map(Value::as_object);
        objects.cloned().map(Self).collect()
    }
}

fn is_word(text: &str) -> bool {
    text.len() <= MAX_WORD_BYTES && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

impl Drop for Document {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

/// No deeper than the parser's own limit.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
