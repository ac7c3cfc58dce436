//! Makes what is handed out: images, bills of materials, release archives. From the same files it
//! makes the same bytes, on any machine and at any time.
//!
//! No engine and no registry is needed: an image is an archive in the OCI's layout, which `docker
//! load`, `podman load`, `skopeo` and `ctr` read.

mod archive;
mod base;
mod bill;
mod image;
mod pages;
mod refresher;
mod release;
mod trust;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use image::Image;

/// What is made now.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The time that everything is made at, in Unix seconds: that of the last commit
    #[arg(long, env = "SOURCE_DATE_EPOCH", global = true, default_value_t = 0)]
    epoch: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the image of the refresher
    Refresher {
        #[command(flatten)]
        parts: refresher::Parts,
        /// An image to build on, as a folder in the OCI's layout; none: on nothing
        #[arg(long)]
        base: Option<PathBuf>,
        /// The archive to write
        #[arg(long)]
        output: PathBuf,
    },
    /// Make the image that Istio and Envoy Gateway load the filter from
    Filter {
        /// The filter's module
        #[arg(long)]
        module: PathBuf,
        /// The archive to write
        #[arg(long)]
        output: PathBuf,
    },
    /// Make the bill of materials of a package (CycloneDX), of what its program is made of
    Bill {
        /// The package
        #[arg(long)]
        package: String,
        /// What it is built for
        #[arg(long)]
        target: String,
        /// The file to write
        #[arg(long)]
        output: PathBuf,
    },
    /// Make the archive of a release
    Release(release::Release),
    /// Write the checksums of a folder's archives
    Checksums {
        /// The folder
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    let Arguments { epoch, command } = Arguments::parse();
    match command {
        Command::Refresher { parts, base, output } => {
            let base =
                base.map(|path| base::read_layout(&path, parts.architecture()?)).transpose()?;
            write(&refresher::image(&parts, base, epoch)?, &output)
        }
        Command::Filter { module, output } => {
            let module = archive::read(&module)?;
            write(&image::of_filter(module, epoch)?, &output)
        }
        Command::Bill { package, target, output } => {
            let bill = bill::make(&package, &target, epoch)?;
            archive::write(&output, &bill)
        }
        Command::Release(release) => {
            println!("{}", release.write(epoch)?.display());
            Ok(())
        }
        Command::Checksums { folder } => release::write_checksums(&folder),
    }
}

fn write(image: &Image, output: &std::path::Path) -> Result<()> {
    archive::write(output, &image.archive()?).context("the image is not written")?;
    println!("{} {}", output.display(), image.digest());
    Ok(())
}
