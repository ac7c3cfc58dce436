//! Clients that are known by a certificate, on a listener with TLS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use serde_json::{Value, json};
use tests::{Plan, Process, Stack, eventually};

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

const BATCH: &str = "spiffe://example.org/batch";

/// A certification authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes a certificate with its key into one file.
    pub(crate) fn issue(&self, dir: &Path, name: &str, names: Vec<SanType>) -> Result<PathBuf> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let path = dir.join(format!("{name}.pem"));
        fs::write(&path, certificate.pem() + &key.serialize_pem())?;
        Ok(path)
    }
}

pub(crate) fn uri(name: &str) -> Result<Vec<SanType>> {
    Ok(vec![SanType::URI(name.try_into()?)])
}

/// The shipped bootstrap with TLS at the listener and two clients known by their certificates.
fn with_tls(stack: &Stack, server: &Path, authority: &Path) -> Result<String> {
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let chain = bootstrap.pointer_mut("/static_resources/listeners/0/filter_chains/0");
    chain.context("the filter chain")?["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": {"filename": server}, "private_key": {"filename": server},
                }],
                "validation_context": {"trusted_ca": {"filename": authority}},
            },
        },
    });
    let plugin = format!("{MANAGER}/http_filters/0/typed_config/config/configuration/value");
    let plugin = bootstrap.pointer_mut(&plugin).context("the gate's configuration")?;
    let mut gate: Value = serde_json::from_str(plugin.as_str().context("a text")?)?;
    gate["gate"]["client_keys"] = json!([
        {"id": "batch", "subject_alt_name": BATCH, "paths": ["/v1/"]},
        {"id": "host", "subject_alt_name": "client.example.org"},
        {"id": "gone", "subject_alt_name": "spiffe://example.org/gone", "not_after": 1},
    ]);
    *plugin = gate.to_string().into();
    Ok(bootstrap.to_string())
}

/// What curl, with or without a certificate, gets for this path: the status, or 0 where there is
/// no TLS connection.
async fn status(stack: &Stack, ca: &Path, certificate: Option<&Path>, path: &str) -> Result<u16> {
    let mut command = Process::command("curl");
    command.args(["--silent", "--noproxy", "*", "--output", "/dev/null", "--max-time", "30"]);
    command.args(["--write-out", "%{http_code}"]).arg("--cacert").arg(ca);
    if let Some(certificate) = certificate {
        command.arg("--cert").arg(certificate);
    }
    let output = command.arg(format!("https://{}{path}", stack.address)).output().await?;
    Ok(String::from_utf8(output.stdout)?.parse()?)
}

#[tokio::test]
async fn a_client_is_known_by_the_name_in_its_verified_certificate() -> Result<()> {
    let mut stack = Stack::prepare(Plan::default()).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let dir = stack.dir().to_owned();
    let (authority, foreign) = (Authority::new()?, Authority::new()?);
    let ca = dir.join("ca.pem");
    fs::write(&ca, authority.0.pem())?;
    let own = SanType::IpAddress(stack.address.ip());
    let server = authority.issue(&dir, "server", vec![own])?;
    stack.start_envoy_with(&with_tls(&stack, &server, &ca)?).await?;

    let dns = vec![SanType::DnsName("client.example.org".try_into()?)];
    for (issuer, name, names, path, expected) in [
        (&authority, "batch", uri(BATCH)?, "/v1/models", 200),
        (&authority, "host", dns, "/v1/models", 200),
        (&authority, "path", uri(BATCH)?, "/elsewhere", 403),
        (&authority, "other", uri("spiffe://example.org/other")?, "/v1/models", 401),
        (&authority, "longer", uri("spiffe://example.org/batch/2")?, "/v1/models", 401),
        (&authority, "gone", uri("spiffe://example.org/gone")?, "/v1/models", 401),
        (&authority, "nameless", Vec::new(), "/v1/models", 401),
        // Not of an authority that the listener trusts: Envoy ends the handshake.
        (&foreign, "foreign", uri(BATCH)?, "/v1/models", 0),
    ] {
        let certificate = issuer.issue(&dir, name, names)?;
        let found = status(&stack, &ca, Some(&certificate), path).await?;
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(status(&stack, &ca, None, "/v1/models").await?, 401);
    // What a client says of its certificate is not one.
    let served = stack.provider().requests();
    assert_eq!(served.len(), 2);
    assert!(served.iter().all(|request| request.jti.is_some()));

    let expected = [
        "\"batch\" \"path_not_allowed\"",
        "\"batch\" null",
        "\"host\" null",
        "null \"invalid_client_key\"",
    ];
    let logged = async || {
        let log = stack.envoy().ok()?.log();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let seen = entries.map(|entry| [&entry["client"], &entry["refusal"]].map(Value::to_string));
        let mut seen: Vec<_> = seen.map(|seen| seen.join(" ")).collect();
        seen.sort_unstable();
        seen.dedup();
        (seen == expected).then_some(())
    };
    let limit = std::time::Duration::from_secs(20);
    eventually(limit, logged).await.context("the access log names clients and refusals")
}
