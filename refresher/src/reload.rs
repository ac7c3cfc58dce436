//! The configuration, read again while everything runs.
//!
//! A new one is in force as a whole, or not at all: what is not accepted leaves the old one in force.

use std::path::PathBuf;

use crate::config::{self, Config, Overrides, Publish};
use crate::import::source::{self, Stamp};
use crate::publish::tls::{self, Tls};
use crate::store::{self, Store};
use crate::{chain, clock, http};

/// Why a configuration is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not valid.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The client secret's file.
    #[error(transparent)]
    Secret(#[from] store::Error),
    /// The file of certificates.
    #[error(transparent)]
    Trust(#[from] http::Error),
    /// What mutual TLS needs.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// There would be the defaults instead, which may let in more than it did.
    #[error(
        "{path}: gone; accepted: the file, with what is to be in force, or a restart without it"
    )]
    Gone {
        /// The configuration file that there was.
        path: PathBuf,
    },
    /// A valid login would be lost.
    #[error(
        "providers.{provider}: the login {credential} is of another client or issuer; accepted: those that it was made with, or a new login with \"refresher login --credential {credential}\""
    )]
    OtherClient {
        /// The provider's name.
        provider: String,
        /// The credential's name.
        credential: String,
        /// Its grant.
        grant: PathBuf,
    },
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    overrides: Overrides,
}

impl Source {
    /// The flags as they were given at the start. The environment does not change either.
    pub fn new(overrides: Overrides) -> Self {
        Self { overrides }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// When it is not valid.
    pub fn load(&self) -> Result<Config, config::Error> {
        config::load(&self.overrides, &|name| std::env::var(name).ok())
    }

    /// The flags.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The configuration file, there or not.
    pub fn file(&self) -> Option<PathBuf> {
        config::locate(&self.overrides, &|name| std::env::var(name).ok()).map(|(path, _)| path)
    }

    /// The configuration file, if there is one.
    fn present(&self) -> Option<PathBuf> {
        config::file_path(&self.overrides, &|name| std::env::var(name).ok())
    }

    /// The files that make up `config`: its own, and those that it names.
    fn files(&self, config: &Config) -> Vec<PathBuf> {
        let named = [
            &config.provider.client_secret_file,
            &config.provider.ca_file,
            &config.envoy.trusted_ca,
        ];
        let named = named.into_iter().flatten().cloned();
        let tls = config.publish.tls.iter();
        let tls = tls.flat_map(|tls| [&tls.certificate, &tls.private_key, &tls.client_ca]).cloned();
        self.file().into_iter().chain(named).chain(tls).collect()
    }
}

/// Notices that a file of the configuration has changed.
#[derive(Debug)]
pub struct Watcher {
    source: Source,
    /// The configuration file that was read last, if one was.
    read: Option<PathBuf>,
    files: Vec<(PathBuf, Option<Stamp>)>,
    changing: bool,
}

impl Watcher {
    /// Looks at the files of `config` and, with `further`, at others.
    pub fn new(source: Source, config: &Config, further: &[PathBuf]) -> Self {
        let read = source.present();
        let mut watcher = Self { source, read, files: Vec::new(), changing: false };
        watcher.follow(config, further);
        watcher
    }

    /// From now on the files of this configuration count. What has changed before is no news.
    pub fn follow(&mut self, config: &Config, further: &[PathBuf]) {
        let files = self.source.files(config).into_iter().chain(further.iter().cloned());
        let known = |path: &PathBuf| self.files.iter().find(|(known, _)| known == path);
        let stamped = |path: PathBuf| {
            let stamp = known(&path).map_or_else(|| source::stamp(&path), |(_, stamp)| *stamp);
            (path, stamp)
        };
        self.files = files.map(stamped).collect();
    }

    /// What is due each second. Answers whether files have changed, and have come to rest: an editor
    /// or a copy may take several steps.
    pub fn look(&mut self) -> bool {
        let mut changes = false;
        for (path, stamp) in &mut self.files {
            let now = source::stamp(path);
            changes |= now != *stamp;
            *stamp = now;
        }
        !changes & std::mem::replace(&mut self.changing, changes)
    }

