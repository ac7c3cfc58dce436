//! The refresher's image: one static program, its filter, and two folders that belong to it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::archive::{Owner, Tree, read};
use crate::base::Base;
use crate::image::{About, Image, labels, rfc3339};
use crate::trust;

/// Who runs in it: nobody that another image or machine knows, the number that distroless images
/// call `nonroot`.
const USER: Owner = 65_532;

/// Where the grants are.
const STATE: &str = "var/lib/torchbearer";

/// Where Envoy's bootstrap and filter are put, for an Envoy in another container.
const FOR_ENVOY: &str = "etc/torchbearer/envoy";

/// Where the sockets are, which Envoy shares.
const RUN: &str = "run/torchbearer";

const NANOSECONDS: u64 = 1_000_000_000;

/// The files that it is made of.
#[derive(Args, Debug)]
pub(crate) struct Parts {
    /// What the program was built for, such as x86_64-unknown-linux-musl
    #[arg(long)]
    target: String,
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// The filter's module
    #[arg(long)]
    module: PathBuf,
    /// The licence
    #[arg(long)]
    license: PathBuf,
    /// Bills of materials
    #[arg(long = "bill")]
    bills: Vec<PathBuf>,
}

impl Parts {
    /// The processors in the OCI's words.
    pub(crate) fn architecture(&self) -> Result<&'static str> {
        match self.target.split('-').next() {
            Some("x86_64") => Ok("amd64"),
            Some("aarch64") => Ok("arm64"),
            _ => bail!("{}: accepted are targets for x86_64 and aarch64", self.target),
        }
    }
}

/// Makes the image.
pub(crate) fn image(parts: &Parts, base: Option<Base>, epoch: u64) -> Result<Image> {
    let about = About {
        name: "torchbearer/refresher",
        description: "Logs in to an OAuth provider, keeps the token fresh, and hands it to Envoy",
        architecture: parts.architecture()?,
    };
    let mut files = Tree::default();
    // The program looks for the filter beside itself, as where install.sh has put it.
    files.file("usr/lib/torchbearer/refresher", 0o755, read(&parts.program)?);
    files.file("usr/lib/torchbearer/filter.wasm", 0o644, read(&parts.module)?);
    files.link("usr/local/bin/refresher", "/usr/lib/torchbearer/refresher");
    files.file(trust::PATH, 0o644, trust::bundle());
    files.file("etc/passwd", 0o644, format!("nonroot:x:{USER}:{USER}::/{STATE}:/nonexistent\n"));
    files.file("etc/group", 0o644, format!("nonroot:x:{USER}:\n"));
    files.file("usr/share/doc/torchbearer/LICENSE", 0o644, read(&parts.license)?);
    for bill in &parts.bills {
        let name = bill.file_name().unwrap_or_default().to_string_lossy();
        files.file(&format!("usr/share/doc/torchbearer/{name}"), 0o644, read(bill)?);
    }
    // An engine gives a new volume the owner and the mode of the folder that it covers.
    for folder in [STATE, RUN, FOR_ENVOY] {
        files.folder(folder, 0o700, USER);
    }

    let seconds = |seconds: u64| seconds * NANOSECONDS;
    let config = json!({
        "User": format!("{USER}:{USER}"),
        "WorkingDir": "/",
        "Env": [
            "PATH=/usr/local/bin",
            // So that /etc/torchbearer/config.toml is read, where it is.
            "XDG_CONFIG_HOME=/etc",
            format!("TORCHBEARER_STATE_DIR=/{STATE}"),
            format!("TORCHBEARER_SOCKET=/{RUN}/refresher.sock"),
        ],
        "Entrypoint": ["/usr/local/bin/refresher"],
        "Cmd": ["serve"],
        "Volumes": {format!("/{RUN}"): {}, format!("/{STATE}"): {}},
        "StopSignal": "SIGTERM",
        "Labels": labels(about, &rfc3339(epoch)?),
        // Of Docker's, not of the OCI's; who does not know it ignores it.
        "Healthcheck": {
            "Test": ["CMD", "/usr/local/bin/refresher", "status", "--running"],
            "Interval": seconds(30),
            "Timeout": seconds(5),
            "StartPeriod": seconds(5),
            "Retries": 3,
        },
    });
    Image::new(about, &files, config, base, epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base;
    use crate::image::of_filter;
    use std::fs;

    fn parts(folder: &std::path::Path, target: &str) -> Parts {
        let file = |name: &str| {
            let path = folder.join(name);
            fs::write(&path, name).unwrap();
            path
        };
        Parts {
            target: target.to_owned(),
            program: file("refresher"),
            module: file("filter.wasm"),
            license: file("LICENSE"),
            bills: vec![file("refresher.cdx.json")],
        }
    }

    #[test]
    fn it_is_the_same_each_time_and_stands_on_a_base_where_one_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let parts = parts(folder.path(), "x86_64-unknown-linux-musl");
        let bare = image(&parts, None, 7).unwrap();
        assert_eq!(bare.archive().unwrap(), image(&parts, None, 7).unwrap().archive().unwrap());

        let ground = folder.path().join("ground");
        let archive = of_filter(b"ground".to_vec(), 0).unwrap().archive().unwrap();
        tar::Archive::new(archive.as_slice()).unpack(&ground).unwrap();
        let base = base::read_layout(&ground, parts.architecture().unwrap()).unwrap();
        let based = image(&parts, Some(base), 7).unwrap();
        assert_ne!(based.digest(), bare.digest());
        assert!(based.archive().unwrap().len() > bare.archive().unwrap().len());
    }

    #[test]
    fn processors_have_the_names_of_the_oci() {
        let folder = tempfile::tempdir().unwrap();
        for (target, architecture) in [
            ("x86_64-unknown-linux-musl", Some("amd64")),
            ("aarch64-unknown-linux-musl", Some("arm64")),
            ("riscv64gc-unknown-linux-musl", None),
        ] {
            assert_eq!(parts(folder.path(), target).architecture().ok(), architecture);
        }
    }
}
