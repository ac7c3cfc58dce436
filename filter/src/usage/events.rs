//! Server-sent events (WHATWG HTML, section 9.2), as far as their data is concerned.

use super::Found;
use super::scan::Scanner;

const FIELD: &[u8] = b"data:";

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
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (text, rest) =
                chunk.split_at_checked(end.unwrap_or(chunk.len())).unwrap_or_default();
            self.text(text, found);
            let Some((ending, rest)) = rest.split_first() else { return };
            self.after_cr = *ending == b'\r';
            if self.line == Line::Field(0) {
                // An empty line ends an event.
                self.document.restart();
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
