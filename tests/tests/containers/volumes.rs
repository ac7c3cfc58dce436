//! A volume that takes no more grants.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::eventually;

use crate::deployment::{Deployment, SOON};

/// Where the volume is in the refresher's container.
const FOLDER: &str = "/var/lib/torchbearer";

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
    told(it, "bytes left of 131072 wanted", "make room on that disk or volume").await?;
    ensure!(it.provider.count("refresh_requests").await? == spent, "a grant was spent");

    it.in_state(": > /state/filler").await?;
    it.serves().await.context("after there is room")?;
    well(it).await?;
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
    // What Envoy has is good, and stays so; the refresher that serves is the one with that volume.
    let status = it.status("/v1/models").await;
    ensure!(status == 200, "{status}");
    it.healthy(&it.container("refresher").await?).await?;
    let mounts = it.inspect(&it.container("refresher").await?).await?["Mounts"].take();
    let closed = |mount: &Value| mount["Destination"] == FOLDER && mount["RW"] == false;
    ensure!(mounts.as_array().is_some_and(|all| all.iter().any(closed)), "{mounts}");
    it.provider.order("kill", &json!({})).await?;
    let status = it.status("/v1/models").await;
    ensure!(status == 503, "{status}");
    alarmed(it).await?;
    told(it, "is mounted read-only", "mount it writable").await?;
    ensure!(it.provider.count("refresh_requests").await? == spent, "a grant was spent");

    it.compose(&up).await?;
    it.serves().await.context("after it can be written to again")?;
    well(it).await?;
    ensure!(it.provider.count("refresh_requests").await? == spent + 1);
    Ok(())
}

/// Waits until `/health` has an alarm about the grant.
async fn alarmed(it: &Deployment) -> Result<()> {
    let mut last = Value::Null;
    let alarmed = eventually(SOON, async || {
        last = it.health().await.ok()?;
        let names = alarm(&last).is_some_and(|alarm| alarm.starts_with(FOLDER));
        (last["status"] == "degraded" && names).then_some(())
    });
    alarmed.await.with_context(|| format!("no alarm: {last}"))
}

fn alarm(health: &Value) -> Option<&str> {
    health.pointer("/credentials/default/alarm")?.as_str()
}

/// What somebody is told who asks in the refresher's container: the folder, and what helps.
async fn told(it: &Deployment, why: &str, helps: &str) -> Result<()> {
    let status = it.refresher(&["status"]).await?;
    let line = |words: &[&str]| status.lines().any(|line| words.iter().all(|it| line.contains(it)));
    ensure!(line(&["alarm: ", FOLDER]), "{status}");
    ensure!(line(&["the alarm of default: make room", "mount it writable"]), "{status}");
    let doctor = it.refresher(&["doctor"]).await.err().context("doctor finds nothing")?;
    let doctor = doctor.to_string();
    ensure!(doctor.contains("exit status: 1"), "{doctor}");
    let mut lines = doctor.lines();
    let found = lines.find(|line| line.starts_with("state ")).unwrap_or_default();
    ensure!(found.contains(&format!("fail {FOLDER}/grants: ")) && found.contains(why), "{doctor}");
    ensure!(lines.next().is_some_and(|line| line.contains(helps)), "{doctor}");
    ensure!(doctor.contains(&format!("fail default: alarm: {FOLDER}/")), "{doctor}");
    Ok(())
}

/// Whether nothing of it is left.
async fn well(it: &Deployment) -> Result<()> {
    let health = it.health().await?;
    ensure!(health["status"] == "ok" && alarm(&health).is_none(), "{health}");
    let doctor = it.refresher(&["doctor"]).await;
    let doctor = doctor.unwrap_or_else(|error| error.to_string());
    ensure!(doctor.lines().any(|line| line.starts_with("state        ok")), "{doctor}");
    Ok(())
}
