//! One VM with the shipped module in it, and the callbacks that a host makes.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use tests::filter_module;
use wasmi::{CallHook, Engine, Instance, Module, Store, WasmParams, WasmResults};

use super::abi::link;
use super::host::{Faults, Headers, Host, REQUEST_HEADERS, Shared, Stream};

/// `proxy_action_t`.
pub const CONTINUE: u32 = 0;

/// The module, translated once.
fn module() -> Result<&'static Module> {
    static MODULE: OnceLock<Module> = OnceLock::new();
    if let Some(module) = MODULE.get() {
        return Ok(module);
    }
    let module = Module::new(&Engine::default(), std::fs::read(filter_module()?)?)?;
    Ok(MODULE.get_or_init(|| module))
}

/// A VM.
pub struct Vm {
    store: Store<Host>,
    instance: Instance,
}

impl Vm {
    /// Starts one, at this time (Unix nanoseconds), beside shared data that others have left.
    pub fn start(wall: u64, shared: Shared, faults: Faults) -> Result<Self> {
        let module = module()?;
        let linker = link(module.engine(), module)?;
        let host = Host { wall, monotonic: 1, shared, faults, ..Host::default() };
        let mut store = Store::new(module.engine(), host);
        store.call_hook(|host: &mut Host, hook| {
            host.asked[0] += u32::from(matches!(hook, CallHook::CallingHost));
            Ok(())
        });
        let instance = linker.instantiate_and_start(&mut store, module)?;
        let memory = instance.get_memory(&store, "memory").context("the module's memory")?;
        let allocate = instance.get_typed_func(&store, "proxy_on_memory_allocate")?;
        store.data_mut().memory = Some(memory);
        store.data_mut().allocate = Some(allocate);
        let mut vm = Self { store, instance };
        vm.call::<(), ()>(0, "_initialize", ())?;
        Ok(vm)
    }

    /// The host.
    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// The size of the module's memory, in bytes.
    pub fn memory(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// Calls an export about a context. The error of a trap says where it was.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        export: &str,
        parameters: P,
    ) -> Result<R> {
        let function = self.instance.get_typed_func::<P, R>(&self.store, export)?;
        let host = self.store.data_mut();
        (host.current, host.effective) = (context, 0);
        function.call(&mut self.store, parameters).map_err(|trap| {
            let log = self.store.data().log.iter().rev().take(5).cloned().collect::<Vec<_>>();
            anyhow!("{export} of context {context} trapped: {trap}; the log, latest first: {log:?}")
        })
    }

    /// Makes a root context and configures it. `None`: the module refuses the configuration.
    pub fn root(&mut self, configuration: &[u8]) -> Result<Option<u32>> {
        let id = self.host().issue();
        self.host().roots.insert(id, 0);
        self.call::<_, ()>(id, "proxy_on_context_create", (id, 0_u32))?;
        let started: u32 = self.call(id, "proxy_on_vm_start", (id, 0_u32))?;
        self.host().configuration = Some(configuration.to_vec());
        let size = u32::try_from(configuration.len())?;
        let configured: u32 = self.call(id, "proxy_on_configure", (id, size))?;
        self.host().configuration = None;
        if started != 0 && configured != 0 {
            return Ok(Some(id));
        }
        self.delete(id)?;
        Ok(None)
    }

    /// Begins a stream with its request's headers.
    pub fn begin(
        &mut self,
        root: u32,
        request: usize,
        headers: Headers,
        end: bool,
    ) -> Result<(u32, u32)> {
        let id = self.host().issue();
        self.host().streams.insert(id, Stream { root, request, ..Stream::default() });
        self.call::<_, ()>(id, "proxy_on_context_create", (id, root))?;
        let action = self.headers(id, REQUEST_HEADERS, headers, end)?;
        Ok((id, action))
    }

    /// Delivers headers or trailers. After `Continue` Envoy does not show them any more.
    pub fn headers(&mut self, id: u32, kind: usize, headers: Headers, end: bool) -> Result<u32> {
        let export = [
            "proxy_on_request_headers",
            "proxy_on_request_trailers",
            "proxy_on_response_headers",
            "proxy_on_response_trailers",
        ][kind];
        let count = u32::try_from(headers.len())?;
        if let Some(stream) = self.host().streams.get_mut(&id) {
            stream.maps[kind] = Some(headers);
        }
        if kind % 2 == 1 {
            return self.call(id, export, (id, count));
        }
        self.call(id, export, (id, count, u32::from(end)))
    }

    /// Delivers a part of a body. What was held back before is delivered with it.
    pub fn body(&mut self, id: u32, kind: usize, part: &[u8], end: bool) -> Result<u32> {
        let export = ["proxy_on_request_body", "proxy_on_response_body"][kind];
        let mut size = part.len();
        if let Some(stream) = self.host().streams.get_mut(&id) {
            let buffer = stream.buffers[kind].get_or_insert_default();
            buffer.extend_from_slice(part);
            size = buffer.len();
        }
        let action = self.call(id, export, (id, u32::try_from(size)?, u32::from(end)))?;
        if action == CONTINUE
            && let Some(stream) = self.host().streams.get_mut(&id)
        {
            stream.buffers[kind] = None;
        }
        Ok(action)
    }

    /// Ticks each root context that wants it.
    pub fn tick(&mut self, milliseconds: u64) -> Result<()> {
        let host = self.host();
        host.wall += milliseconds * 1_000_000;
        host.monotonic += milliseconds * 1_000_000;
        let wanting = host.roots.iter().filter(|(_, period)| **period > 0);
        let due: Vec<u32> = wanting.map(|(root, _)| *root).collect();
        due.into_iter().try_for_each(|root| self.call(root, "proxy_on_tick", root))
    }

    /// Answers a call; `None`: it has failed.
    pub fn answer(&mut self, token: u32, answer: Option<(Headers, Vec<u8>)>) -> Result<()> {
        let Some(call) = self.host().calls.remove(&token) else { return Ok(()) };
        let (headers, body) =
            answer.as_ref().map_or((0, 0), |(headers, body)| (headers.len(), body.len()));
        self.host().answer = answer;
        let (headers, body) = (u32::try_from(headers)?, u32::try_from(body)?);
        let parameters = (call.root, token, headers, body, 0_u32);
        self.call::<_, ()>(call.root, "proxy_on_http_call_response", parameters)?;
        self.host().answer = None;
        Ok(())
    }

    /// Ends a context. Calls of a root context are cancelled with it.
    pub fn delete(&mut self, id: u32) -> Result<()> {
        self.call::<_, ()>(id, "proxy_on_delete", id)?;
        let host = self.host();
        host.calls.retain(|_, call| call.root != id);
        host.streams.remove(&id);
        host.roots.remove(&id);
        Ok(())
    }
}
