//! Whether custom resources have only fields that exist, of the types that they have.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::shipped::document;

const CRDS: &str = include_str!("crds.yaml");

/// Holds every custom resource among these against its schema.
pub fn hold(manifests: &[Value]) -> Result<()> {
    let schemas = document(CRDS)?;
    for manifest in manifests {
        let (version, kind) = (manifest["apiVersion"].as_str(), manifest["kind"].as_str());
        let (version, kind) = version.zip(kind).context("a manifest")?;
        let group = version.split_once('/').map_or("", |(group, _)| group);
        if !group.contains("istio.io") && !group.starts_with("gateway.") {
            continue;
        }
        let found = schemas.get(kind).or_else(|| schemas.get(format!("{kind}/{group}")));
        let found = found.with_context(|| format!("no schema for {version} {kind}"))?;
        ensure!(found["apiVersion"] == version, "{kind} is of {}", found["apiVersion"]);
        let mut schema = found["spec"].clone();
        schema["$defs"] = schemas["$defs"].clone();
        let validator = jsonschema::validator_for(&schema)?;
        let offences: Vec<_> = validator
            .iter_errors(&manifest["spec"])
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        ensure!(offences.is_empty(), "{kind}: {offences:?}");
    }
    Ok(())
}

#[test]
fn an_unknown_field_is_refused() {
    let manifest = |spec| json!([{"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "spec": spec}]);
    let good = manifest(json!({"url": "oci://a/b", "failStrategy": "FAIL_RELOAD"}));
    for (spec, accepted) in [
        (json!({"url": "oci://a/b", "failStrategy": "FAIL_CLOSED"}), false),
        (json!({"url": "oci://a/b", "failurePolicy": "FAIL_CLOSE"}), false),
        (json!({"phase": "AUTHN"}), false),
        (good[0]["spec"].clone(), true),
    ] {
        let manifests = manifest(spec);
        let manifests = manifests.as_array().unwrap();
        assert_eq!(hold(manifests).is_ok(), accepted, "{manifests:?}");
    }
}
