//! A lost VM: what a trap answers, and how service comes back.
//!
//! No code of the product knows that it is tested. The module that traps is made of the shipped
//! one: in front of its `proxy_on_request_headers` stands a check that traps on a request with a
//! certain count of headers, which no other request of these tests has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::RequestBuilder;
use rustix::process::Signal;
use tests::{Message, Plan, Stack, eventually, filter_module};
use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{ExportItem, FunctionBuilder, Module, ModuleConfig, ValType};

/// A request with so many headers traps, or up to `SPAN` more.
const TRAPPING: i32 = 60;
const SPAN: i32 = 9;

/// What a request brings besides the headers that every one has at the gate and at the bearer.
const FILLERS: usize = 57;

/// Headers that a gate takes out: with them, the count fits at the bearer and not at the gate.
const STRIPPED: usize = 12;

/// How long an answer may take, and how long a pause in the service, on a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(2);

/// Which callback traps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Gate,
    Bearer,
}

/// Writes the module that traps.
pub(crate) fn trapping_module(dir: &Path) -> Result<PathBuf> {
    const EXPORT: &str = "proxy_on_request_headers";
    let mut module: Module = ModuleConfig::new().parse_file(filter_module()?)?;
    let export = module.exports.iter().find(|export| export.name == EXPORT);
    let export = export.context("the callback")?;
    let (id, ExportItem::Function(original)) = (export.id(), export.item) else {
        bail!("{EXPORT} is no function");
    };
    let parameters = [ValType::I32; 3];
    let [context, count, end] = parameters.map(|kind| module.locals.add(kind));
    let mut function = FunctionBuilder::new(&mut module.types, &parameters, &[ValType::I32]);
    function
        .func_body()
        .local_get(count)
        .i32_const(TRAPPING)
        .binop(BinaryOp::I32Sub)
        .i32_const(SPAN)
        .binop(BinaryOp::I32GtU)
        .unop(UnaryOp::I32Eqz)
        .if_else(None, |then| _ = then.unreachable(), |_| {})
        .local_get(context)
        .local_get(count)
        .local_get(end)
        .call(original);
    let function = function.finish(vec![context, count, end], &mut module.funcs);
    module.exports.get_mut(id).item = ExportItem::Function(function);
    let path = dir.join("trapping.wasm");
    module.emit_wasm_file(&path)?;
    Ok(path)
}

/// A stack of one worker, so that every request meets the same VM.
async fn stack() -> Result<(Stack, tempfile::TempDir)> {
    let dir = tempfile::TempDir::new()?;
    let filter = Some(trapping_module(dir.path())?);
    Ok((Stack::start(Plan { workers: 1, filter, ..Plan::default() }).await?, dir))
}

fn trapping(stack: &Stack, place: Place) -> RequestBuilder {
    let mut request = stack.client.get(stack.url("/v1/models"));
    for number in 0..FILLERS {
        request = request.header(format!("x-filler-{number}"), "x");
    }
    if let Place::Bearer = place {
        for number in 0..STRIPPED {
            request = request.header(format!("x-amzn-oidc-{number}"), "x");
        }
    }
    request
}

/// The same request for either protocol.
pub(crate) fn message(place: Place) -> Message {
    let fillers = (0..FILLERS).map(|number| format!("x-filler-{number}"));
    let stripped = match place {
        Place::Gate => 0..0,
        Place::Bearer => 0..STRIPPED,
    };
    let stripped = stripped.map(|number| format!("x-amzn-oidc-{number}"));
    let message = Message::get("/v1/models");
    fillers.chain(stripped).fold(message, |message, name| message.with(name, "x"))
}

/// Sends a request that traps, and sees to its end: 503 or a reset, at once.
pub(crate) async fn trap(stack: &Stack, place: Place) -> Result<()> {
    let traps = lost(stack).await?;
    let answer = tokio::time::timeout(AT_ONCE, trapping(stack, place).send()).await;
    match answer.with_context(|| format!("a trap at the {place:?} hangs"))? {
        Ok(answer) => assert_eq!(answer.status(), 503, "{place:?}"),
        Err(error) => assert!(error.is_request(), "{place:?}: {error}"),
    }
    ensure!(lost(stack).await? == traps + 1, "it did not trap at the {place:?}");
    Ok(())
}

/// How many VMs were lost.
async fn lost(stack: &Stack) -> Result<usize> {
    Ok(stack.envoy()?.log().matches("Function: proxy_on_request_headers failed").count())
}

pub(crate) async fn serves_again(stack: &Stack) -> Result<()> {
    let served = eventually(PAUSE, async || {
        let answer = stack.client.get(stack.url("/v1/models")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    });
    served.await.context("no service after a trap")
}

#[tokio::test]
async fn f07_traps_one_after_the_other_do_not_end_service() -> Result<()> {
    let (mut stack, _dir) = stack().await?;
    serves_again(&stack).await?;
    for round in 0..5 {
        if round == 2 {
            // From here on, the copy of the bundle in shared data has to do.
            stack.take_refresher()?.kill().await?;
        }
        stack.provider().clear();
        let place = if round % 2 == 0 { Place::Gate } else { Place::Bearer };
        trap(&stack, place).await?;
        assert!(stack.provider().requests().is_empty(), "round {round}");
        serves_again(&stack).await.with_context(|| format!("round {round}"))?;
        assert!(stack.provider().requests().iter().all(|request| request.jti.is_some()));
    }
    Ok(())
}

/// Envoy tells nobody that a VM is lost but the streams whose callbacks come next. A request that is
/// complete and waits has none to come: it ends when its client gives up, or by Envoy's idle
/// time-out.
#[tokio::test]
async fn f07_a_request_that_waits_in_the_lost_vm_reaches_nothing_and_can_be_given_up() -> Result<()>
{
    let (stack, _dir) = stack().await?;
    serves_again(&stack).await?;
    // The token is refused and nobody replaces it.
    stack.refresher()?.signal(Signal::STOP)?;
    stack.provider().kill_access_token();
    stack.provider().clear();
    let waiting =
        async || stack.client.get(stack.url("/v1/models")).timeout(PAUSE + PAUSE).send().await;
    let trap_among_them = async {
        let seen = async || (stack.provider().requests().len() >= 3).then_some(());
        eventually(PAUSE, seen).await.context("three requests are refused")?;
        let retried = async || {
            (stack.stat("cluster.upstream.upstream_rq_retry").await.ok()? >= 3).then_some(())
        };
        eventually(PAUSE, retried).await.context("they are replayed")?;
        trap(&stack, Place::Gate).await
    };
    let (first, second, third, trapped) =
        tokio::join!(waiting(), waiting(), waiting(), trap_among_them);
    trapped?;
    for answer in [first, second, third].into_iter().flatten() {
        assert_ne!(answer.status(), 200);
    }
    let active = "cluster.upstream.upstream_rq_active";
    let idle = async || (stack.stat(active).await.ok()? == 0).then_some(());
    eventually(PAUSE, idle).await.context("they are given up")?;
    assert!(stack.provider().requests().iter().all(|request| request.jti.is_some()));
    stack.refresher()?.signal(Signal::CONT)?;
    let served = eventually(Duration::from_secs(10), async || {
        let answer = stack.client.get(stack.url("/v1/models")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    });
    served.await.context("it serves with another token")
}
