//! Client keys: made, replaced and ended on the page.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use filter::client::{ClientId, ClientKey, Digest, Proof};
use serde::Deserialize;
use serde_json::json;

use super::{Desk, answer, read, refuse, unaccepted};
use crate::keys::file::Error;
use crate::keys::listing::{Place, Row};
use crate::keys::{change, duration, encode, validated};
use crate::secret::Secret;
use crate::{chain, clock, store};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    name: String,
    #[serde(default)]
    expires: String,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    requests_per_minute: u32,
    #[serde(default)]
    concurrency: u32,
    credential: String,
}

/// The same as `keys add`. The key is in this answer and nowhere else.
pub(super) async fn add(State(desk): State<Desk>, body: Bytes) -> Response {
    let asked: Add = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let id: ClientId = match asked.name.parse() {
        Ok(id) => id,
        Err(error) => return unaccepted("name", &format!("{error}")),
    };
    if !store::is_name(&asked.credential) {
        return unaccepted("credential", &format!("accepted: {}", store::NAME_RULE));
    }
    let life = match asked.expires.as_str() {
        "" => Some(0),
        text => duration::parse(text).filter(|&seconds| seconds > 0),
    };
    let Some(life) = life else {
        return unaccepted("expires", &format!("accepted: {}", duration::RULE));
    };
    let Some(secret) = fresh() else { return no_randomness() };
    let now = clock::now().unix();
    let key = ClientKey {
        not_after: if life == 0 { 0 } else { now.saturating_add(life) },
        credential: asked.credential,
        paths: asked.paths,
        models: asked.models,
        requests_per_minute: asked.requests_per_minute,
        concurrency: asked.concurrency,
        ..ClientKey::new(id, Proof::Key(Digest::of(secret.expose().as_bytes())))
    };
    let key = match validated(&key) {
        Ok(key) => key,
        Err(error) => return unaccepted("restrictions", &error.to_string()),
    };
    match change::add(&desk.config(), &key, now).await {
        Ok(_) => show(&desk, &key, &secret),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    name: ClientName,
    overlap: String,
}

/// The same as `keys rotate`.
pub(super) async fn rotate(State(desk): State<Desk>, body: Bytes) -> Response {
    let Rotate { name: ClientName(name), overlap } = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let Some(overlap) = duration::parse(&overlap) else {
        return unaccepted("overlap", &format!("accepted: {}; or 0", duration::RULE));
    };
    let file = match change::stored(&desk.config(), &name) {
        Ok(file) => file,
        Err(error) => return refused(&error),
    };
    let Some(secret) = fresh() else { return no_randomness() };
    let digest = Digest::of(secret.expose().as_bytes());
    let now = clock::now().unix();
    match change::rotate(&desk.config(), &file, &name, digest, overlap, now).await {
        Ok(key) => show(&desk, &key, &secret),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    name: ClientName,
}

/// The same as `keys revoke`.
pub(super) async fn revoke(State(desk): State<Desk>, body: Bytes) -> Response {
    let Revoke { name: ClientName(name) } = match read(&body) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let now = clock::now().unix();
    let revoked = async {
        let file = change::stored(&desk.config(), &name)?;
        change::revoke(&desk.config(), &file, &name, now).await
    };
    match revoked.await {
        Ok(ended) => answer(&json!({"revoked": ended, "alarm": publish(&desk)})),
        Err(error) => refused(&error),
    }
}

/// A client's name in a request.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ClientName(ClientId);

impl TryFrom<String> for ClientName {
    type Error = filter::client::InvalidClientId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

fn fresh() -> Option<Secret> {
    clock::random_bits().ok().map(|bits| encode(&bits))
}

fn no_randomness() -> Response {
    let message = "the system has no randomness for a key";
    refuse(StatusCode::INTERNAL_SERVER_ERROR, "no_randomness", message)
}

/// Answers a new key once it is published.
fn show(desk: &Desk, key: &ClientKey, secret: &Secret) -> Response {
    let alarm = publish(desk);
    let now = clock::now().unix();
    let row = Row::new(key, Place::Store, Some(now), now);
    answer(&json!({"key": secret, "row": row, "alarm": alarm}))
}

/// Publishes what the store says now. Answers what is wrong with it.
fn publish(desk: &Desk) -> Option<String> {
    desk.service.keyring.reload(clock::now())
}

fn refused(error: &Error) -> Response {
    let (status, code) = match error {
        Error::Refused(_) => (StatusCode::CONFLICT, "refused"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "not_stored"),
    };
    refuse(status, code, &chain::line(error))
}
