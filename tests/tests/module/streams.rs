//! What many streams leave behind: nothing.

use anyhow::{Context as _, Result, ensure};

use super::host::{Faults, Headers, RESPONSE_BODY, RESPONSE_HEADERS, Shared};
use super::vm::{CONTINUE, Vm};

const STREAMS: usize = 20_000;
const WARM_UP: usize = 2_000;

fn headers(more: &[(&str, &str)]) -> Headers {
    let head =
        [(":method", "POST"), (":path", "/v1/chat/completions"), (":authority", "localhost")];
    let all = head.iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

fn start() -> Result<(Vm, u32)> {
    let mut vm = Vm::start(1_779_000_000_000_000_000, Shared::new(), Faults::default())?;
    let address = b"destination\0address".to_vec();
    vm.host().properties.insert(address, b"127.0.0.1:9996".to_vec());
    let root = vm.root(br#"{"gate": {}, "bearer": {}, "usage": {}}"#)?.context("configured")?;
    vm.tick(1)?;
    Ok((vm, root))
}

fn poll(vm: &mut Vm) -> Result<u32> {
    vm.host().calls.keys().next().copied().context("a poll")
}

/// Lets `stream` happen often, and checks that the module's memory does not grow.
fn is_flat(vm: &mut Vm, mut stream: impl FnMut(&mut Vm, usize) -> Result<()>) -> Result<()> {
    let mut warm = 0;
    for number in 0..STREAMS {
        if number == WARM_UP {
            warm = vm.memory();
        }
        stream(vm, number)?;
        vm.host().log.clear();
        vm.host().deferred.clear();
        vm.host().filter_state.clear();
    }
    let grown = vm.memory() - warm;
    ensure!(grown == 0, "the memory grows by {grown} bytes, from {warm}");
    Ok(())
}

#[test]
fn streams_that_are_reset_while_they_wait_leave_no_memory_behind() -> Result<()> {
    let (mut vm, root) = start()?;
    is_flat(&mut vm, |vm, number| {
        let (id, action) =
            vm.begin(root, number, headers(&[("x-long", &"x".repeat(500))]), true)?;
        ensure!(action != CONTINUE, "it does not wait");
        vm.delete(id)?;
        if number % 16 == 0 {
            vm.tick(50)?;
        }
        if number % 100 == 0 {
            let call = poll(vm)?;
            vm.answer(call, None)?;
            vm.tick(600)?;
        }
        Ok(())
    })
}

#[test]
fn streams_that_are_served_leave_no_memory_behind() -> Result<()> {
    let (mut vm, root) = start()?;
    let publish = |vm: &mut Vm, generation: usize| {
        let document = format!(
            r#"{{"version": 1, "generation": {generation}, "credentials": {{"default":
            {{"state": "ready", "access_token": "t{generation}", "token_type": "Bearer",
              "expires_at": 9000000000, "generation": {generation}}}}}}}"#
        );
        let call = poll(vm)?;
        vm.answer(call, Some((vec![(":status".to_owned(), b"200".to_vec())], document.into())))
    };
    publish(&mut vm, 1)?;
    is_flat(&mut vm, |vm, number| {
        let (id, action) = vm.begin(root, number, headers(&[]), true)?;
        ensure!(action == CONTINUE, "it is not served");
        // Every model has another name, and the answer's end is sometimes not seen.
        let head = [(":status", "200"), ("content-type", "text/event-stream")];
        let head = head.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        vm.headers(id, RESPONSE_HEADERS, head.to_vec(), false)?;
        let event =
            format!("data: {{\"model\":\"m{number}\",\"usage\":{{\"prompt_tokens\":1}}}}\n\n");
        vm.body(id, RESPONSE_BODY, event.as_bytes(), number % 2 == 0)?;
        vm.delete(id)?;
        if number % 50 == 0 {
            publish(vm, number + 2)?;
            vm.tick(250)?;
        }
        Ok(())
    })
}
