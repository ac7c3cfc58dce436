//! Where the programs under test and the tools that they need are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The project's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn existing(path: PathBuf, remedy: &str) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    bail!("{} is missing; {remedy}", path.display())
}

/// The filter's module.
///
/// # Errors
///
/// When it has not been built.
pub fn filter_module() -> Result<PathBuf> {
    existing(root().join("target/filter.wasm"), "run `make build`")
}

/// The refresher's program: `REFRESHER_BIN`, else the one that was built with the caller.
///
/// # Errors
///
/// When it has not been built.
pub fn refresher_binary() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("REFRESHER_BIN") {
        return existing(set.into(), "run `make build`");
    }
    let own = std::env::current_exe().context("the path of this program")?;
    // Tests live one folder below the programs.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("refresher")).find(|path| path.is_file());
    found.with_context(|| "the refresher has not been built; run `cargo build --workspace`")
}

/// The Envoy to test with: `ENVOY_BIN`, which the Makefile sets.
///
/// # Errors
///
/// When it is not set, or not there.
pub fn envoy_binary() -> Result<PathBuf> {
    let set = std::env::var_os("ENVOY_BIN").context("ENVOY_BIN is not set; use `make test`")?;
    existing(set.into(), "run `make envoy`, or set ENVOY_BIN to an Envoy of 1.37 or later")
}

/// Where pictures of pages are written.
pub fn screenshots() -> PathBuf {
    root().join("target/screenshots")
}

/// The Python with the OpenAI SDK.
///
/// # Errors
///
/// When the Makefile has not made it.
pub fn python() -> Result<PathBuf> {
    existing(root().join("target/python/bin/python"), "run `make python`")
}

/// Chromium's WebDriver.
///
/// # Errors
///
/// When it is not installed.
pub fn webdriver() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("chromedriver")).find(|p| p.exists());
    found.context("chromedriver is missing; run `apt-get install chromium chromium-driver`")
}
