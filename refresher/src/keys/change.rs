//! What a user may change about the client keys, by command or on the status page: the keys of the
//! store, and not those of the configuration.

use filter::client::{ClientId, ClientKey, Digest, Proof};

use super::file::{Error, KeyFile};
use super::listing::Place;
use super::ring::Refused;
use crate::config::Config;

/// Stores a key for a client that has none, at `now`, in Unix seconds. Answers where it is stored.
///
/// # Errors
///
/// See [`Error`]. Nothing has changed then, as below.
pub async fn add(config: &Config, key: &ClientKey, now: u64) -> Result<KeyFile, Error> {
    if let Some(place) = place_of(config, &key.id) {
        return Err(configured(&key.id, place));
    }
    not_taken(config, &key.proof)?;
    let file = KeyFile::open(&config.state_dir)?;
    file.change(now, |ring| ring.add(key.clone(), now)).await?;
    Ok(file)
}

/// Gives a client another key; those that it has hold for `overlap_s` seconds more at most. Answers
/// the new one.
///
/// # Errors
///
/// See [`Error`].
pub async fn rotate(
    config: &Config,
    file: &KeyFile,
    name: &ClientId,
    digest: Digest,
    overlap_s: u64,
    now: u64,
) -> Result<ClientKey, Error> {
    not_taken(config, &Proof::Key(digest))?;
    let change = file.change(now, |ring| ring.rotate(name, digest, overlap_s, now));
    change.await.map_err(|error| located(config, name, error))
}

/// Ends all keys of a client. Answers how many there were.
///
/// # Errors
///
/// See [`Error`].
pub async fn revoke(
    config: &Config,
    file: &KeyFile,
    name: &ClientId,
    now: u64,
) -> Result<usize, Error> {
    let change = file.change(now, |ring| ring.revoke(name));
    change.await.map_err(|error| located(config, name, error))
}

/// The store of the keys, where a client of this name can be changed at all.
///
/// # Errors
///
/// When there is no store, or it cannot be opened.
pub fn stored(config: &Config, name: &ClientId) -> Result<KeyFile, Error> {
    match KeyFile::find(&config.state_dir)? {
        Some(file) if file.stamp().is_some() => Ok(file),
        _ => {
            let unknown = Refused::Unknown { name: name.as_str().to_owned() };
            Err(located(config, name, unknown.into()))
        }
    }
}

/// Where the configuration has a key of this client, if it does.
pub fn place_of(config: &Config, name: &ClientId) -> Option<Place> {
    let known = config.client_keys.iter().find(|key| key.id == *name)?;
    Some(config.place_of(known))
}

/// What cannot be found in the store may stand in the configuration.
fn located(config: &Config, name: &ClientId, error: Error) -> Error {
    match (error, place_of(config, name)) {
        (Error::Refused(Refused::Unknown { .. }), Some(place)) => configured(name, place),
        (error, _) => error,
    }
}

fn configured(name: &ClientId, place: Place) -> Error {
    Refused::Configured { name: name.as_str().to_owned(), place: place.words() }.into()
}

fn not_taken(config: &Config, proof: &Proof) -> Result<(), Error> {
    match config.client_keys.iter().find(|key| key.proof == *proof) {
        Some(owner) => Err(Refused::Taken { name: owner.id.as_str().to_owned() }.into()),
        None => Ok(()),
    }
}
