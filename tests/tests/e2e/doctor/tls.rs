//! The API's certificate, in a real handshake.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Call, Missed, started};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn save(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, self.0.pem())?)
    }

    /// A server with a certificate of this name; answers with its port.
    async fn serve(&self, name: &str, expired: bool) -> Result<u16> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        if expired {
            (params.not_before, params.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { drop(acceptor.accept(stream).await) });
            }
        });
        Ok(port)
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_apis_certificate_is_told_apart() -> Result<()> {
    let stack = started().await?;
    let known = Authority::new("the one that is trusted")?;
    let bundle = stack.dir().join("trusted.pem");
    known.save(&bundle)?;
    let unknown = Authority::new("another")?;
    let here = format!("upstream = \"{}\"", stack.provider_url());
    let with = |port: u16, bundle: &Path| {
        let upstream = format!("upstream = \"https://localhost:{port}\"");
        let trusted_ca = format!("\n[envoy]\ntrusted_ca = \"{}\"\n", bundle.display());
        Call::new(&stack)?.configured(|text| text.replace(&here, &upstream) + &trusted_ca)
    };
    let mut missed = Missed::default();
    for (port, verdict, words) in [
        (known.serve("localhost", false).await?, "ok", "vouches for"),
        (known.serve("localhost", true).await?, "fail", "has expired at 2021-01-01"),
        (known.serve("api.example", false).await?, "fail", "has another name than localhost"),
        (unknown.serve("localhost", false).await?, "fail", "is not trusted"),
    ] {
        let code = i32::from(verdict == "fail");
        let found = with(port, &bundle)?.diagnose(&stack).await?;
        missed.note(words, found.expect(code, &[("api", verdict, words)]));
    }
    missed.none()?;
    let empty = stack.dir().join("empty.pem");
    fs::write(&empty, "nothing")?;
    let found = with(known.serve("localhost", false).await?, &empty)?.diagnose(&stack).await?;
    ensure!(found.verdict("api")? == "fail", "{}", found.report);
    let said = found.of("api")[0]["says"].to_string();
    ensure!(said.contains("has no certificate that can be trusted"), "{said}");
    Ok(())
}
