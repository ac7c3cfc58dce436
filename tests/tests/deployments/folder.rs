//! The folder `envoy/` as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::shipped::{document, folder, text};

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// The text of every test.
fn tests() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = [files(&root.join("tests"))?, files(&root.join("src"))?].concat();
    sources.iter().map(|path| Ok(fs::read_to_string(path)?)).collect()
}

/// Whether a test names a file, by its path below `envoy/`, or by its name beside its folder's.
fn is_named(tests: &[String], path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("")).display();
    let whole = format!("{}\"", path.display());
    let (folder, name) = (format!("{folder}\""), format!("\"{name}\""));
    tests.iter().any(|test| test.contains(&whole) || test.contains(&folder) && test.contains(&name))
}

/// What a kustomization reads: itself, and all that it names, by their paths below `envoy/`.
fn kustomized(path: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(path);
    let own = folder.join("kustomization.yaml");
    let kustomization = document(&text(&own.display().to_string())?)?;
    let mut read = vec![own];
    let strings = |value: &Value| {
        let strings = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        strings.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in
        [strings(&kustomization["resources"]), strings(&kustomization["components"])].concat()
    {
        match name.strip_prefix("../") {
            Some(other) => {
                let parent = folder.parent().context("a folder above")?;
                read.extend(kustomized(&parent.join(other).display().to_string())?);
            }
            None => read.push(folder.join(name)),
        }
    }
    for generator in kustomization["configMapGenerator"].as_array().into_iter().flatten() {
        read.extend(strings(&generator["files"]).iter().map(|name| folder.join(name)));
    }
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        read.extend(patch["path"].as_str().map(|name| folder.join(name)));
    }
    Ok(read)
}

#[test]
fn every_shipped_file_is_used_by_a_test() -> Result<()> {
    let (tests, all) = (tests()?, files(&folder())?);
    let all = all.iter().map(|path| Ok(path.strip_prefix(folder())?.to_owned()));
    let all: Vec<PathBuf> = all.collect::<Result<_>>()?;
    let mut used = Vec::new();
    for path in all.iter().filter(|path| path.ends_with("kustomization.yaml")) {
        let overlay = path.parent().unwrap_or(Path::new("")).display().to_string();
        if tests.iter().any(|test| test.contains(&format!("\"{overlay}\""))) {
            used.extend(kustomized(&overlay)?);
        }
    }
    for path in &all {
        // Those are what the next test reads.
        let is_read = path.ends_with("README.md") || used.contains(path) || is_named(&tests, path);
        ensure!(is_read, "envoy/{}: no test uses it", path.display());
    }
    Ok(())
}

/// What a README names in backquotes or as the target of a link.
fn named(readme: &str) -> impl Iterator<Item = &str> {
    let quoted = readme.split('`').skip(1).step_by(2);
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted.chain(links)
}

#[test]
fn every_folder_says_what_is_in_it() -> Result<()> {
    for entry in fs::read_dir(folder())? {
        let folder = entry?.path();
        let readme = folder.join("README.md");
        let readme = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
        for path in files(&folder)? {
            let path = path.strip_prefix(&folder)?;
            let first = path.iter().next().and_then(|first| first.to_str()).unwrap_or_default();
            // By its name, or that of its folder here.
            let is_named = first == "README.md"
                || named(&readme).any(|name| name.trim_end_matches('/') == first);
            ensure!(is_named, "{}: does not name {first}", folder.display());
        }
        for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let local = !link.starts_with("http") && !link.starts_with('#');
            let path = link.split('#').next().unwrap_or_default();
            ensure!(!local || folder.join(path).exists(), "{}: {link}", folder.display());
        }
    }
    Ok(())
}