    /// Reads the configuration and judges whether it can follow `old`. From now on its files count,
    /// `further` ones, and what would mend the error.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn next(&mut self, old: &Config, further: &[PathBuf]) -> Result<Next, Error> {
        let present = self.source.present();
        if let (Some(path), None) = (&self.read, &present) {
            return Err(Error::Gone { path: path.clone() });
        }
        let next = self.source.load()?;
        self.read = present;
        let mut files = further.to_vec();
        self.follow(&next, &files);
        let judged = judge(old, next.clone());
        if let Err(Error::OtherClient { grant, .. }) = &judged {
            files.push(grant.clone());
            self.follow(&next, &files);
        }
        judged
    }
}

/// A configuration that can be put in force while everything runs.
#[derive(Debug)]
pub struct Next {
    /// It, with the old value of what needs a restart.
    pub config: Config,
    /// What needs a restart, if anything does.
    pub postponed: Option<String>,
}

/// Judges whether `next` can follow `old`.
///
/// # Errors
///
/// See [`Error`].
pub fn judge(old: &Config, mut next: Config) -> Result<Next, Error> {
    let mut postponed = Vec::new();
    // Files that are open, and an address that others know.
    keep(&mut postponed, "state_dir", &old.state_dir, &mut next.state_dir);
    keep(&mut postponed, "socket", &old.socket, &mut next.socket);
    keep(&mut postponed, "grant file", &old.grant_file, &mut next.grant_file);
    keep_ways(&mut postponed, &old.publish, &mut next.publish);
    next.proxy.sds_dir.clone_from(&next.publish.sds_dir);
    // While requests that have begun are still being answered, the token of one provider could
    // otherwise go to the API of the other.
    if next.provider.name != old.provider.name {
        postponed.push("provider");
        next.provider = old.provider.clone();
    }
    next.provider.client(None)?;
    if let Some(path) = &next.provider.ca_file {
        http::check_trust(path)?;
    }
    if let Some(settings) = &next.publish.tls {
        Tls::load(settings, clock::now().unix())?;
    }
    let mut credentials = Store::credentials(&next);
    if next.grant_file.is_some() {
        credentials.push(filter::bundle::DEFAULT_CREDENTIAL.to_owned());
    }
    for credential in credentials {
        let store = Store::find(&next, &credential)?;
        let grant = store.and_then(|store| store.load(clock::now().unix()).ok().flatten());
        let lost =
            |grant: &store::Grant| old.provider.granted(grant) && !next.provider.granted(grant);
        if grant.as_ref().is_some_and(lost) {
            let grant = Store::place(&next, &credential);
            let provider = next.provider.name;
            return Err(Error::OtherClient { provider, credential, grant });
        }
    }
    let postponed = (!postponed.is_empty()).then(|| {
        format!("{}: changed, which takes effect at the next start", postponed.join(", "))
    });
    Ok(Next { config: next, postponed })
}

/// Where one listens stays; who is let in there, and with what certificate, does not.
fn keep_ways(postponed: &mut Vec<&'static str>, old: &Publish, next: &mut Publish) {
    let listen = |publish: &Publish| publish.tls.as_ref().map(|tls| tls.listen);
    if listen(old) != listen(next) {
        postponed.push("publish.listen");
        next.tls.clone_from(&old.tls);
    }
    keep(postponed, "publish.loopback_port", &old.loopback_port, &mut next.loopback_port);
    keep(postponed, "publish.sds_dir", &old.sds_dir, &mut next.sds_dir);
}

fn keep<T: Clone + PartialEq>(
    postponed: &mut Vec<&'static str>,
    name: &'static str,
    old: &T,
    next: &mut T,
) {
    if old != next {
        postponed.push(name);
        next.clone_from(old);
    }
}

