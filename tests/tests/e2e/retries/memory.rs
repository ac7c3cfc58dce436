//! What uploads cost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use tests::{Plan, Stack, eventually};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const UPLOADS: usize = 50;

/// What Envoy may hold of one upload, in KiB: as much as it could replay, as much as it reads ahead
/// of that, and what it has not written yet.
const EACH_KIB: u64 = (4 + 1 + 1) << 10;

const LIMIT: Duration = Duration::from_secs(120);

/// Fifty requests of 16 MiB each, all at once.
fn uploads(stack: &Stack) -> Vec<JoinHandle<reqwest::Result<reqwest::Response>>> {
    let body = Bytes::from(vec![b'x'; 16 << 20]);
    let upload = |_| {
        let request = stack.client.post(stack.url("/v1/echo")).body(body.clone());
        tokio::spawn(request.send())
    };
    (0..UPLOADS).map(upload).collect()
}

#[tokio::test]
async fn large_uploads_are_passed_on_and_not_collected() -> Result<()> {
    let stack = Stack::start(Plan { workers: 1, ..Plan::default() }).await?;
    let first = stack.client.get(stack.url("/v1/models")).send().await?;
    assert_eq!(first.status(), 200, "the token is there");
    let before = stack.envoy()?.resident_kib()?;
    let uploads = uploads(&stack);
    let mut most = before;
    let done = eventually(LIMIT, async || {
        most = stack.envoy().ok()?.resident_kib().ok()?.max(most);
        uploads.iter().all(JoinHandle::is_finished).then_some(())
    });
    done.await.context("the uploads do not end")?;
    for upload in uploads {
        let answer: Value = upload.await??.json().await?;
        assert_eq!(answer["body_bytes"], 16 << 20);
    }
    println!("{UPLOADS} uploads: Envoy grew by {} MiB", (most - before) >> 10);
    ensure!(most - before < UPLOADS as u64 * EACH_KIB, "{most} KiB, {before} before");
    Ok(())
}

#[tokio::test]
async fn uploads_to_an_api_that_does_not_read_are_held_within_bounds() -> Result<()> {
    let mut stack = Stack::prepare(Plan { workers: 1, ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let bootstrap = stack.bootstrap_for(&format!("http://{}", silent.local_addr()?))?;
    stack.start_envoy_with(&bootstrap).await?;
    // One that arrives shows that the token is there.
    let first = tokio::spawn(stack.client.get(stack.url("/v1/models")).send());
    let mut arrived = tokio::time::timeout(LIMIT, silent.accept()).await??.0;
    tokio::time::timeout(LIMIT, arrived.read_u8()).await??;
    first.abort();
    let before = stack.envoy()?.resident_kib()?;
    let uploads = uploads(&stack);
    let mut silent_ends = Vec::new();
    for _ in 0..UPLOADS {
        silent_ends.push(tokio::time::timeout(LIMIT, silent.accept()).await??);
    }
    // Until Envoy takes no more.
    let mut taken = (0, 0);
    let full = eventually(LIMIT, async || {
        let now = stack.stat("http.proxy.downstream_cx_rx_bytes_total").await.ok()?;
        taken = if now == taken.0 { (now, taken.1 + 1) } else { (now, 0) };
        tokio::time::sleep(Duration::from_millis(50)).await;
        (taken.1 == 20).then_some(())
    });
    full.await.context("Envoy goes on reading")?;
    let after = stack.envoy()?.resident_kib()?;
    println!(
        "{UPLOADS} held uploads: Envoy took {} MiB and grew by {} MiB",
        taken.0 >> 20,
        (after - before) >> 10
    );
    ensure!(uploads.iter().all(|upload| !upload.is_finished()), "an upload has ended");
    ensure!(after - before < UPLOADS as u64 * EACH_KIB, "{after} KiB, {before} before");
    uploads.iter().for_each(JoinHandle::abort);
    Ok(())
}
