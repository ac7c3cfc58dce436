//! What is shown of client keys: whose, how restricted, and whether they hold. Never a key.

use filter::client::{ClientKey, Proof};
use serde::Serialize;

use super::Ring;
use crate::config::Config;
use crate::import::moment;

/// How much of a digest is shown: enough to tell keys apart.
const SHOWN_DIGITS: usize = 12;

/// Whether a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does.
    Valid,
    /// Not before its time.
    NotYet,
    /// Not any more.
    Expired,
}

impl State {
    /// The state of a key at `now`, in Unix seconds; as the filter has it.
    pub fn of(key: &ClientKey, now: u64) -> Self {
        if key.not_after != 0 && now >= key.not_after {
            Self::Expired
        } else if now < key.not_before {
            Self::NotYet
        } else {
            Self::Valid
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotYet => "not yet",
            Self::Expired => "expired",
        }
    }
}

/// Where a key stands, and so where it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Place {
    /// `[client_keys]` of the file.
    #[serde(rename = "configuration")]
    Configuration,
    /// The environment.
    #[serde(rename = "PROXY_API_KEY")]
    Environment,
    /// Made by command.
    #[serde(rename = "store")]
    Store,
}

impl Place {
    /// The place in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Configuration => "the configuration file ([client_keys])",
            Self::Environment => "the environment (PROXY_API_KEY)",
            Self::Store => "the store",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Environment => "PROXY_API_KEY",
            Self::Store => "store",
        }
    }
}

/// A client key without secrets. Times are in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The client's name.
    pub name: String,
    /// Whether the key holds.
    pub state: State,
    /// Where it stands.
    pub place: Place,
    /// The beginning of the digest's hexadecimal digits; unset for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_prefix: Option<String>,
    /// The certificate's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alt_name: Option<String>,
    /// When it was made, where that is known.
    pub made_at: Option<u64>,
    /// Since when it holds; unset: always.
    pub not_before: Option<u64>,
    /// When it ends; unset: never.
    pub not_after: Option<u64>,
    /// Whose token its requests get.
    pub credential: String,
    /// Path prefixes that it is good for; empty: all.
    pub paths: Vec<String>,
    /// Models that it is good for; empty: all.
    pub models: Vec<String>,
    /// Requests a minute; unset: no limit.
    pub requests_per_minute: Option<u32>,
    /// Requests at the same time; unset: no limit.
    pub concurrency: Option<u32>,
}

impl Row {
    /// A key as it is shown at `now`, in Unix seconds.
    pub fn new(key: &ClientKey, place: Place, made_at: Option<u64>, now: u64) -> Self {
        let (sha256_prefix, subject_alt_name) = match &key.proof {
            Proof::Key(digest) => {
                (Some(digest.to_string().chars().take(SHOWN_DIGITS).collect()), None)
            }
            Proof::Certificate(name) => (None, Some(name.clone())),
        };
        Self {
            name: key.id.as_str().to_owned(),
            state: State::of(key, now),
            place,
            sha256_prefix,
            subject_alt_name,
            made_at,
            not_before: Some(key.not_before).filter(|&at| at != 0),
            not_after: Some(key.not_after).filter(|&at| at != 0),
            credential: key.credential.clone(),
            paths: key.paths.clone(),
            models: key.models.clone(),
            requests_per_minute: Some(key.requests_per_minute).filter(|&limit| limit != 0),
            concurrency: Some(key.concurrency).filter(|&limit| limit != 0),
        }
    }

    fn cells(&self) -> [String; 8] {
        let moment = |at: Option<u64>, none: &str| at.map_or(none.to_owned(), moment::show);
        let proof = match (&self.sha256_prefix, &self.subject_alt_name) {
            (Some(digits), _) => format!("sha256 {digits}…"),
            (None, name) => format!("certificate {}", printable(name.as_deref().unwrap_or("-"))),
        };
        let mut bounds = Vec::new();
        if let Some(at) = self.not_before {
            bounds.push(format!("from {}", moment::show(at)));
        }
        for (what, list) in [("paths", &self.paths), ("models", &self.models)] {
            if !list.is_empty() {
                bounds.push(format!("{what} {}", printable(&list.join(" "))));
            }
        }
        if let Some(limit) = self.requests_per_minute {
            bounds.push(format!("{limit} a minute"));
        }
        if let Some(limit) = self.concurrency {
            bounds.push(format!("{limit} at a time"));
        }
        [
            self.name.clone(),
            self.state.words().to_owned(),
            self.place.word().to_owned(),
            proof,
            moment(self.made_at, "-"),
            moment(self.not_after, "never"),
            printable(&self.credential),
            if bounds.is_empty() { "none".to_owned() } else { bounds.join(", ") },
        ]
    }
}

