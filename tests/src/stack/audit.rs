//! What must hold after every test, whatever it was about.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::Stack;
use crate::canary::Canaries;

/// Where secrets belong: grants and other programs' logins, the secrets of Envoy's own filters, what a
/// terminal shows of what is typed there, and the browser's own profile.
fn holds_secrets(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ["grants", "chromium", "sds"].contains(&name) || name.ends_with(".screen")
}

impl Stack {
    /// What must hold after every test: nothing shows a secret, and nothing reached the API without
    /// exactly one bearer, the account's.
    ///
    /// # Errors
    ///
    /// When it does not hold.
    pub fn audit(&self) -> Result<()> {
        let keys: Vec<_> = self.plan.client_keys.iter().map(|(_, key)| (*key).to_owned()).collect();
        let canaries = Canaries::new(&self.provider().secrets(), &keys)?;
        canaries.clear_files(self.dir(), &holds_secrets)?;
        if !self.state_dir.starts_with(self.dir()) {
            canaries.clear_files(&self.state_dir, &holds_secrets)?;
        }
        canaries.clear_arguments()?;
        let dumps = ["/config_dump", "/stats", "/stats/prometheus", "/clusters", "/listeners"];
        canaries.clear_answers(&self.admin_socket(), &dumps)?;
        if self.refresher.is_some() {
            canaries.clear_answers(
                &self.socket(),
                &["/health", "/ready", "/metrics", "/v1/overview"],
            )?;
        }
        for request in self.provider().requests() {
            let [bearer] = request.authorization.as_slice() else {
                bail!("{} authorizations reached the API", request.authorization.len());
            };
            ensure!(bearer != "invalid", "a foreign authorization reached the API");
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Err(reason) = self.audit() {
            #[expect(clippy::panic, reason = "the way to fail a test that has ended well so far")]
            {
                panic!("{reason:#}");
            }
        }
    }
}
