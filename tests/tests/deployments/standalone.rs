//! `envoy/standalone`: one static file.

use anyhow::{Result, ensure};

use crate::proof::{carries, replays, status};
use crate::shipped::{document, run, sidecar, text};

#[tokio::test]
async fn the_static_file_works_with_the_paths_of_this_machine() -> Result<()> {
    let mut stack = sidecar().await?;
    let shipped = text("standalone/bootstrap.yaml")?;
    // The API's host is named on lines that say so, and nowhere else.
    for line in shipped.lines().filter(|line| line.contains("api.x.ai")) {
        ensure!(line.contains("# set:"), "{line}");
    }
    run(&mut stack, &document(&shipped)?, "upstream").await?;
    carries(&stack, "unused").await?;
    replays(&stack, "unused").await?;
    assert_eq!(status(&stack, "/ready").await?, 200);
    Ok(())
}
