//! `envoy/sds`: one static file, by which Envoy's own filter puts in the token.

use anyhow::{Result, ensure};
use tests::Plan;

use crate::proof::{carries, replays};
use crate::shipped::{document, run, sidecar_as, text};

#[tokio::test]
async fn the_static_file_works_with_the_paths_of_this_machine() -> Result<()> {
    let mut stack = sidecar_as(Plan { sds: true, ..Plan::default() }).await?;
    let shipped = text("sds/bootstrap.yaml")?;
    let secrets = stack.dir().join("sds");
    ensure!(secrets.join("default.json").exists(), "the refresher has written the token's file");
    let shipped = shipped.replace("/run/torchbearer/sds", &secrets.display().to_string());
    run(&mut stack, &document(&shipped)?, "upstream").await?;
    carries(&stack, "unused").await?;
    replays(&stack, "unused").await
}
