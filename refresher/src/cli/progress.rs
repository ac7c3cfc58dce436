//! What a command waits for, said on standard error once it takes more than a second: on a terminal
//! in one line that is redrawn, elsewhere in a plain line.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use super::output::Output;
use crate::clock;
use crate::login::terminal::CLEAR;
use crate::status::screen::{Look, printable};

/// After what time of waiting it is said, in milliseconds.
const PATIENCE_MS: u64 = 1_000;

/// How often the line is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere.
    Nowhere,
    /// In lines that stay.
    Lines,
    /// In one line of so many columns.
    Terminal(usize),
}

/// Says what is waited for.
#[derive(Debug)]
pub(super) struct Progress(RefCell<Wait>);

impl Progress {
    pub(super) fn new(output: Output) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        let columns = || {
            let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
            Look::of_terminal(size.map(|size| size.ws_col), &env).width.unwrap_or(80)
        };
        let place = match std::io::stderr().is_terminal() {
            _ if output.quiet => Place::Nowhere,
            true if !dumb => Place::Terminal(columns()),
            _ => Place::Lines,
        };
        Self(RefCell::new(Wait::new(place)))
    }

    /// From now on this is waited for.
    pub(super) fn begin(&self, what: &str) {
        write(&self.0.borrow_mut().begin(what, clock::now().boot_ms));
    }

    /// The end of it; what else is said comes at the beginning of a line.
    pub(super) fn end(&self) {
        write(&self.0.borrow_mut().clear());
    }

    /// Passes on what another program says.
    pub(super) fn pass(&self, said: &[u8]) {
        let mut wait = self.0.borrow_mut();
        write(&wait.clear());
        wait.within = said.last().is_some_and(|&last| last != b'\n');
        let _ = std::io::stderr().write_all(said);
    }

    /// Does some work, and says meanwhile what it waits for.
    pub(super) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                done = work.as_mut() => {
                    self.end();
                    return done;
                }
                _ = looks.tick() => write(&self.0.borrow_mut().look(clock::now().boot_ms)),
            }
        }
    }

    /// The same for one thing to wait for.
    pub(super) async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        self.begin(what);
        self.watch(work).await
    }
}

fn write(text: &str) {
    if !text.is_empty() {
        let mut err = std::io::stderr();
        // A terminal that is gone is no reason to stop.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

/// What is waited for, and what of it has been said.
#[derive(Debug)]
struct Wait {
    place: Place,
    what: String,
    since_ms: u64,
    /// The seconds that were shown last.
    shown: Option<u64>,
    /// Whether the cursor is within a line of another program.
    within: bool,
}

impl Wait {
    fn new(place: Place) -> Self {
        Self { place, what: String::new(), since_ms: 0, shown: None, within: false }
    }

    fn begin(&mut self, what: &str, now_ms: u64) -> String {
        let text = self.clear();
        (self.what, self.since_ms) = (printable(what), now_ms);
        text
    }

    /// Takes back the line that is redrawn.
    fn clear(&mut self) -> String {
        let drawn = self.shown.take().is_some() && matches!(self.place, Place::Terminal(_));
        if drawn { CLEAR.to_owned() } else { String::new() }
    }

    /// What is to be said at this time.
    fn look(&mut self, now_ms: u64) -> String {
        let waited_ms = now_ms.saturating_sub(self.since_ms);
        let seconds = waited_ms / 1000;
        if self.what.is_empty() || waited_ms < PATIENCE_MS || self.shown == Some(seconds) {
            return String::new();
        }
        let before = self.shown.replace(seconds);
        let what = &self.what;
        match self.place {
            Place::Lines if before.is_none() => format!("refresher: {what} …\n"),
            // Not into what another program has begun.
            Place::Terminal(columns) if !self.within => {
                let line = format!("{what} … {seconds} s");
                // What is wrapped could not be taken back.
                let line: String = line.chars().take(columns.saturating_sub(1)).collect();
                format!("{CLEAR}{line}")
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_said_once_in_lines_and_each_second_on_a_terminal() {
        let said = |place: Place| {
            let mut wait = Wait::new(place);
            wait.begin("asking it", 10_000);
            let looks = [10_500, 10_999, 11_000, 11_250, 12_100];
            let mut said: Vec<_> = looks.iter().map(|&at_ms| wait.look(at_ms)).collect();
            said.push(wait.clear());
            said.retain(|text| !text.is_empty());
            said
        };
        assert_eq!(said(Place::Lines), ["refresher: asking it …\n"]);
        let drawn = ["\r\u{1b}[Kasking it … 1 s", "\r\u{1b}[Kasking it … 2 s", "\r\u{1b}[K"];
        assert_eq!(said(Place::Terminal(80)), drawn);
        assert_eq!(said(Place::Terminal(7))[0], "\r\u{1b}[Kasking");
        assert!(said(Place::Nowhere).is_empty());
    }

    #[test]
    fn another_thing_to_wait_for_begins_anew_and_its_name_cannot_draw() {
        let mut wait = Wait::new(Place::Terminal(80));
        wait.begin("one", 0);
        assert!(!wait.look(1_500).is_empty());
        assert_eq!(wait.begin("\u{1b}[2Jtwo", 2_000), CLEAR);
        assert_eq!(wait.look(2_500), "");
        assert_eq!(wait.look(3_000), "\r\u{1b}[K\u{fffd}[2Jtwo … 1 s");
        // Half a line of another program stays.
        wait.within = true;
        assert_eq!(wait.look(5_000), "");
    }
}
