//! Server-sent events (WHATWG HTML, section 9.2), as far as their data is concerned.

use super::Found;
use super::scan::Scanner;

const FIELD: &[u8] = b"data:";

/// The name of the member that is waited for.
const USAGE: &[u8] = b"\"usage\"";

/// Where in it the byte is that is the rarest of it in answers, and the byte.
const RARE: (usize, u8) = (4, b'g');

/// What follows the name in all but the last event of a stream, where anything follows.
const NULL: [&[u8]; 2] = [b":null", b": null"];

/// Reads a stream of events, each with a JSON document as its data.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Line,
    /// Whether the last line ended in a CR, whose LF may follow.
    after_cr: bool,
    document: Scanner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of it were read, and they are the beginning of `data:`.
    Field(usize),
    /// What follows is data.
    Data,
    /// What follows is something else.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Field(0)
    }
}

impl Events {
    pub(super) fn read(&mut self, mut chunk: &[u8], found: &mut Found) {
        while !chunk.is_empty() {
            if std::mem::take(&mut self.after_cr) && chunk.first() == Some(&b'\n') {
                chunk = chunk.get(1..).unwrap_or_default();
                continue;
            }
            if found.model.is_some() && self.line == Line::Field(0) && self.document.is_fresh() {
                // Most events say nothing new.
                chunk = chunk.get(idle(chunk)..).unwrap_or_default();
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (text, rest) =
                chunk.split_at_checked(end.unwrap_or(chunk.len())).unwrap_or_default();
            self.text(text, found);
            let Some((ending, rest)) = rest.split_first() else { return };
            self.after_cr = *ending == b'\r';
            match self.line {
                // An empty line ends an event.
                Line::Field(0) => {
                    self.document.restart();
                    found.end();
                }
                // Lines of data are joined by it.
                Line::Data => self.document.read(b"\n", found),
                Line::Field(_) | Line::Other => {}
            }
            self.line = Line::default();
            chunk = rest;
        }
    }

    fn text(&mut self, mut text: &[u8], found: &mut Found) {
        while let Line::Field(read) = self.line {
            let Some(expected) = FIELD.get(read) else {
                self.line = Line::Data;
                break;
            };
            let Some((byte, rest)) = text.split_first() else { return };
            if byte == expected {
                self.line = Line::Field(read + 1);
                text = rest;
            } else {
                self.line = Line::Other;
            }
        }
        if self.line == Line::Data {
            self.document.read(text, found);
        }
    }
}

/// How many bytes at the beginning of a chunk are whole events without a usage in them, their lines
/// ended as everybody ends them. The chunk has to begin with an event.
fn idle(chunk: &[u8]) -> usize {
    let events = chunk.get(..usage(chunk)).unwrap_or_default();
    events.windows(2).rposition(|lines| lines == b"\n\n").map_or(0, |end| end + 2)
}

/// Where the first usage may be.
fn usage(chunk: &[u8]) -> usize {
    let (offset, byte) = RARE;
    memchr::memchr_iter(byte, chunk)
        .filter_map(|place| place.checked_sub(offset))
        .find(|start| {
            let name = chunk.get(*start..).and_then(|text| text.strip_prefix(USAGE));
            name.is_some_and(|value| !NULL.iter().any(|null| value.starts_with(null)))
        })
        .unwrap_or(chunk.len())
}
