//! Whether a listener may serve with the client keys that there are.

use std::net::IpAddr;

use super::Error;
use crate::chain;
use crate::config::Config;
use crate::keys::listing::State;
use crate::keys::{KeyFile, Ring};

/// How many client keys there are at the start.
#[derive(Clone, Copy, Debug)]
pub struct ClientKeys {
    required: bool,
    usable: usize,
}

impl ClientKeys {
    /// Counts those of the configuration and those that were made by command, at `unix`.
    pub fn count(config: &Config, unix: u64) -> Self {
        let stored = match KeyFile::find(&config.state_dir) {
            Ok(None) => Ok(None),
            Ok(Some(file)) => file.load(unix),
            Err(error) => Err(error.into()),
        };
        let ring = stored.unwrap_or_else(|error| {
            // To the sidecar neither, and it keeps the gate closed to them.
            tracing::error!(error = %chain::line(&error), "the client keys cannot be read");
            Some(Ring::default())
        });
        let stored = ring.iter().flat_map(Ring::entries).map(|entry| &entry.key);
        let keys = config.client_keys.iter().chain(stored);
        let usable = keys.filter(|key| State::of(key, unix) != State::Expired).count();
        Self { required: ring.is_some() || !config.client_keys.is_empty(), usable }
    }

    /// Invariant: a listener that others can reach does not serve without client keys.
    ///
    /// # Errors
    ///
    /// When it would.
    pub fn require(self, host: IpAddr) -> Result<(), Error> {
        if self.usable > 0 || host.is_loopback() {
            Ok(())
        } else {
            Err(Error::ClientKeysRequired { host })
        }
    }

    /// What there is, in words.
    pub fn line(self) -> String {
        match self.usable {
            0 if !self.required => "no client key needed on this machine".to_owned(),
            0 => "a client key is required: refresher keys add NAME".to_owned(),
            1 => "1 client key".to_owned(),
            several => format!("{several} client keys"),
        }
    }
}
