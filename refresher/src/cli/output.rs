//! What commands print: results on standard output, all else on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use serde_json::Value;

/// How much is printed, and in which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    /// Nothing but errors, and results that were asked for.
    pub(super) quiet: bool,
    /// Results as one JSON object.
    pub(super) json: bool,
}

impl Output {
    /// Prints a result that was asked for.
    pub(super) fn result(self, json: &Value, text: &str) -> io::Result<()> {
        if self.json { self.text(&format!("{json:#}\n")) } else { self.text(text) }
    }

    /// Prints what a command has done: with `--json` as a result, else unless all is to be quiet.
    pub(super) fn done(self, json: &Value, line: &str) -> io::Result<()> {
        match self {
            Self { json: true, .. } => self.text(&format!("{json:#}\n")),
            Self { quiet: true, .. } => Ok(()),
            _ => self.text(&format!("{line}\n")),
        }
    }

    /// Prints text as it is. Whoever has read enough of it is no error.
    pub(super) fn text(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Says something beside the result.
    pub(super) fn note(self, line: impl Display) {
        if !self.quiet {
            complain(line);
        }
    }
}

/// Says something on standard error, if anybody listens there.
pub(super) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "refresher: {line}");
}
