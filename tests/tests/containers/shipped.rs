//! The compose file and the image as they are shipped.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::deployment::Deployment;
use crate::engine::docker;

/// The most that the refresher's image may take, in bytes.
const MAX_IMAGE_BYTES: u64 = 20 << 20;

pub async fn the_compose_file_serves_with_a_key_and_shares_its_socket(
    it: &mut Deployment,
) -> Result<()> {
    // With the key 200, which the start has awaited; without one, and with another, nothing passes.
    let before = it.provider.count("api_requests").await?;
    let refused = it.client.get(it.url(0, "/v1/models")).send().await?;
    ensure!(refused.status() == 401, "{}", refused.status());
    let refused = it.client.get(it.url(0, "/v1/models")).bearer_auth("another-key-0123456789");
    ensure!(refused.send().await?.status() == 401);
    ensure!(it.provider.count("api_requests").await? == before, "it reached the API");

    // Both run as nobody, with nothing that they do not need.
    let (refresher, envoy) = (it.container("refresher").await?, it.container("envoy").await?);
    for container in [&refresher, &envoy] {
        let found = it.inspect(container).await?;
        ensure!(found["Config"]["User"] == "65532:65532", "{}", found["Config"]["User"]);
        let host = &found["HostConfig"];
        ensure!(host["ReadonlyRootfs"] == true && host["Privileged"] == false);
        ensure!(host["CapDrop"] == json!(["ALL"]), "{}", host["CapDrop"]);
        ensure!(
            host["SecurityOpt"] == json!(["no-new-privileges:true"]),
            "{}",
            host["SecurityOpt"]
        );
        it.healthy(container).await?;
    }
    // Envoy is healthy with its workers at the newest; the refresher sees Envoy's admin interface.
    it.refresher(&["status", "--wait-generation", "current", "--timeout", "20s"]).await?;
    let status = it.refresher(&["status"]).await?;
    ensure!(status.contains("LIVE"), "{status}");

    // The socket is open to the user that both run as, and to no other.
    let ready = it.ask_socket("refresher.sock", "GET", "/ready").await?;
    ensure!(!ready.is_empty());
    let stranger = it.ask_socket_as("1000:1000", "refresher.sock", "GET", "/ready").await;
    let said = stranger.err().context("somebody else got to the socket")?.to_string();
    ensure!(said.contains("Permission denied"), "{said}");
    // And Envoy has no way to the grants.
    let mounts = it.inspect(&envoy).await?["Mounts"].to_string();
    ensure!(!mounts.contains("_state"), "{mounts}");

    // The image is small, and trusts the public authorities without the machine's help: a provider
    // that cannot be reached is another failure than a client that cannot be made.
    let image = it.inspect(&refresher).await?["Image"].as_str().context("the image")?.to_owned();
    let size: u64 =
        docker(&["image", "inspect", "--format", "{{.Size}}", &image]).await?.parse()?;
    ensure!(size < MAX_IMAGE_BYTES, "the image has {size} bytes");
    let lonely =
        ["run", "--rm", "--network", "none", &image, "--provider", "xai", "login", "--device"];
    let said = docker(&lonely).await.err().context("a login without a network")?.to_string();
    ensure!(said.contains("exit status: 6"), "{said}");
    Ok(())
}