/// An error as an alarm: in one line, whatever it has.
pub fn alarm(error: &dyn std::error::Error) -> String {
    let line = chain::line(error);
    let lines: Vec<_> = line.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(document: &str) -> Config {
        let env = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
        config::resolve(document, &Overrides::default(), &env).unwrap()
    }

    #[test]
    fn what_needs_a_restart_keeps_its_value_and_is_named() {
        let old = config("provider = \"demo\"\n");
        let next = config("provider = \"xai\"\nstate_dir = \"/else\"\n[rotation]\nspacing = 7\n");
        let next = judge(&old, next).unwrap();
        assert_eq!(next.config.state_dir, old.state_dir);
        assert_eq!(next.config.socket, old.socket);
        assert_eq!(next.config.provider, old.provider);
        assert_eq!(next.config.rotation.spacing_s, 7, "the rest is taken over");
        let postponed = next.postponed.unwrap();
        assert!(postponed.starts_with("state_dir, socket, provider: changed"), "{postponed}");
        assert_eq!(judge(&old, config("provider = \"demo\"\n")).unwrap().postponed, None);
    }

    #[test]
    fn where_one_listens_needs_a_restart_and_who_is_let_in_does_not() {
        let old = config("provider = \"demo\"\n");
        let next = "provider = \"demo\"\n[publish]\nloopback_port = 7\nsds_dir = \"/s\"\n";
        let next = judge(&old, config(next)).unwrap();
        assert_eq!(next.config.publish, old.publish);
        assert_eq!(next.config.proxy.sds_dir, None);
        let postponed = next.postponed.unwrap();
        assert!(
            postponed.starts_with("publish.loopback_port, publish.sds_dir: changed"),
            "{postponed}"
        );
        // Files that cannot be used are refused.
        let tls = |listen: &str, name: &str| {
            config(&format!(
                "provider = \"demo\"\n[publish]\nlisten = \"{listen}\"\ncertificate = \"/nowhere/c\"\n\
                 private_key = \"/nowhere/k\"\nclient_ca = \"/nowhere/a\"\nallowed_names = [\"{name}\"]\n"
            ))
        };
        let old = tls("127.0.0.1:1", "a.example.org");
        assert!(matches!(judge(&old, tls("127.0.0.1:1", "b.example.org")), Err(Error::Tls(_))));
        let mut publish = tls("127.0.0.1:2", "b.example.org").publish;
        let mut postponed = Vec::new();
        keep_ways(&mut postponed, &old.publish, &mut publish);
        assert_eq!((postponed.as_slice(), &publish), (&["publish.listen"][..], &old.publish));
        let mut publish = tls("127.0.0.1:1", "b.example.org").publish;
        postponed.clear();
        keep_ways(&mut postponed, &old.publish, &mut publish);
        assert!(postponed.is_empty() && publish != old.publish);
    }

    #[test]
    fn a_change_is_told_once_it_has_come_to_rest() {
        let directory = tempfile::tempdir().unwrap();
        let (path, further) = (directory.path().join("c.toml"), directory.path().join("f"));
        let overrides = Overrides { config: Some(path.clone()), ..Overrides::default() };
        let config = config("");
        let mut watcher =
            Watcher::new(Source::new(overrides), &config, std::slice::from_ref(&further));
        assert!(!watcher.look() && !watcher.look());
        std::fs::write(&path, "a").unwrap();
        assert!(!watcher.look(), "it may still change");
        std::fs::write(&path, "ab").unwrap();
        assert!(!watcher.look(), "and does");
        assert!(watcher.look());
        assert!(!watcher.look());
        std::fs::write(&further, "x").unwrap();
        assert!(!watcher.look());
        assert!(watcher.look());
        std::fs::remove_file(&path).unwrap();
        assert!(!watcher.look());
        assert!(watcher.look());
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_refused() {
        let old = config("provider = \"demo\"\n");
        let next = "provider = \"demo\"\n[providers.demo]\nclient_secret_file = \"/nowhere/s\"\n";
        assert!(matches!(judge(&old, config(next)), Err(Error::Secret(_))));
        let next = "provider = \"demo\"\n[providers.demo]\nca_file = \"/nowhere/ca.pem\"\n";
        assert!(matches!(judge(&old, config(next)), Err(Error::Trust(_))));
    }
}
