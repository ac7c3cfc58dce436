//! `[client_keys]`: for each name a digest, or a table with everything that a client key carries.

use filter::client::{ClientId, ClientKey, InvalidClientKey, Proof};
use toml::Value;

use super::problem::Problems;
use super::section::Section;
use crate::keys;
use crate::store::{NAME_RULE, is_name};

/// How many keys the file may have.
const MAX_KEYS: usize = keys::ring::MAX_KEYS;

/// How much room they may take in a bundle, in bytes: with those that are made by command, they
/// leave a quarter of it to the credentials.
const MAX_BYTES: usize = filter::bundle::MAX_BYTES / 4;

const DIGEST: &str = "the SHA-256 of a key, 64 hexadecimal digits";
const LIMIT: &str = "a number from 0 (no limit) to 4294967295";

/// Reads the table; bad entries go on the list.
pub(super) fn read(root: &mut Section, problems: &mut Problems) -> Vec<ClientKey> {
    let mut client_keys = Vec::new();
    for (name, value) in root.entries("client_keys", problems) {
        let setting = format!("client_keys.{name}");
        let id = match name.parse::<ClientId>() {
            Ok(id) => id,
            Err(error) => {
                problems.unaccepted("client_keys", &format!("{name:?}"), &error.to_string());
                continue;
            }
        };
        client_keys.extend(match value {
            Value::Table(table) => restricted(id, Section::new(&setting, table), problems),
            value => match value.as_str().map(str::parse) {
                Some(Ok(digest)) => Some(ClientKey::new(id, Proof::Key(digest))),
                // The value is not shown: it may be the key itself.
                _ => {
                    problems.unaccepted(&setting, "not a digest", &format!("{DIGEST}, or a table"));
                    None
                }
            },
        });
    }
    if client_keys.len() > MAX_KEYS {
        let found = format!("{} names", client_keys.len());
        problems.unaccepted("client_keys", &found, &format!("at most {MAX_KEYS}"));
    }
    let bytes = keys::size(client_keys.iter());
    if bytes > MAX_BYTES {
        let accepted = format!("at most {MAX_BYTES}: fewer or shorter paths and models");
        problems.unaccepted("client_keys", &format!("{bytes} bytes as JSON"), &accepted);
    }
    client_keys
}

/// Two clients with one key would have the restrictions of one of them.
pub(super) fn tell_apart(client_keys: &[ClientKey], problems: &mut Problems) {
    for (count, key) in client_keys.iter().enumerate() {
        let same = |other: &&ClientKey| other.proof == key.proof && other.id != key.id;
        if let Some(other) = client_keys.iter().take(count).find(same) {
            let found = format!("the same key or name as client_keys.{}", other.id.as_str());
            let setting = format!("client_keys.{}", key.id.as_str());
            problems.unaccepted(&setting, &found, "one of its own");
            return;
        }
    }
}

fn restricted(id: ClientId, mut section: Section, problems: &mut Problems) -> Option<ClientKey> {
    let setting = format!("client_keys.{}", id.as_str());
    // One that is there but bad counts as there.
    let (keyed, certified) = (section.has("sha256"), section.has("subject_alt_name"));
    let digest = section.digest("sha256", DIGEST, problems);
    let name = section.text("subject_alt_name", problems);
    if keyed == certified {
        let found = if keyed { "both" } else { "neither" };
        problems.unaccepted(&setting, found, &InvalidClientKey::Proof.to_string());
    }
    let mut limit = |key| {
        let number = section.number(key, 0..=u64::from(u32::MAX), LIMIT, problems);
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    };
    let requests_per_minute = limit("requests_per_minute");
    let concurrency = limit("concurrency");
    let not_before = section.moment("not_before", problems).unwrap_or(0);
    let not_after = section.moment("not_after", problems).unwrap_or(0);
    if not_after != 0 && not_after <= not_before {
        let found = format!("{not_after}, which is not after not_before");
        problems.unaccepted(&format!("{setting}.not_after"), &found, "a later moment");
    }
    let credential = section.text("credential", problems);
    if let Some(name) = credential.as_deref().filter(|name| !is_name(name)) {
        problems.unaccepted(&format!("{setting}.credential"), &format!("{name:?}"), NAME_RULE);
    }
    let paths = section.texts("paths", problems).unwrap_or_default();
    let models = section.texts("models", problems).unwrap_or_default();
    section.finish(problems);
    let proof = digest.map(Proof::Key).or(name.map(Proof::Certificate))?;
    let plain = ClientKey::new(id, proof);
    let credential = credential.unwrap_or_else(|| plain.credential.clone());
    let key = ClientKey {
        not_before,
        not_after,
        credential,
        paths,
        models,
        requests_per_minute,
        concurrency,
        ..plain
    };
    match keys::validated(&key) {
        Ok(key) => Some(key),
        Err(reason) => {
            problems.unaccepted(&setting, "not a client key", &reason.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests;
