//! Bundles, and what of them may be injected.

use std::collections::BTreeMap;

use filter::client::Digest;
use serde_json::{Value, json};

use super::history::KEYS;

/// A bundle that is to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub default: State,
    pub bob: State,
    pub keys: Keys,
}

/// The state of a credential; times in seconds from now.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// With a token that lives so long.
    Ready(i64),
    LoginRequired,
    Unavailable(u64),
    Missing,
}

/// The bundle's client keys.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    None,
    Empty,
    Both,
}

/// A bundle as it was published.
#[derive(Clone, Debug)]
pub struct Published {
    pub generation: u64,
    pub document: Vec<u8>,
    /// The tokens by credential, and when they expire, in Unix seconds.
    pub tokens: BTreeMap<String, (String, u64)>,
}

impl Wanted {
    /// The bundle of this generation, at this time in Unix seconds.
    pub fn publish(&self, generation: u64, now: u64) -> Published {
        let mut tokens = BTreeMap::new();
        let mut credentials = serde_json::Map::new();
        for (name, state) in [("default", self.default), ("bob", self.bob)] {
            let value = match state {
                State::Missing => continue,
                State::LoginRequired => json!({"state": "login_required", "reason": "x"}),
                State::Unavailable(seconds) => {
                    json!({"state": "unavailable", "reason": "x", "retry_at": now + seconds})
                }
                State::Ready(life) => {
                    let token = format!("tok-s3cret-{name}-{generation}");
                    let expires_at = now.saturating_add_signed(life);
                    tokens.insert(name.to_owned(), (token.clone(), expires_at));
                    json!({"state": "ready", "access_token": token, "token_type": "Bearer",
                           "expires_at": expires_at, "generation": generation})
                }
            };
            credentials.insert(name.to_owned(), value);
        }
        let mut bundle =
            json!({"version": 1, "generation": generation, "credentials": credentials});
        let [alice, bob] = KEYS.map(|key| Digest::of(key.as_bytes()).to_string());
        match self.keys {
            Keys::None => {}
            Keys::Empty => bundle["client_keys"] = Value::Array(Vec::new()),
            Keys::Both => {
                bundle["client_keys"] = json!([
                    {"id": "alice", "sha256": alice, "concurrency": 2},
                    {"id": "bob", "sha256": bob, "credential": "bob", "models": ["grok-4*"]}]);
            }
        }
        Published { generation, document: bundle.to_string().into_bytes(), tokens }
    }
}
