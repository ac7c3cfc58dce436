//! Mutual TLS: what is shown to an Envoy elsewhere, and which of them is let in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::names::{self, Name, Rule};
use crate::config::PublishTls;
use crate::{chain, store};

/// The only protocol that is spoken within TLS.
const ALPN: &[u8] = b"http/1.1";

/// The largest file of certificates, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{setting}: {path} cannot be read")]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key's file cannot be read, or others can.
    #[error("publish.private_key")]
    Key(#[source] store::Error),
    /// A file does not hold what it should.
    #[error("{setting}: {path}: {found}; accepted: {accepted}")]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
        /// What it may hold.
        accepted: &'static str,
    },
}

impl Error {
    /// The setting that is wrong.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Read { setting, .. } | Self::Content { setting, .. } => setting,
            Self::Key(_) => "publish.private_key",
        }
    }

    /// What was found.
    pub fn found(&self) -> String {
        match self {
            Self::Read { path, source, .. } => format!("{}: {source}", path.display()),
            Self::Key(error) => chain::line(error),
            Self::Content { path, found, .. } => format!("{}: {found}", path.display()),
        }
    }

    /// What would be accepted.
    pub fn accepted(&self) -> &'static str {
        match self {
            Self::Read { .. } => "a PEM file that can be read",
            Self::Key(_) => "a PEM file with a private key, that only you can read",
            Self::Content { accepted, .. } => accepted,
        }
    }
}

/// Why a client is not let in.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Its certificate is not of an authority in `publish.client_ca`, or does not hold now.
    #[error("its certificate is not accepted: {0}")]
    Certificate(rustls::Error),
    /// No name in it is one of `publish.allowed_names`.
    #[error("publish.allowed_names has none of the names in its certificate: {0}")]
    Name(String),
}

/// What is shown, and who is let in.
#[derive(Debug)]
pub struct Tls {
    /// For the handshake.
    pub server: Arc<ServerConfig>,
    /// When the certificate that is shown expires, in Unix seconds.
    pub not_after: u64,
    verifier: Arc<dyn ClientCertVerifier>,
    allowed: Vec<Rule>,
}

impl Tls {
    /// Reads the files that the settings name. `unix` is now, in Unix seconds.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn load(settings: &PublishTls, unix: u64) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let path = &settings.client_ca;
        let refused = |found: String| Error::Content {
            setting: "publish.client_ca",
            path: path.clone(),
            found,
            accepted: "a PEM file with the certificates of the authority that signs those of Envoys",
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates("publish.client_ca", path)? {
            roots.add(authority).map_err(|error| refused(error.to_string()))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| refused(error.to_string()))?;

        let path = &settings.certificate;
        let shown = certificates("publish.certificate", path)?;
        let refused = |found: String, accepted| Error::Content {
            setting: "publish.certificate",
            path: path.clone(),
            found,
            accepted,
        };
        let facts = shown.first().and_then(|certificate| Facts::of(certificate));
        let Some(facts) = facts else {
            let accepted = "a PEM file that begins with the refresher's own certificate";
            return Err(refused("the first certificate cannot be read".to_owned(), accepted));
        };
        if unix >= facts.not_after {
            let found = format!("expired at {}", facts.shown_not_after);
            return Err(refused(found, "a certificate that holds now"));
        }

        let path = &settings.private_key;
        let key = store::read_private_key(path).map_err(Error::Key)?;
        let refused = |found: String, accepted| Error::Content {
            setting: "publish.private_key",
            path: path.clone(),
            found,
            accepted,
        };
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
            // The parser's words tell of the file's shape, not of what is in it.
            let accepted = "a PEM file with one private key, not encrypted";
            refused(format!("no private key can be read in it ({error})"), accepted)
        })?;
        let server = ServerConfig::builder_with_provider(provider)
            // With 1.2 too, since that is the most that Envoy offers unless it is told otherwise.
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(|builder| {
                builder.with_client_cert_verifier(verifier.clone()).with_single_cert(shown, key)
            });
        let mut server = server.map_err(|error| {
            let accepted = "the key of publish.certificate, RSA, ECDSA or Ed25519";
            refused(error.to_string(), accepted)
        })?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Connections are few and long: each shows its certificate anew.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let allowed = settings.allowed_names.clone();
        Ok(Self { server: Arc::new(server), not_after: facts.not_after, verifier, allowed })
    }

    /// Whether a client with this chain of certificates is let in at `unix`, and under which name.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn admit(&self, chain: &[CertificateDer<'_>], unix: u64) -> Result<String, Refusal> {
        let Some((own, intermediates)) = chain.split_first() else {
            return Err(Refusal::Certificate(rustls::Error::NoCertificatesPresented));
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(unix));
        self.verifier.verify_client_cert(own, intermediates, now).map_err(Refusal::Certificate)?;
        let names = Facts::of(own).map(|facts| facts.names).unwrap_or_default();
        match names::admitted(&self.allowed, &names) {
            Some(name) => Ok(name.to_string()),
            None => {
                let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
                Err(Refusal::Name(if names.is_empty() {
                    "no URI and no DNS name".to_owned()
                } else {
                    names.join(", ")
                }))
            }
        }
    }
}

/// What is asked of a certificate.
struct Facts {
    not_after: u64,
    shown_not_after: String,
    names: Vec<Name>,
}

impl Facts {
    /// Nothing, if it cannot be read.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, parsed) = parse_x509_certificate(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let not_after = parsed.validity().not_after;
        let alternative = parsed.subject_alternative_name().ok()?;
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::URI(name) => Some(Name::Uri((*name).to_owned())),
            GeneralName::DNSName(name) => Some(Name::Dns((*name).to_owned())),
            _ => None,
        });
        // They are shown, in the log for one.
        let plain = |name: &Name| name.to_string().bytes().all(|byte| byte.is_ascii_graphic());
        let names = names.filter(plain);
        Some(Self {
            not_after: not_after.timestamp().try_into().unwrap_or(0),
            shown_not_after: not_after.to_string(),
            names: names.collect(),
        })
    }
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read { setting, path: path.to_owned(), source };
    let refused = |found: String| Error::Content {
        setting,
        path: path.to_owned(),
        found,
        accepted: "a PEM file with at least one certificate",
    };
    let found = std::fs::metadata(path).map_err(read)?;
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(refused("not a file of at most 1 MiB".to_owned()));
    }
    let pem = std::fs::read(path).map_err(read)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| refused(chain::line(&error)))?;
    if all.is_empty() {
        return Err(refused("no certificate in it".to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
