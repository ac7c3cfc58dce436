//! `status`: once, again and again, or until all workers serve a generation.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::output::{Output, complain};
use super::progress::Progress;
use super::{Exit, stopped};
use crate::config::Config;
use crate::keys::duration;
use crate::status::screen::{Look, printable, printable_json};
use crate::status::wait::{self, Wanted};
use crate::status::{self, Report};
use crate::{chain, clock};

/// The pause between two looks at the workers.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Fail where no refresher answers, instead of telling what is stored
    #[arg(long)]
    running: bool,
    /// Again every so many seconds, until Ctrl-C; on a terminal in place
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
    /// Wait until all workers serve this generation or a newer one; "current" is what is published
    /// now. Exits with 5 when the time is over
    #[arg(long, value_name = "GENERATION", conflicts_with = "watch")]
    wait_generation: Option<Wanted>,
    /// How long to wait for that, such as 10s or 2m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = seconds,
          requires = "wait_generation")]
    timeout: u64,
}

fn seconds(text: &str) -> Result<u64, String> {
    duration::parse(text).ok_or_else(|| format!("accepted: {}", duration::RULE))
}

pub(super) async fn perform(
    config: &Config,
    arguments: &StatusArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let progress = Progress::new(output);
    let StatusArguments { json, running, watch, wait_generation, timeout } = *arguments;
    match (wait_generation, watch) {
        (Some(wanted), _) => {
            wait_for(config, wanted, Duration::from_secs(timeout), json, &progress).await
        }
        (None, Some(seconds)) => observe(config, Duration::from_secs(seconds), json).await,
        (None, None) => {
            let report = status::collect(config);
            let report = progress.during("asking the refresher", report).await?;
            let text = if json {
                printable_json(&serde_json::to_string_pretty(&report)?) + "\n"
            } else {
                status::lines::show(&report, look(), clock::now().unix())
            };
            print(&text)?;
            Ok(if running && !report.serving { Exit::Other } else { exit(&report) })
        }
    }
}

fn exit(report: &Report) -> Exit {
    if report.is_good() {
        Exit::Done
    } else if report.login_required() {
        Exit::LoginRequired
    } else {
        Exit::Other
    }
}

/// How standard output wants it.
pub(super) fn look() -> Look {
    if std::io::stdout().is_terminal() {
        Look::of_terminal(size().map(|(columns, _)| columns), &|name| std::env::var(name).ok())
    } else {
        Look::PLAIN
    }
}

/// Columns and rows of the terminal, where it tells them.
fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Writes to standard output; a reader that has seen enough is no error.
pub(super) fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn wait_for(
    config: &Config,
    wanted: Wanted,
    timeout: Duration,
    json: bool,
    progress: &Progress,
) -> anyhow::Result<Exit> {
    let socket = config.socket.display().to_string();
    let mut wanted = wanted;
    let mut last = wait::judge(wanted, None, &socket);
    let waits = match wanted {
        Wanted::Current => "waiting for all workers to serve what is published".to_owned(),
        Wanted::Generation(generation) => {
            format!("waiting for all workers to serve generation {generation}")
        }
    };
    let reached = tokio::time::timeout(timeout, async {
        loop {
            let overview = status::ask(config).await;
            if let Some(overview) = &overview {
                wanted = wanted.settled(overview);
            }
            last = wait::judge(wanted, overview.as_ref(), &socket);
            if last.reached {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    let reached = tokio::select! {
        reached = progress.during(&waits, reached) => reached.is_ok(),
        () = stopped() => {
            progress.end();
            return Ok(Exit::Cancelled);
        }
    };
    if json {
        print(&(printable_json(&serde_json::to_string(&last)?) + "\n"))?;
    } else if reached {
        print(&(printable(&last.message) + "\n"))?;
    }
    if reached {
        return Ok(Exit::Done);
    }
    complain(format_args!("not within {} s: {}", timeout.as_secs(), printable(&last.message)));
    Ok(Exit::Expired)
}

/// Shows the report again and again, until somebody stops it or nobody reads it any more.
async fn observe(config: &Config, pause: Duration, json: bool) -> anyhow::Result<Exit> {
    let mut stop = std::pin::pin!(stopped());
    let terminal = std::io::stdout().is_terminal() && !json;
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    let mut frame = Frame::default();
    loop {
        let collected = tokio::select! {
            collected = status::collect(config) => collected,
            () = stop.as_mut() => break,
        };
        let text = match (&collected, json) {
            (Ok(report), true) => printable_json(&serde_json::to_string(report)?) + "\n",
            (Ok(report), false) => status::lines::show(report, look(), clock::now().unix()),
            (Err(error), true) => {
                printable_json(&json!({"error": chain::line(error)}).to_string()) + "\n"
            }
            (Err(error), false) => format!("{}\n", printable(&chain::line(error))),
        };
        let text = if terminal && !dumb {
            frame.next(&text, size())
        } else if json {
            text
        } else {
            frame.block(&text)
        };
        if !print(&text)? {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.as_mut() => break,
        }
    }
    if terminal && !dumb {
        // What the terminal has echoed of Ctrl-C.
        print("\r\u{1b}[J")?;
    }
    Ok(Exit::Done)
}

/// What is on the screen.
#[derive(Debug, Default)]
struct Frame {
    shown: bool,
    rows: usize,
    size: Option<(u16, u16)>,
}

impl Frame {
    /// The text in the place of the last one.
    fn next(&mut self, text: &str, size: Option<(u16, u16)>) -> String {
        let rows = size.map(|(_, rows)| usize::from(rows)).filter(|&rows| rows > 2);
        let mut lines: Vec<&str> = text.lines().collect();
        // What has scrolled off the screen could not be redrawn.
        if let Some(room) = rows.map(|rows| rows - 1).filter(|&room| room < lines.len()) {
            lines.truncate(room - 1);
            lines.push("…");
        }
        let mut drawn = String::new();
        if self.shown && self.size == size {
            drawn.push('\r');
            if self.rows > 0 {
                drawn.push_str(&format!("\u{1b}[{}A", self.rows));
            }
        } else if self.shown {
            // Another size has moved what is there to no one knows where.
            drawn.push_str("\u{1b}[H\u{1b}[2J");
        }
        for line in &lines {
            drawn.push_str(line);
            drawn.push_str("\u{1b}[K\n");
        }
        drawn.push_str("\u{1b}[J");
        *self = Self { shown: true, rows: lines.len(), size };
        drawn
    }

    /// The text below the last one.
    fn block(&mut self, text: &str) -> String {
        let gap = if self.shown { "\n" } else { "" };
        self.shown = true;
        format!("{gap}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_the_place_of_the_last_one() {
        let mut frame = Frame::default();
        let size = Some((80, 24));
        assert_eq!(frame.next("a\nb\n", size), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(frame.next("c\n", size), "\r\u{1b}[2Ac\u{1b}[K\n\u{1b}[J");
        assert_eq!(frame.next("d\n", Some((40, 24))), "\u{1b}[H\u{1b}[2Jd\u{1b}[K\n\u{1b}[J");
    }

    #[test]
    fn a_frame_is_not_taller_than_the_terminal() {
        let text = "1\n2\n3\n4\n5\n6\n";
        let drawn = Frame::default().next(text, Some((80, 4)));
        assert_eq!(drawn, "1\u{1b}[K\n2\u{1b}[K\n…\u{1b}[K\n\u{1b}[J");
        // One that does not tell its size shows all.
        assert!(Frame::default().next(text, Some((0, 0))).contains('6'));
    }
}
