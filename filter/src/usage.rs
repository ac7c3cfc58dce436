//! Tokens that an answer says it used, read as its bytes go by.
//!
//! The counter sees each chunk once and keeps only what it may still need: the top-level `model`
//! and `usage` of a JSON answer, or those of each event of a stream (`response.usage` of the
//! responses API as well). What it keeps is bounded, whatever the answer's size or chunking.

mod events;
mod scan;

use crate::json::Tree;

use events::Events;
use scan::Scanner;

/// The tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What was sent to the model.
    pub prompt: u64,
    /// What the model wrote.
    pub completion: u64,
    /// Of what the model wrote, what it thought. (Some APIs count it beside, not within.)
    pub reasoning: u64,
    /// Of what was sent, what was cached.
    pub cached: u64,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Counter {
    form: Form,
    found: Found,
}

#[derive(Debug)]
enum Form {
    Whole(Scanner),
    Stream(Events),
}

/// What the answer has said so far. Of an answer that tells its usage several times, the last
/// counts, and its model is the one in the same document, else the first that was named.
#[derive(Debug, Default)]
struct Found {
    model: Option<String>,
    usage: Option<Usage>,
    /// A later model in the current document, and whether that document has told the usage.
    later: Option<String>,
    told: bool,
}

impl Counter {
    /// A counter for an answer with these headers; `None` where nothing can be counted.
    pub fn of(status: u16, content_type: &[u8], is_encoded: bool) -> Option<Self> {
        let is = |wanted: &[u8]| {
            let (kind, rest) = content_type.split_at_checked(wanted.len()).unwrap_or_default();
            kind.eq_ignore_ascii_case(wanted)
                && rest.trim_ascii_start().first().is_none_or(|byte| *byte == b';')
        };
        let form = match status {
            _ if is_encoded => return None,
            200..=299 if is(b"application/json") => Form::Whole(Scanner::default()),
            200..=299 if is(b"text/event-stream") => Form::Stream(Events::default()),
            _ => return None,
        };
        Some(Self { form, found: Found::default() })
    }

    /// Takes the next chunk.
    pub fn read(&mut self, chunk: &[u8]) {
        match &mut self.form {
            Form::Whole(scanner) => scanner.read(chunk, &mut self.found),
            Form::Stream(events) => events.read(chunk, &mut self.found),
        }
    }

    /// The model and the tokens, if the answer has told them; of one that was cut off, what it
    /// has told until then.
    pub fn total(mut self) -> Option<(String, Usage)> {
        self.found.end();
        let usage = self.found.usage?;
        Some((self.found.model.unwrap_or_default(), usage))
    }
}

impl Found {
    /// A value of `model`.
    fn model(&mut self, json: &[u8]) {
        let tree = serde_json::from_slice::<Tree>(json).ok();
        if let Some(model) = tree.as_ref().and_then(Tree::text) {
            let place = if self.model.is_none() { &mut self.model } else { &mut self.later };
            *place = Some(model.to_owned());
        }
    }

    /// The end of a document.
    fn end(&mut self) {
        let later = self.later.take();
        if std::mem::take(&mut self.told) && later.is_some() {
            self.model = later;
        }
    }

    /// A value of `usage`, which is null in all but the last event of a stream. Chat completions
    /// say `prompt_tokens` where responses say `input_tokens`.
    fn usage(&mut self, json: &[u8]) {
        let Ok(tree @ Tree::Object(_)) = serde_json::from_slice::<Tree>(json) else { return };
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| tree.get(name));
        let count = |names| first(names).and_then(Tree::number).unwrap_or(0);
        let detail =
            |names, name| first(names).and_then(|details| details.get(name)?.number()).unwrap_or(0);
        self.told = true;
        self.usage = Some(Usage {
            prompt: count(["prompt_tokens", "input_tokens"]),
            completion: count(["completion_tokens", "output_tokens"]),
            cached: detail(["prompt_tokens_details", "input_tokens_details"], "cached_tokens"),
            reasoning: detail(
                ["completion_tokens_details", "output_tokens_details"],
                "reasoning_tokens",
            ),
        });
    }
}

/// The longest model name in a metric, in bytes.
const MAX_MODEL: usize = 64;

/// A model's name as it can stand in a metric's tag.
pub fn label(model: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '_' };
    let label: String = model.chars().take(MAX_MODEL).map(safe).collect();
    if label.is_empty() { "unknown".to_owned() } else { label }
}

#[cfg(test)]
mod tests;
