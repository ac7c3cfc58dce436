//! Images in the OCI's layout (image-spec 1.1), packed as one archive. A `manifest.json` beside the
//! layout lets an engine load it that does not know the layout yet.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::VERSION;
use crate::archive::{Tree, gzip, sha256};
use crate::base::Base;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is besides its files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is, in a sentence.
    pub(crate) description: &'static str,
    /// The processors that it is for, in the OCI's words.
    pub(crate) architecture: &'static str,
}

/// A whole image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    about: About,
    blobs: BTreeMap<String, Vec<u8>>,
    layers: Vec<String>,
    config: String,
    manifest: String,
    epoch: u64,
}

impl Image {
    /// An image of one layer on `base`, whose containers run as `config` says.
    pub(crate) fn new(
        about: About,
        files: &Tree,
        config: Value,
        base: Option<Base>,
        epoch: u64,
    ) -> Result<Self> {
        let created = rfc3339(epoch)?;
        let tar = files.tar(epoch)?;
        let base = base.unwrap_or_default();
        let (mut blobs, mut layers) = (base.blobs, base.layers);
        let mut diff_ids = base.diff_ids;
        diff_ids.push(format!("sha256:{}", sha256(&tar)));
        let mut history = base.history;
        history
            .push(json!({"created": created, "created_by": "make images", "comment": about.name}));
        let layer = gzip(&tar)?;
        layers.push(json!({"mediaType": LAYER, "digest": digest(&layer), "size": layer.len()}));
        keep(&mut blobs, layer);

        let document = json!({
            "created": created,
            "architecture": about.architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let document = serde_json::to_vec(&document)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(&document), "size": document.len()},
            "layers": layers,
            "annotations": labels(about, &created),
        });
        let paths = layers.iter().map(|layer| layer["digest"].as_str().map(blob_path));
        let layers = paths.collect::<Option<_>>().context("a layer of the base has no digest")?;
        let config = keep(&mut blobs, document);
        let manifest = keep(&mut blobs, serde_json::to_vec(&manifest)?);
        Ok(Self { about, blobs, layers, config, manifest, epoch })
    }

    /// What the image is known by, wherever it goes.
    pub(crate) fn digest(&self) -> &str {
        &self.manifest
    }

    /// The archive to load.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let About { name, architecture, .. } = self.about;
        let size = self.blobs.get(&self.manifest).map_or(0, Vec::len);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": self.manifest,
                "size": size,
                "platform": {"architecture": architecture, "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": format!("docker.io/{name}:{VERSION}"),
                    "org.opencontainers.image.ref.name": VERSION,
                },
            }],
        });
        let tags = [format!("{name}:{VERSION}"), format!("{name}:latest")];
        let loading =
            json!([{"Config": blob_path(&self.config), "RepoTags": tags, "Layers": self.layers}]);
        let mut files = Tree::default();
        files.file("oci-layout", 0o644, json!({"imageLayoutVersion": "1.0.0"}).to_string());
        files.file("index.json", 0o644, index.to_string());
        files.file("manifest.json", 0o644, loading.to_string());
        for (digest, content) in &self.blobs {
            files.file(&blob_path(digest), 0o644, content.as_slice());
        }
        files.tar(self.epoch)
    }
}

/// The image of the filter, as Istio and Envoy Gateway want it: nothing but `plugin.wasm`, in the last
/// layer.
pub(crate) fn of_filter(module: Vec<u8>, epoch: u64) -> Result<Image> {
    let about = About {
        name: "torchbearer/filter",
        description: "Torchbearer's filter, a proxy-wasm module for Envoy",
        // The module runs on any; an engine wants one named.
        architecture: "amd64",
    };
    let mut files = Tree::default();
    files.file("plugin.wasm", 0o644, module);
    let config = json!({"Labels": labels(about, &rfc3339(epoch)?)});
    Image::new(about, &files, config, None, epoch)
}

/// What is told about an image, in the words of the OCI.
pub(crate) fn labels(about: About, created: &str) -> Value {
    json!({
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.description": about.description,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": about.name,
        "org.opencontainers.image.version": VERSION,
    })
}

/// A time as the OCI writes it (RFC 3339).
pub(crate) fn rfc3339(epoch: u64) -> Result<String> {
    Ok(OffsetDateTime::from_unix_timestamp(epoch.try_into()?)?.format(&Rfc3339)?)
}

/// The digest of some bytes, as descriptors have it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

fn keep(blobs: &mut BTreeMap<String, Vec<u8>>, bytes: Vec<u8>) -> String {
    let digest = digest(&bytes);
    blobs.insert(digest.clone(), bytes);
    digest
}

/// Where a blob is in the layout.
pub(crate) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn the_filters_image_has_the_module_in_its_last_layer() {
        let image = of_filter(b"\0asm".to_vec(), 1_779_000_000).unwrap();
        let files = unpacked(&image.archive().unwrap());
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let index = json("index.json");
        let named = |descriptor: &Value| blob_path(descriptor["digest"].as_str().unwrap());
        assert_eq!(index["manifests"][0]["digest"], image.digest());
        let manifest = json(&named(&index["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap();
        let layer = layers.last().unwrap();
        assert_eq!(layer["mediaType"], LAYER);
        let compressed = &files[&named(layer)];
        assert_eq!(layer["size"], compressed.len());
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(compressed.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(unpacked(&tar)["plugin.wasm"], b"\0asm");
        let config = json(&named(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
        // An engine that knows no layout is led to the same.
        let loading = json("manifest.json");
        assert_eq!(loading[0]["Config"], named(&manifest["config"]));
        assert_eq!(loading[0]["Layers"], json!([named(layer)]));
    }

    #[test]
    fn made_twice_it_is_the_same_and_made_of_another_module_it_is_not() {
        let make = |module: &[u8], epoch| of_filter(module.to_vec(), epoch).unwrap();
        let one = make(b"one", 1_779_000_000);
        assert_eq!(one.archive().unwrap(), make(b"one", 1_779_000_000).archive().unwrap());
        assert_ne!(one.digest(), make(b"two", 1_779_000_000).digest());
        assert_ne!(one.digest(), make(b"one", 1_779_000_001).digest());
    }
}