/// All client keys at `now`: those of the configuration, then those that were made by command.
pub fn rows(config: &Config, ring: Option<&Ring>, now: u64) -> Vec<Row> {
    let configured =
        config.client_keys.iter().map(|key| Row::new(key, config.place_of(key), None, now));
    let stored = ring.into_iter().flat_map(Ring::entries);
    let stored = stored.map(|entry| Row::new(&entry.key, Place::Store, Some(entry.made_at), now));
    configured.chain(stored).collect()
}

/// The rows as a table in text.
pub fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 8] =
        ["NAME", "STATE", "STANDS IN", "PROOF", "MADE", "EXPIRES", "CREDENTIAL", "RESTRICTIONS"];
    let cells = std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(Row::cells));
    let cells: Vec<_> = cells.collect();
    let mut widths = [0; HEAD.len()];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &cells {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a terminal shows as it is written.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use filter::client::Digest;

    const NOW: u64 = 1_779_000_000;

    fn key(name: &str) -> ClientKey {
        ClientKey::of_key(name.parse().unwrap(), b"a-secret-key")
    }

    #[test]
    fn a_key_holds_between_its_times_as_the_filter_has_it() {
        for (not_before, not_after, state) in [
            (0, 0, State::Valid),
            (NOW, 0, State::Valid),
            (NOW + 1, 0, State::NotYet),
            (0, NOW + 1, State::Valid),
            (0, NOW, State::Expired),
            (NOW + 5, NOW - 5, State::Expired),
        ] {
            let key = ClientKey { not_before, not_after, ..key("a") };
            assert_eq!(State::of(&key, NOW), state, "{not_before} {not_after}");
        }
    }

    #[test]
    fn a_table_says_everything_but_the_key() {
        let mut alice = key("alice");
        alice.not_after = NOW + 86_400;
        alice.paths = vec!["/v1/chat".into(), "/v1/\u{1b}[2J".into()];
        alice.models = vec!["grok-4*".into()];
        (alice.requests_per_minute, alice.concurrency) = (60, 2);
        let mesh = Proof::Certificate("spiffe://a/b".into());
        let mesh = ClientKey { not_before: NOW + 1, ..ClientKey::new("m".parse().unwrap(), mesh) };
        let rows = [
            Row::new(&alice, Place::Store, Some(NOW), NOW),
            Row::new(&key("default"), Place::Environment, None, NOW),
            Row::new(&mesh, Place::Configuration, None, NOW),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        let digits: String = Digest::of(b"a-secret-key").to_string().chars().take(12).collect();
        let columns = |line: &str| -> Vec<String> {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(
            columns(lines[1]),
            [
                "alice",
                "valid",
                "store",
                &format!("sha256 {digits}…"),
                "2026-05-17T06:40:00Z",
                "2026-05-18T06:40:00Z",
                "default",
                "paths /v1/chat /v1/\u{fffd}[2J, models grok-4*, 60 a minute, 2 at a time",
            ]
        );
        assert_eq!(columns(lines[2])[..3], ["default", "valid", "PROXY_API_KEY"]);
        assert_eq!(columns(lines[2])[4..], ["-", "never", "default", "none"]);
        assert_eq!(
            columns(lines[3])[1..4],
            ["not yet", "configuration", "certificate spiffe://a/b"]
        );
        assert!(lines[3].ends_with("from 2026-05-17T06:40:01Z"), "{text}");
        let whole = Digest::of(b"a-secret-key").to_string();
        let json = serde_json::to_string(&rows).unwrap();
        assert!(!text.contains(&whole) && !json.contains(&whole) && json.contains(&digits));
        assert!(!text.contains("a-secret-key") && !json.contains("a-secret-key"));
    }
}
