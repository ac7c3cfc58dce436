//! A volume that takes no more grants.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::eventually;

use crate::deployment::{Deployment, SOON};

pub async fn a_full_one_spends_no_grant_and_recovers(it: &mut Deployment) -> Result<()> {
    // Until nothing more fits.
    let fill = "while printf %4096d 0 >> /state/filler; do :; done 2>/dev/null";
    it.in_state(fill).await?;
    let spent = it.provider.count("refresh_requests").await?;
    // The API refuses the token from now on, so that another one is wanted.
    it.provider.order("kill", &json!({})).await?;
    let status = it.status("/v1/models").await;
    ensure!(status == 503, "{status}");
    alarmed(it).await?;
    ensure!(it.provider.count("refresh_requests").await? == spent, "a grant was spent");

    it.in_state(": > /state/filler").await?;
    it.serves().await.context("after there is room")?;
    ensure!(it.provider.count("refresh_requests").await? == spent + 1);
    Ok(())
}

pub async fn a_read_only_one_spends_no_grant_and_recovers(it: &mut Deployment) -> Result<()> {
    let spent = it.provider.count("refresh_requests").await?;
    let read_only = json!({
        "version": "3.8",
        "services": {"refresher": {"volumes": ["state:/var/lib/torchbearer:ro"]}},
    });
    let up = ["up", "--detach", "--no-deps", "refresher"];
    it.compose_with(&read_only.to_string(), &up).await?;
    // What Envoy has is good, and stays so.
    let status = it.status("/v1/models").await;
    ensure!(status == 200, "{status}");
    it.provider.order("kill", &json!({})).await?;
    let status = it.status("/v1/models").await;
    ensure!(status == 503, "{status}");
    ensure!(it.provider.count("refresh_requests").await? == spent, "a grant was spent");

    it.compose(&up).await?;
    it.serves().await.context("after it can be written to again")?;
    ensure!(it.provider.count("refresh_requests").await? == spent + 1);
    Ok(())
}

/// Waits until `/health` has an alarm about the grant.
async fn alarmed(it: &Deployment) -> Result<()> {
    let mut last = Value::Null;
    let alarmed = eventually(SOON, async || {
        last = it.health().await.ok()?;
        let alarm = last.pointer("/credentials/default/alarm").and_then(Value::as_str);
        (last["status"] == "degraded" && alarm.is_some()).then_some(())
    });
    alarmed.await.with_context(|| format!("no alarm: {last}"))
}
