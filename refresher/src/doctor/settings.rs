//! The configuration: whether it is accepted, and whether others could change it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Loaded;
use super::report::Finding;
use crate::config;
use crate::{chain, store};

pub(super) fn look(loaded: &Loaded) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        loaded.path.as_deref().and_then(changeable).into_iter().collect();
    match &loaded.config {
        Err(error) => {
            let remedy = match &loaded.path {
                Some(path) => {
                    format!("edit {}, or the flag or variable that is named", path.display())
                }
                None => "change the flag or variable that is named".to_owned(),
            };
            match error {
                config::Error::Settings(problems) => findings.extend(
                    problems.to_string().lines().map(|line| Finding::fail(line, remedy.clone())),
                ),
                error => findings.push(Finding::fail(chain::line(error), remedy)),
            }
        }
        Ok(config) => {
            if let Some(path) = &config.provider.client_secret_file
                && let Err(error) = store::read_secret(path)
            {
                let remedy = format!("chmod 600 {}, or mend client_secret_file", path.display());
                findings.push(Finding::fail(chain::line(&error), remedy));
            }
            if findings.is_empty() {
                findings.push(Finding::ok(match &loaded.path {
                    Some(path) => format!("{}: every setting is accepted", path.display()),
                    None => "no file: the defaults hold".to_owned(),
                }));
            }
        }
    }
    findings
}

/// Whoever can write to it chooses where the account's token goes.
fn changeable(path: &Path) -> Option<Finding> {
    let found = std::fs::metadata(path).ok()?;
    let user = rustix::process::geteuid().as_raw();
    let path = path.display();
    if found.uid() != user && found.uid() != 0 {
        let says = format!("{path}: belongs to another user, who can change it");
        return Some(Finding::fail(says, format!("chown {user} {path}")));
    }
    if found.mode() & 0o022 != 0 {
        let says = format!("{path}: others can change it (mode {:04o})", found.mode() & 0o7777);
        return Some(Finding::fail(says, format!("chmod go-w {path}")));
    }
    None
}
