//! `doctor`: the checks on a terminal, line by line, or as JSON.

use std::io::Read as _;

use clap::Args;
use serde_json::json;

use super::Exit;
use super::keys::Unaccepted;
use super::output::Output;
use super::progress::Progress;
use super::status::{look, print};
use crate::config::{self, Overrides};
use crate::doctor::report::{Outcome, Report};
use crate::doctor::{self, Event, Loaded};
use crate::keys;
use crate::secret::Secret;
use crate::status::screen::{Tone, printable_json};

/// The longest client key that is read, in bytes.
const MAX_KEY_BYTES: u64 = 8 << 10;

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Read a client key for the request to the API from standard input (TORCHBEARER_CLIENT_KEY)
    #[arg(long)]
    key_stdin: bool,
}

pub(super) async fn perform(
    overrides: &Overrides,
    arguments: &DoctorArguments,
    output: Output,
) -> anyhow::Result<Exit> {
    let env = |name: &str| std::env::var(name).ok();
    let key = client_key(arguments.key_stdin)?;
    let path = config::file_path(overrides, &env);
    let loaded = Loaded { path, config: config::load(overrides, &env) };
    let look = look();
    let progress = Progress::new(output);
    let mut failed = None;
    let mut say = |text: &str| {
        if failed.is_none() {
            failed = print(text).err();
        }
    };
    let mut show = |event: Event<'_>| match event {
        Event::Begins(name) => progress.begin(&format!("looking at: {name}")),
        Event::Found(_) if arguments.json => progress.end(),
        Event::Found(check) => {
            progress.end();
            say(&check.show(look));
        }
    };
    let report = tokio::select! {
        report = progress.watch(doctor::run(loaded, key.as_ref(), &mut show)) => report,
        () = super::stopped() => {
            progress.end();
            return Ok(Exit::Cancelled);
        }
    };
    if arguments.json {
        say(&(printable_json(&serde_json::to_string_pretty(&document(&report))?) + "\n"));
    } else {
        let tone = match report.outcome() {
            Outcome::AllGood => Tone::Good,
            Outcome::LoginRequired | Outcome::Failed => Tone::Bad,
        };
        say(&format!("{}\n", look.paint(tone, &report.sum_up())));
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(match report.outcome() {
            Outcome::AllGood => Exit::Done,
            Outcome::LoginRequired => Exit::LoginRequired,
            Outcome::Failed => Exit::Other,
        }),
    }
}

fn document(report: &Report) -> serde_json::Value {
    let all_good = report.outcome() == Outcome::AllGood;
    let login_required = report.outcome() == Outcome::LoginRequired;
    json!({
        "all_good": all_good,
        "login_required": login_required,
        "summary": report.sum_up(),
        "checks": report.checks,
    })
}

/// The client key from standard input, else from the environment.
fn client_key(stdin: bool) -> anyhow::Result<Option<Secret>> {
    if !stdin {
        let set = std::env::var("TORCHBEARER_CLIENT_KEY").ok().filter(|key| !key.is_empty());
        return Ok(set.map(Secret::new));
    }
    let mut input = zeroize::Zeroizing::new(Vec::new());
    std::io::stdin().lock().take(MAX_KEY_BYTES).read_to_end(&mut input)?;
    let line = std::str::from_utf8(&input).unwrap_or_default().trim_end_matches(['\r', '\n']);
    if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        let found = "standard input has no client key";
        return Err(Unaccepted(format!("{found}; accepted: {}", keys::BROUGHT_RULE)).into());
    }
    Ok(Some(Secret::new(line.to_owned())))
}
