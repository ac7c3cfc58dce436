//! The API: whether it can be reached, and whether its certificate is what Envoy will accept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::report::Finding;
use super::short;
use crate::config::Config;
use crate::import::moment;
use crate::up::files::trusted_ca;

/// How long a connection may take, and a handshake.
const DEADLINE: Duration = Duration::from_secs(2);

pub(super) async fn look(config: &Config) -> Finding {
    let url = &config.provider.upstream;
    let setting = format!("providers.{}.upstream", config.provider.name);
    let Some((host, port)) = host_of(url).zip(url.port_or_known_default()) else {
        return Finding::fail(format!("{url} has no host"), format!("mend {setting}"));
    };
    let stream = match connect(&host, port).await {
        Ok(stream) => stream,
        Err(reason) => {
            let remedy = format!("check the network, and {setting}");
            return Finding::fail(format!("{host}:{port}: {reason}"), remedy);
        }
    };
    if url.scheme() == "http" {
        return Finding::ok(format!("{host}:{port} accepts connections, without TLS on loopback"));
    }
    let Some(trusted_ca) = trusted_ca(config) else {
        let says = "this system has no bundle of trusted certificates at the usual places";
        return Finding::fail(says, "apt-get install ca-certificates, or set envoy.trusted_ca");
    };
    let connector = match connector(&trusted_ca) {
        Ok(connector) => connector,
        Err(reason) => {
            let says = format!("{}: {reason}", trusted_ca.display());
            return Finding::fail(says, "set envoy.trusted_ca to a PEM file with certificates");
        }
    };
    let name = match ServerName::try_from(host.clone()) {
        Ok(name) => name,
        Err(_) => {
            let says = format!("{host} is not a name that a certificate can have");
            return Finding::fail(says, format!("mend {setting}"));
        }
    };
    match tokio::time::timeout(DEADLINE, connector.connect(name, stream)).await {
        Err(_) => {
            let says = format!("{host}:{port}: no TLS handshake within {} s", DEADLINE.as_secs());
            Finding::fail(says, format!("check {setting}: it may not speak TLS"))
        }
        Ok(Ok(_)) => {
            let bundle = trusted_ca.display();
            Finding::ok(format!("{host}:{port} has a certificate that {bundle} vouches for"))
        }
        Ok(Err(error)) => refused(&host, port, &error, &trusted_ca, &setting),
    }
}

fn host_of(url: &Url) -> Option<String> {
    Some(match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let found = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<_> = match found {
        Err(_) => return Err("its name is not resolved in time".to_owned()),
        Ok(Err(error)) => return Err(format!("its name cannot be resolved: {error}")),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    match tokio::time::timeout(DEADLINE, TcpStream::connect(addresses.as_slice())).await {
        Err(_) => Err(format!("no connection within {} s", DEADLINE.as_secs())),
        Ok(Err(error)) => Err(format!("cannot be reached: {error}")),
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn connector(trusted_ca: &Path) -> Result<TlsConnector, String> {
    let certificates = CertificateDer::pem_file_iter(trusted_ca)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err("has no certificate that can be trusted".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn refused(
    host: &str,
    port: u16,
    error: &std::io::Error,
    trusted_ca: &Path,
    setting: &str,
) -> Finding {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = cause else {
        let says = format!("{host}:{port}: TLS fails: {}", short(&error.to_string()));
        return Finding::fail(says, format!("check {setting}"));
    };
    let (reason, remedy) = explain(reason, host, trusted_ca, setting);
    Finding::fail(format!("the certificate of {host}:{port} {reason}"), remedy)
}

/// What is wrong with a certificate, in words, and what mends it.
fn explain(
    reason: &CertificateError,
    host: &str,
    trusted_ca: &Path,
    setting: &str,
) -> (String, String) {
    let when = |time: &UnixTime| moment::show(time.as_secs());
    let bundle = trusted_ca.display();
    match reason {
        CertificateError::Expired => (
            "has expired".to_owned(),
            "the API's operator has to renew it; check your clock".to_owned(),
        ),
        CertificateError::ExpiredContext { not_after, .. } => (
            format!("has expired at {}", when(not_after)),
            "the API's operator has to renew it; check your clock".to_owned(),
        ),
        CertificateError::NotValidYet => {
            ("is not valid yet".to_owned(), "check your clock: date -u".to_owned())
        }
        CertificateError::NotValidYetContext { not_before, .. } => (
            format!("is not valid before {}", when(not_before)),
            "check your clock: date -u".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("has another name than {host}"),
            format!("mend {setting}, or have the API's operator renew it"),
        ),
        CertificateError::UnknownIssuer => (
            format!("is not trusted: nobody in {bundle} vouches for it"),
            "set envoy.trusted_ca to a file with the certificate of its issuer".to_owned(),
        ),
        CertificateError::Revoked => {
            ("was revoked".to_owned(), "the API's operator has to renew it".to_owned())
        }
        other => (
            format!("is refused: {}", short(&other.to_string())),
            "see whether it is the certificate that you expect".to_owned(),
        ),
    }
}
