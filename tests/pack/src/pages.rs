//! Manual pages and completions, as the program itself prints them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Shells, and what they call a file of completions.
const SHELLS: [(&str, &str); 5] = [
    ("bash", "refresher.bash"),
    ("elvish", "refresher.elv"),
    ("fish", "refresher.fish"),
    ("powershell", "_refresher.ps1"),
    ("zsh", "_refresher"),
];

/// Every page and script, by its place in a release.
pub(crate) fn all(program: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for (shell, name) in SHELLS {
        files.push((format!("completions/{name}"), say(program, &["completions", shell])?));
    }
    let mut left: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = left.pop() {
        let mut arguments = vec!["man"];
        arguments.extend(command.iter().map(String::as_str));
        let page = say(program, &arguments)?;
        let title = [&["refresher".to_owned()], command.as_slice()].concat().join("-");
        for name in subcommands(&page, &title) {
            left.push([command.as_slice(), &[name]].concat());
        }
        files.push((format!("man/man1/{title}.1"), page));
    }
    Ok(files)
}

/// The commands below the one that a page is of: the page refers to theirs.
fn subcommands(page: &str, title: &str) -> Vec<String> {
    let plain = page.replace("\\-", "-");
    let of = format!("{title}-");
    let named = plain.lines().filter_map(|line| line.strip_suffix("(1)")?.strip_prefix(&of));
    named.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn say(program: &Path, arguments: &[&str]) -> Result<String> {
    let run = Command::new(program).args(arguments).output();
    let run = run.with_context(|| format!("{} cannot be run", program.display()))?;
    ensure!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8(run.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_the_commands_below_its_own() {
        let page =
            ".TP\nrefresher\\-envoy\\-config(1)\nPrint\n.TP\nrefresher\\-help(1)\n.TP\nls(1)\n";
        assert_eq!(subcommands(page, "refresher"), ["envoy-config"]);
        assert!(subcommands(page, "refresher-keys").is_empty());
    }
}
