//! Rows of a label and a text, as wide as the terminal and in colour where that is wanted.

use anstyle::{AnsiColor, Style};
use textwrap::core::display_width;

/// The width of the labels' column.
const LABEL: usize = 13;

/// The narrowest that a terminal is taken for.
const NARROWEST: usize = 24;

/// What is taken for the width of a terminal that does not tell it.
const USUAL: usize = 80;

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Where lines are wrapped, in columns; unset: nowhere.
    pub width: Option<usize>,
    /// Whether colours are used.
    pub colour: bool,
}

impl Look {
    /// For a file, a pipe, a service's log: whole lines without escape sequences.
    pub const PLAIN: Self = Self { width: None, colour: false };

    /// For a terminal of so many columns, if it tells them. `env` reads a variable of the
    /// environment: `COLUMNS`, `NO_COLOR` (<https://no-color.org>) and `TERM`.
    pub fn of_terminal(columns: Option<u16>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let told = columns.map(usize::from).filter(|&columns| columns > 0);
        let stated = || env("COLUMNS")?.parse().ok().filter(|&columns| columns > 0);
        let width = told.or_else(stated).unwrap_or(USUAL).max(NARROWEST);
        let unwanted = env("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        Self { width: Some(width), colour: !unwanted && !dumb }
    }

    /// A text in a tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let style = tone.style();
        if self.colour && style != Style::new() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// What a word means for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Look at this.
    Warning,
    /// This does not work.
    Bad,
    /// A heading.
    Strong,
    /// Beside the point.
    Faint,
    /// Text like any other.
    Plain,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Good => colour(AnsiColor::Green),
            Self::Warning => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
            Self::Strong => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Plain => Style::new(),
        }
    }
}

/// A text that grows row by row.
#[derive(Clone, Debug)]
pub struct Screen {
    look: Look,
    text: String,
}

impl Screen {
    /// An empty one.
    pub fn new(look: Look) -> Self {
        Self { look, text: String::new() }
    }

    /// A label and a text, of which the `head` has a tone.
    pub fn row(&mut self, label: &str, tone: Tone, head: &str, rest: &str) {
        let (head, rest) = (printable(head), printable(rest));
        let label = printable(label);
        let padding = LABEL.saturating_sub(display_width(&label)).max(1);
        let first = format!("{label}{}", " ".repeat(padding));
        let separator = if head.is_empty() || rest.is_empty() { "" } else { " " };
        let whole = format!("{head}{separator}{rest}");
        let lines = self.wrapped(&first, &whole);
        for (index, line) in lines.iter().enumerate() {
            // The head of what was wrapped within the head is not coloured: that is no loss.
            let painted = match line.split_once(&head) {
                Some((before, after)) if index == 0 && !head.is_empty() => {
                    format!("{before}{}{after}", self.look.paint(tone, &head))
                }
                _ => line.clone(),
            };
            self.text.push_str(painted.trim_end());
            self.text.push('\n');
        }
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    fn wrapped(&self, first: &str, whole: &str) -> Vec<String> {
        let Some(width) = self.look.width else {
            return vec![format!("{first}{whole}")];
        };
        let indent = " ".repeat(LABEL);
        let options = textwrap::Options::new(width)
            .initial_indent(first)
            .subsequent_indent(&indent)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
        textwrap::wrap(whole, options).into_iter().map(String::from).collect()
    }
}

/// What a terminal shows as it is written: no control character, and none that turns the direction
/// of what follows.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for JSON, in which the characters are escaped. Between its members there are line ends.
pub fn printable_json(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && is_hidden(c) {
            // All of them have four digits.
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(columns: Option<u16>, variables: &[(&str, &str)]) -> Look {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Look::of_terminal(columns, &|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_terminal_has_colours_unless_it_or_its_user_says_otherwise() {
        for (variables, colour) in [
            (&[][..], true),
            (&[("NO_COLOR", "1")], false),
            (&[("NO_COLOR", "")], true),
            (&[("TERM", "dumb")], false),
            (&[("TERM", "xterm")], true),
        ] {
            assert_eq!(look(Some(80), variables).colour, colour, "{variables:?}");
        }
    }

    #[test]
    fn the_width_is_the_terminals_else_the_stated_one_else_the_usual() {
        for (columns, variables, width) in [
            (Some(120), &[][..], 120),
            (Some(120), &[("COLUMNS", "50")], 120),
            (Some(0), &[("COLUMNS", "50")], 50),
            (None, &[("COLUMNS", "wide")], 80),
            (None, &[], 80),
            (Some(3), &[], NARROWEST),
        ] {
            assert_eq!(look(columns, variables).width, Some(width), "{columns:?} {variables:?}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_word_is_lost() {
        let path = format!("/{}", "x".repeat(90));
        for width in [24, 40, 80, 120] {
            let mut screen = Screen::new(Look { width: Some(width), colour: false });
            screen.row("refresher", Tone::Good, "serving", &format!("on {path} since a while"));
            let text = screen.finish();
            assert!(text.lines().all(|line| display_width(line) <= width), "{width}: {text}");
            let joined: String = text.split_whitespace().collect();
            assert_eq!(joined, format!("refresherservingon{path}sinceawhile"), "{width}");
        }
        let mut screen = Screen::new(Look::PLAIN);
        screen.row("refresher", Tone::Good, "serving", &path);
        assert_eq!(screen.finish(), format!("refresher    serving {path}\n"));
    }

    #[test]
    fn only_the_head_is_coloured() {
        let mut screen = Screen::new(Look { width: Some(80), colour: true });
        screen.row("token", Tone::Bad, "dead", "since today");
        let text = screen.finish();
        assert!(text.starts_with("token        \u{1b}["), "{text:?}");
        assert!(text.ends_with("dead\u{1b}[0m since today\n"), "{text:?}");
    }

    #[test]
    fn what_would_steer_a_terminal_is_not_printed() {
        let hostile = "a\u{1b}[2Jb\u{9b}31mc\u{7f}\r\nd\u{202e}e\u{2028}";
        let shown = printable(hostile);
        assert!(!shown.chars().any(is_hidden), "{shown:?}");
        assert!(shown.starts_with("a\u{fffd}[2Jb"), "{shown:?}");
        let json = serde_json::to_string_pretty(&serde_json::json!({"x": hostile})).unwrap();
        let shown = printable_json(&json);
        assert!(!shown.chars().any(|c| c != '\n' && is_hidden(c)), "{shown:?}");
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read["x"], hostile);
    }
}
