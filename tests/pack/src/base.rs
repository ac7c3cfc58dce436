//! The image that another is built on, out of a folder in the OCI's layout, as `skopeo copy
//! docker://IMAGE oci:FOLDER` makes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::archive::read;
use crate::image::{blob_path, digest};

/// Layers to stand on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    /// Their contents, by digest.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// Their descriptors, from the ground up.
    pub(crate) layers: Vec<Value>,
    /// The digests of what they hold, uncompressed.
    pub(crate) diff_ids: Vec<String>,
    /// How they came about.
    pub(crate) history: Vec<Value>,
}

/// An index, or a manifest: what has `manifests` is the one, what has `layers` the other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Value>,
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    rootfs: RootFs,
    #[serde(default)]
    history: Vec<Value>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Reads the image for these processors.
pub(crate) fn read_layout(folder: &Path, architecture: &str) -> Result<Base> {
    let mut document: Document = serde_json::from_slice(&read(&folder.join("index.json"))?)?;
    // An index may lead to another one.
    while !document.manifests.is_empty() {
        let fits = |it: &&Descriptor| {
            it.platform.as_ref().is_none_or(|platform| platform.architecture == architecture)
        };
        let next = document.manifests.iter().find(fits);
        let next = next.with_context(|| format!("the base has no image for {architecture}"))?;
        document = json(folder, &next.digest)?;
    }
    let config = document.config.context("the base's manifest names no configuration")?;
    let Config { architecture: own, rootfs, history } = json(folder, &config.digest)?;
    ensure!(own == architecture, "the base is for {own}; accepted: one for {architecture}");
    let mut base = Base { diff_ids: rootfs.diff_ids, history, ..Base::default() };
    for layer in document.layers {
        let name = layer.get("digest").and_then(Value::as_str);
        let name = name.context("a layer of the base has no digest")?;
        base.blobs.insert(name.to_owned(), blob(folder, name)?);
        base.layers.push(layer);
    }
    ensure!(base.layers.len() == base.diff_ids.len(), "the base's layers are not those it names");
    Ok(base)
}

fn json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    serde_json::from_slice(&blob(folder, name)?).with_context(|| format!("{name} in the base"))
}

/// A blob, if it is what its name says.
fn blob(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let plain = name
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    ensure!(plain, "{name} in the base; accepted: sha256 and 64 hexadecimal digits");
    let bytes = read(&folder.join(blob_path(name)))?;
    ensure!(digest(&bytes) == name, "{name} in the base has another content");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::of_filter;

    fn laid_out(folder: &Path) {
        let archive = of_filter(b"ground".to_vec(), 0).unwrap().archive().unwrap();
        tar::Archive::new(archive.as_slice()).unpack(folder).unwrap();
    }

    #[test]
    fn a_base_is_read_and_one_that_was_changed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        laid_out(folder.path());
        let base = read_layout(folder.path(), "amd64").unwrap();
        assert_eq!((base.layers.len(), base.diff_ids.len(), base.history.len()), (1, 1, 1));
        assert!(read_layout(folder.path(), "arm64").is_err());
        let name = base.layers[0]["digest"].as_str().unwrap();
        std::fs::write(folder.path().join(blob_path(name)), "other").unwrap();
        let refused = read_layout(folder.path(), "amd64").unwrap_err();
        assert!(refused.to_string().contains("another content"), "{refused}");
    }
}
