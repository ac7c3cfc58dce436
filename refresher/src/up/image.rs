//! What Envoy sees of a configuration: if that has not changed, Envoy is left alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Error;
use super::envoy::Program;
use super::files::Files;
use super::process::Paths;
use crate::config::Config;
use crate::import::source::{self, Stamp};
use crate::{bootstrap, store};

const LISTENER: &str = "/static_resources/listeners/0";
const ACCESS_LOG: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log/0";
const FILE_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// What Envoy sees: its configuration, and the files that this names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    bootstrap: Value,
    files: Vec<(PathBuf, Option<Stamp>)>,
    concurrency: Option<u32>,
}

impl Image {
    /// What an Envoy at `address` is to see of a configuration.
    ///
    /// # Errors
    ///
    /// When there is no filter, or no bootstrap can be made.
    pub fn of(
        config: &Config,
        program: &Program,
        paths: &Paths,
        address: SocketAddr,
    ) -> Result<Self, Error> {
        let files = Files::of(config)?;
        let text = files.bootstrap(config, address)?;
        let missing = |path: &str| bootstrap::Error::Missing { path: path.to_owned() };
        let mut bootstrap: Value = serde_json::from_str(&text)
            .map_err(|error| bootstrap::Error::Yaml(error.to_string()))?;
        // The same file as Envoy's own log: Envoy opens it once, and again when it is rotated.
        let log = bootstrap.pointer_mut(ACCESS_LOG).ok_or_else(|| missing(ACCESS_LOG))?;
        if let Some(log) = log.as_object_mut() {
            log.insert("name".to_owned(), "envoy.access_loggers.file".into());
        }
        let kind = log.pointer_mut("/typed_config").and_then(Value::as_object_mut);
        let kind = kind.ok_or_else(|| missing(ACCESS_LOG))?;
        kind.insert("@type".to_owned(), FILE_LOG.into());
        kind.insert("path".to_owned(), paths.log.display().to_string().into());
        let files = [Some(program.path().to_owned()), Some(files.filter), files.trusted_ca];
        let files = files.into_iter().flatten().map(|path| {
            let stamp = source::stamp(&path);
            (path, stamp)
        });
        Ok(Self { bootstrap, files: files.collect(), concurrency: config.envoy.concurrency })
    }

    /// The files that it depends on.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Writes it to where Envoy reads it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, paths: &Paths) -> Result<(), store::Error> {
        store::replace_private(&paths.bootstrap, self.bootstrap.to_string().as_bytes())
    }

    /// The same, but without a port: what shows whether an Envoy starts with it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_trial(&self, paths: &Paths) -> Result<(), store::Error> {
        let mut bootstrap = self.bootstrap.clone();
        if let Some(listener) = bootstrap.pointer_mut(LISTENER).and_then(Value::as_object_mut) {
            listener.insert("bind_to_port".to_owned(), false.into());
        }
        if let Some(admin) = bootstrap.pointer_mut("/admin/address/pipe/path") {
            *admin = json!(paths.admin.display().to_string());
        }
        store::replace_private(&paths.bootstrap, bootstrap.to_string().as_bytes())
    }
}
