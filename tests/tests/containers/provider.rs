//! The provider's container: behind TLS, with a certificate of an authority of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use crate::images::{self, Images};

const PORT: u16 = 8443;

/// How long an answer of its control may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running provider.
pub struct Provider {
    // Removed when dropped, and the network with it.
    _container: ContainerAsync<GenericImage>,
    /// Whom the others have to trust, PEM.
    pub authority: String,
    /// What they call it.
    pub url: String,
    client: reqwest::Client,
    control: String,
}

impl Provider {
    /// Starts it on a network of this name, which is made for it.
    pub async fn start(images: &Images, network: &str, token_life: u64) -> Result<Self> {
        let name = format!("{network}-provider");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the name of what it signs, it would be taken for that itself.
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec![name.clone(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let url = format!("https://{name}:{PORT}");
        let (image, tag) = images.provider.split_once(':').context("the image has no tag")?;
        ensure!(tag == images::tag());
        let life = token_life.to_string();
        let listen = format!("0.0.0.0:{PORT}");
        let command = [
            "serve",
            "--url",
            &url,
            "--listen",
            &listen,
            "--certificate",
            "/certificate.pem",
            "--key",
            "/key.pem",
            "--token-life",
            &life,
        ];
        let container = GenericImage::new(image, tag)
            .with_entrypoint("/usr/local/bin/provider")
            .with_exposed_port(PORT.tcp())
            .with_wait_for(WaitFor::message_on_stdout("listening on"))
            .with_container_name(&name)
            .with_network(network)
            .with_copy_to("/certificate.pem", certificate.pem().into_bytes())
            .with_copy_to("/key.pem", key.serialize_pem().into_bytes())
            .with_cmd(command)
            .start()
            .await
            .context("the provider")?;
        let port = container.get_host_port_ipv4(PORT.tcp()).await?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusted = reqwest::Certificate::from_pem(authority.pem().as_bytes())?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([trusted])
            .timeout(PATIENCE)
            .build()?;
        let control = format!("https://127.0.0.1:{port}/_control");
        Ok(Self { _container: container, authority: authority.pem(), url, client, control })
    }

    /// What its control tells.
    pub async fn ask(&self, what: &str) -> Result<Value> {
        let answer = self.client.get(format!("{}/{what}", self.control)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Orders something.
    pub async fn order(&self, what: &str, body: &Value) -> Result<Value> {
        let order = self.client.post(format!("{}/{what}", self.control)).json(body);
        Ok(order.send().await?.error_for_status()?.json().await?)
    }

    /// One of its counts.
    pub async fn count(&self, name: &str) -> Result<u64> {
        self.ask("summary").await?[name].as_u64().with_context(|| format!("no count {name}"))
    }
}
