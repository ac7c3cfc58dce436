//! What holds at present, and where each of it comes from.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use super::catalogue::{PROVIDER, REDACTED, SETTINGS, VARIABLES};
use super::{Config, Environment, Overrides, text};
use crate::keys::listing::Place;

/// A setting as it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Effective {
    /// Its place in the file, or the name by which it is known if only the environment sets it.
    pub setting: String,
    /// Its value; null: unset.
    pub value: Value,
    /// Where that comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// A flag.
    Flag {
        /// Its name.
        name: &'static str,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: &'static str,
    },
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A preset of a provider.
    Preset,
    /// What holds if nothing is said.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag { name } | Self::Environment { name } => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Preset => f.write_str("preset"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What a configuration was made of.
pub struct Sources<'a> {
    /// The file and its content, if there is one.
    pub file: Option<(&'a Path, &'a str)>,
    /// The flags.
    pub flags: &'a Overrides,
    /// The environment.
    pub env: Environment<'a>,
}

/// All settings as they hold. No secret is among them.
pub fn effective(config: &Config, sources: &Sources<'_>) -> Vec<Effective> {
    let file = sources.file.and_then(|(path, text)| Some((path, text, DeTable::parse(text).ok()?)));
    let in_file = |keys: &[&str]| {
        let (path, text, table) = file.as_ref()?;
        let offset = find(table.get_ref(), keys)?;
        let line = 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
        Some(Origin::File { path: path.to_path_buf(), line })
    };
    let variable = |names: &[&'static str]| {
        let set = names.iter().find(|name| text(sources.env, name).is_some());
        set.map(|name| Origin::Environment { name })
    };
    let mut all = Vec::new();
    for setting in SETTINGS {
        let flag = setting.flag.filter(|flag| sources.flags.has(flag));
        let keys: Vec<&str> = setting.path.split('.').collect();
        let origin = flag
            .map(|name| Origin::Flag { name })
            .or_else(|| variable(setting.variables))
            .or_else(|| in_file(&keys))
            .unwrap_or(Origin::Default);
        let value = (setting.present)(config);
        all.push(Effective { setting: setting.path.to_owned(), value, origin });
    }
    for known in VARIABLES {
        let origin = variable(known.names).unwrap_or(Origin::Default);
        let setting = known.setting.to_owned();
        all.push(Effective { setting, value: (known.present)(config), origin });
    }
    for key in &config.client_keys {
        if config.place_of(key) == Place::Environment {
            continue;
        }
        let name = key.id.as_str();
        let origin = in_file(&["client_keys", name]).unwrap_or(Origin::Default);
        let mut value = serde_json::to_value(key).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.remove("id");
            // No key, but a weak one could be guessed from it.
            if let Some(digest) = members.get_mut("sha256") {
                *digest = REDACTED.into();
            }
        }
        all.push(Effective { setting: format!("client_keys.{name}"), value, origin });
    }
    let provider = &config.provider.name;
    let preset = crate::provider::preset::NAMES.contains(&provider.as_str());
    for field in PROVIDER {
        let value = (field.present)(&config.provider);
        let unset = if preset { Origin::Preset } else { Origin::Default };
        let origin = in_file(&["providers", provider, field.name]).unwrap_or(unset);
        all.push(Effective {
            setting: format!("providers.{provider}.{}", field.name),
            value,
            origin,
        });
    }
    all
}

/// Where a value begins.
fn find(table: &DeTable<'_>, keys: &[&str]) -> Option<usize> {
    let (first, rest) = keys.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    match (rest, value.get_ref()) {
        ([], _) => Some(key.span().start),
        (rest, DeValue::Table(table)) => find(table, rest),
        _ => None,
    }
}

/// As TOML, with the origin of each value beside it.
pub fn toml(all: &[Effective]) -> String {
    let mut out = String::new();
    let mut section = String::new();
    for Effective { setting, value, origin } in all {
        let (table, name) = match setting.rsplit_once('.') {
            // A client's name may have dots, and be of any characters.
            Some(_) if setting.starts_with("client_keys.") => setting.split_once('.'),
            split => split,
        }
        .unwrap_or(("", setting));
        if table != section && VARIABLES.iter().all(|variable| variable.setting != setting) {
            let _ = write!(out, "\n[{table}]\n");
            table.clone_into(&mut section);
        }
        let name = if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        {
            name.to_owned()
        } else {
            json!(name).to_string()
        };
        let line = match toml::Value::try_from(value) {
            Ok(value) => format!("{name} = {value}"),
            // There is no null in TOML.
            Err(_) => format!("# {name}: unset"),
        };
        let line = if VARIABLES.iter().any(|variable| variable.setting == setting) {
            format!("# {}", line.trim_start_matches("# "))
        } else {
            line
        };
        let _ = writeln!(out, "{line:<50}  # {origin}");
    }
    out
}
