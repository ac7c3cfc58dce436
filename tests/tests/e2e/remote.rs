//! Envoys on other machines than the refresher's, by mutual TLS.

mod admitted;
mod loopback;
mod machine;
mod outage;

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::SanType;
use serde_json::{Value, json};
use tests::{Plan, Stack, free_port};

use crate::certificates::{Authority, uri};

const SOON: Duration = Duration::from_secs(30);

/// The refresher's name, as the files in `envoy/remote` have it.
const REFRESHER: &str = "refresher.example.org";

const KEY: &str = "torchbearer-key-of-alice-1";

/// A stack whose refresher also serves by mutual TLS, and what that needs.
struct Site {
    stack: Stack,
    authority: Authority,
    port: u16,
}

impl Site {
    /// Logged in, and the refresher runs. `allowed`: whose certificates let in.
    async fn start(plan: Plan, host: IpAddr, allowed: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let settings = format!(
            "{}\n[publish]\nlisten = \"{host}:{port}\"\ncertificate = \"~/refresher.pem\"\n\
             private_key = \"~/refresher.pem\"\nclient_ca = \"~/ca.pem\"\nallowed_names = {allowed:?}\n",
            plan.settings
        );
        let stack = Stack::prepare(Plan { settings, ..plan }).await?;
        let mut site = Self { stack, authority: Authority::new()?, port };
        site.certify(&site.authority)?;
        site.stack.login().await?;
        site.stack.start_refresher().await?;
        Ok(site)
    }

    fn dir(&self) -> &Path {
        self.stack.dir()
    }

    /// Writes the refresher's certificate, of this authority, which from now on signs the Envoys', too.
    fn certify(&self, authority: &Authority) -> Result<()> {
        let name = SanType::DnsName(REFRESHER.try_into()?);
        let fresh = authority.issue(self.dir(), "refresher.new", vec![name])?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        fs::rename(fresh, self.dir().join("refresher.pem"))?;
        fs::write(self.dir().join("ca.new"), authority.pem())?;
        fs::rename(self.dir().join("ca.new"), self.dir().join("ca.pem"))?;
        Ok(())
    }

    /// A certificate with this URI for a name, and its key, in one file.
    fn issue(&self, name: &str, subject: &str) -> Result<PathBuf> {
        self.authority.issue(self.dir(), name, uri(subject)?)
    }

    /// The bootstrap for an Envoy elsewhere of this name, which reaches the refresher at `refresher`.
    fn bootstrap(&self, name: &str, refresher: IpAddr, subject: &str) -> Result<Value> {
        let certificate = self.issue(name, subject)?.display().to_string();
        let dir = self.dir().display().to_string();
        let shipped = |file: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/remote").join(file);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        // What a user edits by hand.
        let edit = |text: String, changes: &[(&str, &str)]| {
            changes.iter().try_fold(text, |text, (from, to)| {
                text.contains(from)
                    .then(|| text.replace(from, to))
                    .with_context(|| (*from).to_owned())
            })
        };
        let ca = format!("{dir}/ca.pem");
        let own = format!("{dir}/{name}-certificate.yaml");
        let text = edit(
            shipped("envoy-certificate.yaml")?,
            &[
                ("/etc/torchbearer/tls/tls.crt", &certificate),
                ("/etc/torchbearer/tls/tls.key", &certificate),
                ("/etc/torchbearer/tls}", &format!("{dir}}}")),
            ],
        )?;
        fs::write(&own, text)?;
        let trusted = format!("{dir}/{name}-authority.yaml");
        let text = edit(
            shipped("refresher-authority.yaml")?,
            &[("/etc/torchbearer/tls/ca.crt", &ca), ("/etc/torchbearer/tls}", &format!("{dir}}}"))],
        )?;
        fs::write(&trusted, text)?;
        let cluster = edit(
            shipped("cluster.yaml")?,
            &[
                ("address: refresher.example.org", &format!("address: {refresher}")),
                ("port_value: 9443", &format!("port_value: {}", self.port)),
                ("/etc/torchbearer/envoy-certificate.yaml", &own),
                ("/etc/torchbearer/refresher-authority.yaml", &trusted),
            ],
        )?;
        let cluster: Value = serde_saphyr::from_str(&cluster)?;
        let mut bootstrap: Value = serde_json::from_str(&self.stack.bootstrap()?)?;
        let place = bootstrap.pointer_mut("/static_resources/clusters/1");
        let place = place.context("the cluster")?;
        anyhow::ensure!(place["name"] == "refresher" && cluster["name"] == "refresher");
        *place = cluster;
        bootstrap["node"]["id"] = json!(name);
        Ok(bootstrap)
    }
}
