//! Starting the user's browser.

use std::process::{Command, Stdio};

/// Starts a browser on an address: `$BROWSER`, else what the desktop has. Says whether one was
/// started. Other users of the machine can see the address among the arguments of processes.
pub fn open(address: &str) -> bool {
    let configured = std::env::var("BROWSER").ok().filter(|browser| !browser.is_empty());
    let default = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let configured = configured.unwrap_or_else(|| default.to_owned());
    configured.split(':').any(|browser| {
        Command::new(browser)
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .is_ok()
    })
}
