//! Bills of materials (CycloneDX 1.5, JSON): the crates that a program is made of, as Cargo resolves
//! them for its package and target, with their licences and the checksums of Cargo.lock. Crates that
//! only build, or only test, are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::VERSION;
use crate::image::rfc3339;

/// A crate, by name and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    /// As a package URL.
    fn purl(&self) -> String {
        // Versions may have a plus sign, which a package URL escapes.
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }
}

/// What is known of a crate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    license: String,
    needs: BTreeSet<Package>,
}

/// Makes the bill of a package, for a target. Runs in the project's folder.
pub(crate) fn make(package: &str, target: &str, epoch: u64) -> Result<Vec<u8>> {
    let run = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--locked", "--package", package, "--target", target])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "|{p}|{l}"])
        .output()
        .context("cargo cannot be run")?;
    ensure!(run.status.success(), "cargo tree: {}", String::from_utf8_lossy(&run.stderr));
    let tree = parse(&String::from_utf8(run.stdout)?)?;
    let lock = fs::read_to_string("Cargo.lock").context("Cargo.lock")?;
    let mut bill = serde_json::to_vec_pretty(&document(&tree, &checksums(&lock)?, target, epoch)?)?;
    bill.push(b'\n');
    Ok(bill)
}

/// What `cargo tree` has printed: the package itself, and each crate once with what it needs.
struct Tree {
    root: Package,
    packages: BTreeMap<Package, Facts>,
}

/// Reads lines such as `1|serde v1.0.228|MIT OR Apache-2.0`.
fn parse(lines: &str) -> Result<Tree> {
    let mut packages = BTreeMap::<Package, Facts>::new();
    let mut above: Vec<Package> = Vec::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let unknown = || format!("cargo tree said {line:?}");
        let mut fields = line.splitn(3, '|');
        let depth: usize =
            fields.next().and_then(|depth| depth.parse().ok()).with_context(unknown)?;
        let mut words = fields.next().with_context(unknown)?.split(' ');
        let name = words.next().with_context(unknown)?.to_owned();
        let version = words.next().and_then(|word| word.strip_prefix('v')).with_context(unknown)?;
        let package = Package { name, version: version.to_owned() };
        // A crate that was printed before is marked, and its own needs are not repeated.
        let license = fields.next().with_context(unknown)?.trim_end_matches(" (*)");
        above.truncate(depth);
        if let Some(parent) = above.last().and_then(|parent| packages.get_mut(parent)) {
            parent.needs.insert(package.clone());
        }
        let facts = packages.entry(package.clone()).or_default();
        // The slash is an old way to write it (SPDX has words).
        facts.license = license.replace('/', " OR ");
        above.push(package);
    }
    let root = above.into_iter().next().context("cargo tree printed nothing")?;
    Ok(Tree { root, packages })
}

/// The checksums in a lock file.
fn checksums(lock: &str) -> Result<BTreeMap<Package, String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let locked = lock.package.into_iter().filter_map(|Locked { name, version, checksum }| {
        Some((Package { name, version }, checksum?))
    });
    Ok(locked.collect())
}

fn document(
    tree: &Tree,
    checksums: &BTreeMap<Package, String>,
    target: &str,
    epoch: u64,
) -> Result<Value> {
    let component = |package: &Package, facts: &Facts, kind: &str| {
        let license = (!facts.license.is_empty())
            .then(|| ("licenses", json!([{"expression": facts.license}])));
        let checksum = checksums
            .get(package)
            .map(|checksum| ("hashes", json!([{"alg": "SHA-256", "content": checksum}])));
        let members = [
            ("type", json!(kind)),
            ("bom-ref", json!(package.purl())),
            ("name", json!(package.name)),
            ("version", json!(package.version)),
            ("purl", json!(package.purl())),
        ];
        let members = members.into_iter().chain(license).chain(checksum);
        Value::from_iter(members.map(|(name, value)| (name.to_owned(), value)))
    };
    let own = tree.packages.get(&tree.root).context("the package is not in its own tree")?;
    let others = tree.packages.iter().filter(|(package, _)| **package != tree.root);
    let needs = tree.packages.iter().map(|(package, facts)| {
        let needs: Vec<_> = facts.needs.iter().map(Package::purl).collect();
        json!({"ref": package.purl(), "dependsOn": needs})
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": rfc3339(epoch)?,
            "tools": {"components": [{"type": "application", "name": "pack", "version": VERSION}]},
            "component": component(&tree.root, own, "application"),
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": others.map(|(package, facts)| component(package, facts, "library"))
            .collect::<Vec<_>>(),
        "dependencies": needs.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
0|refresher v0.1.0 (/somewhere/refresher)|Apache-2.0
1|ring v0.17.14|Apache-2.0 AND ISC
2|untrusted v0.9.0|ISC
1|serde v1.0.2+x|MIT/Apache-2.0
2|ring v0.17.14|Apache-2.0 AND ISC (*)
";
    const LOCK: &str = "
[[package]]
name = \"refresher\"
version = \"0.1.0\"
[[package]]
name = \"ring\"
version = \"0.17.14\"
checksum = \"a4\"
";

    #[test]
    fn a_bill_has_each_crate_once_its_checksum_and_what_it_needs() {
        let tree = parse(PRINTED).unwrap();
        let checksums = checksums(LOCK).unwrap();
        let bill = document(&tree, &checksums, "x86_64-unknown-linux-musl", 1_779_000_000).unwrap();
        assert_eq!(bill["metadata"]["timestamp"], "2026-05-17T06:40:00Z");
        assert_eq!(bill["metadata"]["component"]["name"], "refresher");
        let named = |name: &str| {
            let components = bill["components"].as_array().unwrap();
            let mut found = components.iter().filter(|it| it["name"] == name);
            let component = found.next().unwrap().clone();
            assert!(found.next().is_none(), "{name} is there twice");
            component
        };
        assert_eq!(named("ring")["hashes"][0]["content"], "a4");
        assert_eq!(named("ring")["licenses"][0]["expression"], "Apache-2.0 AND ISC");
        assert_eq!(named("serde")["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(named("serde")["purl"], "pkg:cargo/serde@1.0.2%2Bx");
        let needs = |name: &str| {
            let needs = bill["dependencies"].as_array().unwrap();
            needs.iter().find(|it| it["ref"] == name).unwrap()["dependsOn"].clone()
        };
        let ring = "pkg:cargo/ring@0.17.14";
        let serde = "pkg:cargo/serde@1.0.2%2Bx";
        assert_eq!(needs("pkg:cargo/refresher@0.1.0"), json!([ring, serde]));
        assert_eq!(needs(ring), json!(["pkg:cargo/untrusted@0.9.0"]));
        assert_eq!(needs(serde), json!([ring]));
        assert!(!bill.to_string().contains("/somewhere"));
    }

    #[test]
    fn what_cargo_does_not_say_is_not_taken_for_an_empty_bill() {
        for printed in ["", "refresher", "0|refresher|Apache-2.0"] {
            assert!(parse(printed).is_err(), "{printed:?}");
        }
    }
}
