//! What can be seen of everything: health, the metrics page, workers, the check of the whole way,
//! and whether what is shipped for monitoring finds its series.

mod check;
mod health;
mod metrics;
mod monitoring;
mod public;
mod workers;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Metrics, Plan, Stack, eventually, free_port, python, unix_request};

const ALICE: &str = "torchbearer-key-of-alice-1";

/// How long what happens soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A stack whose refresher is told where Envoy listens, as it has to be with an Envoy of one's own.
async fn told(plan: Plan) -> Result<Stack> {
    let login = plan.login;
    let port = free_port()?;
    let settings = format!("{}\n[listener]\nport = {port}\n", plan.settings);
    let mut stack = Stack::prepare(Plan { settings, ..plan }).await?;
    if login {
        stack.login().await?;
    }
    stack.start_refresher().await?;
    let mut bootstrap: Value = serde_json::from_str(&stack.bootstrap()?)?;
    let place = "/static_resources/listeners/0/address/socket_address/port_value";
    *bootstrap.pointer_mut(place).context("the port")? = port.into();
    stack.start_envoy_with(&bootstrap.to_string()).await?;
    Ok(stack)
}

/// What the refresher answers on its socket.
async fn asked(stack: &Stack, target: &str) -> Result<(u16, Value)> {
    let answer = unix_request(&stack.socket(), "GET", target, "").await?;
    Ok((answer.status, serde_json::from_str(&answer.body)?))
}

/// The metrics page on the refresher's socket.
async fn page(stack: &Stack) -> Result<String> {
    let answer = unix_request(&stack.socket(), "GET", "/metrics", "").await?;
    ensure!(answer.status == 200, "{}", answer.status);
    let kind = answer.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    Ok(answer.body)
}

async fn series(stack: &Stack) -> Result<Metrics> {
    Metrics::parse(&page(stack).await?)
}

/// Waits until a request to the API is answered 200.
async fn serves(stack: &Stack) -> Result<()> {
    let served = eventually(SOON, async || {
        let request = stack.client.get(stack.url("/v1/models")).bearer_auth(ALICE);
        (request.send().await.ok()?.status() == 200).then_some(())
    });
    served.await.context("no service")
}

/// The series of a page as the library `prometheus-client` reads it.
fn read_by_prometheus(page: &str) -> Result<Vec<(String, Value, f64)>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/metrics_page.py");
    let mut command = Command::new(python()?);
    let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parser = command.stderr(Stdio::piped()).spawn()?;
    parser.stdin.take().context("no input")?.write_all(page.as_bytes())?;
    let output = parser.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}\n{page}");
    Ok(serde_json::from_slice(&output.stdout)?)
}
