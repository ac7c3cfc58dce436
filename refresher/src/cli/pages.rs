//! What other programs read: completions of shells, and manual pages.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::Exit;
use super::args::Arguments;
use super::output::Output;

const NAME: &str = "refresher";

/// A command that there is no page of.
#[derive(Debug, thiserror::Error)]
#[error("man: no command {0:?}; accepted: one of {1}")]
pub(super) struct NoCommand(String, String);

pub(super) fn completions(shell: Shell, output: Output) -> std::io::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

pub(super) fn manual(path: &[String], output: Output) -> anyhow::Result<Exit> {
    let mut command = Arguments::command();
    // Gives each command the flags of all, and its full name.
    command.build();
    for word in path {
        let known = |command: &Command| {
            let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
            shown.map(|command| command.get_name().to_owned()).collect::<Vec<_>>().join(", ")
        };
        let found = command.find_subcommand(word).cloned();
        command = found.ok_or_else(|| NoCommand(word.clone(), known(&command)))?;
    }
    let mut page = Vec::new();
    let source = concat!("refresher ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command).source(source).render(&mut page)?;
    output.text(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Done)
}
