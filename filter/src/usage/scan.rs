//! A scanner that finds a few members of a JSON object without keeping the rest.

use super::Found;

/// The longest value that is kept, in bytes. A usage object has some 300.
const MAX_VALUE: usize = 4096;

/// The longest member name that matters, with its quotes.
const MAX_NAME: usize = 16;

/// Reads one JSON document, in pieces of any size.
///
/// It does not judge whether the document is JSON: it follows strings and brackets, and what it
/// finds is parsed properly.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// How many brackets are open.
    depth: u32,
    /// The depth whose members are looked at: 1, or 2 within `response`.
    watched: u32,
    place: Place,
    /// What the current member at the watched depth is.
    member: Member,
    /// The name that is being read.
    name: Vec<u8>,
    /// The value that is being kept, and whether it is.
    value: Vec<u8>,
    keeps: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between values.
    #[default]
    Structure,
    /// Within a string; `name`: it is a member's name at the watched depth.
    String { name: bool },
    /// After a backslash within one.
    Escape { name: bool },
    /// The document is no object, or it is over.
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Member {
    /// Its name has still to come.
    #[default]
    Unnamed,
    Model,
    Usage,
    Response,
    Other,
}

impl Scanner {
    pub(super) fn read(&mut self, mut chunk: &[u8], found: &mut Found) {
        while let Some((byte, rest)) = chunk.split_first() {
            if self.place == (Place::String { name: false }) && !self.keeps {
                // Most of an answer is text that nobody looks at.
                let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'\\'));
                let (_, from) =
                    chunk.split_at_checked(end.unwrap_or(chunk.len())).unwrap_or_default();
                let Some((byte, rest)) = from.split_first() else { return };
                self.step(*byte, found);
                chunk = rest;
                continue;
            }
            self.step(*byte, found);
            chunk = rest;
        }
    }

    fn step(&mut self, byte: u8, found: &mut Found) {
        match self.place {
            Place::Over => {}
            Place::Escape { name } => {
                self.keep(byte, name);
                self.place = Place::String { name };
            }
            Place::String { name } => {
                self.keep(byte, name);
                match byte {
                    b'\\' => self.place = Place::Escape { name },
                    b'"' => {
                        self.place = Place::Structure;
                        if name {
                            self.named();
                        }
                    }
                    _ => {}
                }
            }
            Place::Structure => self.structure(byte, found),
        }
    }

    fn structure(&mut self, byte: u8, found: &mut Found) {
        match byte {
            b'"' => {
                let name = self.depth == self.watched && self.member == Member::Unnamed;
                self.name.clear();
                self.place = Place::String { name };
                self.keep(byte, name);
            }
            b'{' | b'[' => {
                if self.depth == 0 && byte == b'[' {
                    self.place = Place::Over;
                    return;
                }
                self.keep(byte, false);
                self.depth = self.depth.saturating_add(1);
                let within = self.watched == 1 && self.member == Member::Response;
                if byte == b'{' && (self.depth == 1 || (self.depth == 2 && within)) {
                    self.watched = self.depth;
                    self.member = Member::Unnamed;
                }
            }
            b'}' | b']' => {
                if self.depth == self.watched {
                    self.end_of_value(found);
                }
                self.keep(byte, false);
                self.depth = self.depth.saturating_sub(1);
                match self.depth {
                    0 => self.place = Place::Over,
                    1 => self.watched = 1,
                    _ => {}
                }
            }
            b',' if self.depth == self.watched => {
                self.end_of_value(found);
                self.member = Member::Unnamed;
            }
            b':' if self.depth == self.watched => {
                self.keeps = matches!(self.member, Member::Model | Member::Usage);
                self.value.clear();
            }
            // Text in front of the document is no document.
            _ if self.depth == 0 && !byte.is_ascii_whitespace() => self.place = Place::Over,
            _ => self.keep(byte, false),
        }
    }

    fn keep(&mut self, byte: u8, name: bool) {
        if name && self.name.len() < MAX_NAME {
            self.name.push(byte);
        }
        if self.keeps {
            if self.value.len() == MAX_VALUE {
                self.keeps = false;
            } else {
                self.value.push(byte);
            }
        }
    }

    fn named(&mut self) {
        self.member = match self.name.as_slice() {
            b"\"model\"" => Member::Model,
            b"\"usage\"" => Member::Usage,
            b"\"response\"" => Member::Response,
            _ => Member::Other,
        };
    }

    fn end_of_value(&mut self, found: &mut Found) {
        if std::mem::take(&mut self.keeps) {
            match self.member {
                Member::Model => found.model(&self.value),
                Member::Usage => found.usage(&self.value),
                _ => {}
            }
        }
    }

    /// Whether nothing of a document was read.
    pub(super) fn is_fresh(&self) -> bool {
        (self.depth, self.place, self.member) == (0, Place::Structure, Member::Unnamed)
    }

    /// Makes it ready for another document.
    pub(super) fn restart(&mut self) {
        self.name.clear();
        self.value.clear();
        let (name, value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        *self = Self { name, value, ..Self::default() };
    }
}
