//! What hardly ever happens: a body that outgrows what can be sent again, and a filter that fails.

use super::*;
use crate::trap::{self, Place, trapping_module};
use tokio::net::TcpStream;

/// An answer after which Envoy tries again, but not at once.
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_body_that_outgrows_what_can_be_sent_again_has_a_code_and_an_id() -> Result<()> {
    let mut plan = Plan::default();
    plan.proxy.buffer_bytes = 65_536;
    plan.proxy.max_replay_body_bytes = 65_536;
    let mut stack = Stack::prepare(plan).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let bootstrap = stack.bootstrap_for(&format!("http://{}", api(BUSY).await?))?;
    stack.start_envoy_with(&bootstrap).await?;
    let active = "cluster.upstream.upstream_rq_active";
    let mut client = TcpStream::connect(stack.address).await?;
    let head = "GET /v1/files HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}1\r\nx\r\n").as_bytes()).await?;
    let waits = eventually(LIMIT, async || {
        let begun = stack.stat("cluster.upstream.upstream_rq_total").await.ok()? > 0;
        (begun && stack.stat(active).await.ok()? == 0).then_some(())
    });
    waits.await.context("it does not wait to be tried again")?;
    let rest = "x".repeat(LARGE);
    // It may have its answer before all of this is read.
    let _ = client.write_all(format!("{LARGE:x}\r\n{rest}\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let read = async { while client.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(LIMIT, read).await?;
    let answer = Answer::parse(&answer).context("no answer")?;
    let expected = (507, "retry_buffer_exceeded", "exceeded_retry_buffer_limit");
    let all = [told("a body that goes on", &answer, expected)?];
    logged(&mut stack, &all).await
}

#[tokio::test]
async fn a_filter_that_fails_has_a_code_and_an_id() -> Result<()> {
    let dir = tempfile::TempDir::new()?;
    let filter = Some(trapping_module(dir.path())?);
    let mut stack = Stack::start(Plan { workers: 1, filter, ..Plan::default() }).await?;
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        trap::serves_again(&stack).await?;
        let message = trap::message(Place::Gate);
        let outcome = message.send(protocol, stack.address).await?;
        let answer = outcome.answer().with_context(|| outcome.to_string())?;
        let expected = (503, "proxy_error", "wasm_fail_stream");
        all.push(told(&format!("{protocol:?}"), answer, expected)?);
    }
    logged(&mut stack, &all).await
}
