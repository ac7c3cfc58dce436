//! What must hold after every test, whatever it was about.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::Canaries;

use crate::deployment::Deployment;

impl Deployment {
    /// Nothing reached the API without exactly one bearer, the account's; no grant was spent twice; and
    /// no secret is in a log, in what the engine tells of a container, or on an admin page.
    pub async fn audit(&self) -> Result<()> {
        let requests = self.provider.ask("requests").await?;
        let entries = |answer: &Value| answer["entries"].as_array().cloned().unwrap_or_default();
        let arrived = entries(&requests);
        ensure!(!arrived.is_empty(), "nothing has reached the API");
        for request in &arrived {
            let [bearer] = request["authorization"].as_array().map_or(&[][..], Vec::as_slice)
            else {
                bail!("{} reached the API", request["authorization"]);
            };
            ensure!(bearer != "invalid", "a foreign authorization reached the API");
        }
        let ledger = self.provider.ask("ledger").await?;
        ensure!(ledger["spent_twice"] == 0, "a grant was spent twice: {ledger}");
        for entry in entries(&ledger) {
            let outcome = entry["outcome"].as_str().unwrap_or_default();
            let fine = ["ok", "authorization_pending", "slow_down", "fault"].contains(&outcome);
            ensure!(fine, "a grant was presented in vain: {entry}");
        }

        let secrets = self.provider.ask("secrets").await?;
        let secrets = secrets["secrets"].as_array().context("the provider's secrets")?;
        let secrets: Vec<_> =
            secrets.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect();
        ensure!(!secrets.is_empty(), "the provider has given nothing out");
        let canaries = Canaries::new(&secrets, std::slice::from_ref(&self.key))?;
        canaries.clear("a log", self.logs().await?.as_bytes())?;
        for service in ["refresher", "envoy"] {
            for container in self.containers(service).await? {
                let told = self.inspect(&container).await?.to_string();
                canaries.clear("the engine", told.as_bytes())?;
            }
        }
        let dump = self.ask_socket("envoy-admin.sock", "GET", "/config_dump").await?;
        ensure!(dump.contains("torchbearer.gate"), "no configuration: {dump}");
        canaries.clear("the configuration", dump.as_bytes())?;
        Ok(())
    }
}
