//! A complete configuration file, with each setting's meaning beside it.

use std::fmt::Write as _;

use super::catalogue::{Example, PROVIDER, SETTINGS, Setting};

const HEAD: &str = "\
# Settings of Torchbearer's refresher: ~/.config/torchbearer/config.toml, or where --config or
# TORCHBEARER_CONFIG says. What stands here without a # is the default. Flags come before environment
# variables, these before this file.
";

const CLIENT_KEYS: &str = "
# Client keys by the client's name, besides those of `refresher keys` and PROXY_API_KEY: the SHA-256 of
# a key (printf %s \"$key\" | sha256sum), or a table with all that a key can have.
[client_keys]
# bob = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"

# [client_keys.alice]
# sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ae\"   # or subject_alt_name
# not_before = 2027-01-01T00:00:00Z   # or Unix seconds
# not_after = 2027-12-31T00:00:00Z
# credential = \"default\"
# paths = [\"/v1/\"]
# models = [\"grok-4*\"]
# requests_per_minute = 60
# concurrency = 4
";

/// The file, whose values are the defaults.
pub fn file() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        let (table, name) = setting.path.split_once('.').unwrap_or(("", setting.path));
        text.push('\n');
        if table != section {
            section = table;
            let _ = writeln!(text, "[{table}]");
        }
        show(&mut text, setting, name);
    }
    text.push_str(CLIENT_KEYS);
    text.push_str("\n# Another provider, or single fields of a preset.\n# [providers.example]\n");
    for field in PROVIDER {
        comment(&mut text, field.meaning);
        let _ = writeln!(text, "# {} = {}", field.name, field.example);
    }
    text
}

fn show(text: &mut String, setting: &Setting, name: &str) {
    comment(text, setting.meaning);
    if !setting.variables.is_empty() {
        comment(text, &format!("Also {}.", setting.variables.join(", ")));
    }
    let _ = match &setting.example {
        Example::Default(value) => writeln!(text, "{name} = {}", value()),
        Example::Unset(value) => writeln!(text, "# {name} = {value}"),
    };
}

/// A comment in lines of at most a hundred characters.
fn comment(text: &mut String, sentences: &str) {
    let mut length = usize::MAX;
    for word in sentences.split(' ') {
        if length.saturating_add(word.len()) >= 99 {
            let start = if length == usize::MAX { "" } else { "\n" };
            let _ = write!(text, "{start}#");
            length = 1;
        }
        let _ = write!(text, " {word}");
        length += word.len() + 1;
    }
    text.push('\n');
}
