//! The functions that the module imports: proxy-wasm ABI 0.2.1, and a little of WASI.

use wasmi::{Caller, Engine, Error, Linker, Module, Val};

use super::control;
use super::host::{CALL_HEADERS, Host, status};
use super::memory::{give, read, serialized, text, write_u32};

/// Links the module's imports. Those that the filter has no use for trap.
pub fn link(engine: &Engine, module: &Module) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(engine);
    maps(&mut linker)?;
    data(&mut linker)?;
    control::streams(&mut linker)?;
    control::metrics(&mut linker)?;
    control::wasi(&mut linker)?;
    for import in module.imports() {
        let Some(function) = import.ty().func() else { continue };
        let name = import.name().to_owned();
        let refuse = move |_: Caller<'_, Host>, _: &[Val], _: &mut [Val]| {
            Err(Error::new(format!("the filter called {name}, for which it has no use")))
        };
        // What is linked already stays.
        let _ = linker.func_new(import.module(), import.name(), function.clone(), refuse);
    }
    Ok(linker)
}

pub type Linked = Result<(), Error>;

fn maps(linker: &mut Linker<Host>) -> Linked {
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut c: Caller<'_, Host>, kind: u32, at: u32, size_at: u32| {
            let pairs = c.data().map(kind).filter(|map| !map.is_empty()).map(serialized);
            give(&mut c, &pairs.unwrap_or_default(), at, size_at)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |mut c: Caller<'_, Host>, kind: u32, name: u32, size: u32, at: u32, size_at: u32| {
            let name = text(&mut c, name, size)?.to_ascii_lowercase();
            let Some(map) = c.data().map(kind) else { return Ok(status::BAD_ARGUMENT) };
            let found = map.iter().find_map(|(known, value)| (*known == name).then_some(value));
            match found.cloned() {
                Some(value) => give(&mut c, &value, at, size_at),
                None => Ok(status::NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |mut c: Caller<'_, Host>, kind: u32, name: u32, size: u32| {
            change(&mut c, kind, (name, size), None, true)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        |mut c: Caller<'_, Host>, kind: u32, name: u32, size: u32, value: u32, length: u32| {
            change(&mut c, kind, (name, size), Some((value, length)), true)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_add_header_map_value",
        |mut c: Caller<'_, Host>, kind: u32, name: u32, size: u32, value: u32, length: u32| {
            change(&mut c, kind, (name, size), Some((value, length)), false)
        },
    )?;
    Ok(())
}

/// Removes a name, or sets it, or adds to it.
fn change(
    c: &mut Caller<'_, Host>,
    kind: u32,
    (name, size): (u32, u32),
    value: Option<(u32, u32)>,
    removes: bool,
) -> Result<u32, Error> {
    let name = text(c, name, size)?.to_ascii_lowercase();
    let value = value.map(|(value, length)| read(c, value, length)).transpose()?;
    if kind == CALL_HEADERS {
        return Ok(status::BAD_ARGUMENT);
    }
    let Some(map) = c.data_mut().map_mut(kind) else { return Ok(status::BAD_ARGUMENT) };
    if removes {
        map.retain(|(known, _)| *known != name);
    }
    map.extend(value.map(|value| (name, value)));
    Ok(status::OK)
}

fn data(linker: &mut Linker<Host>) -> Linked {
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut c: Caller<'_, Host>, kind: u32, start: u32, max: u32, at: u32, size_at: u32| {
            let Some(buffer) = c.data().buffer(kind) else { return Ok(status::NOT_FOUND) };
            let from = buffer.get(start as usize..).unwrap_or_default();
            let part = from.get(..max as usize).unwrap_or(from).to_vec();
            if part.is_empty() { Ok(status::OK) } else { give(&mut c, &part, at, size_at) }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut c: Caller<'_, Host>, path: u32, size: u32, at: u32, size_at: u32| {
            let path = read(&mut c, path, size)?;
            let host = c.data_mut();
            let errors =
                [status::NOT_FOUND, status::SERIALIZATION_FAILURE, status::INTERNAL_FAILURE];
            if let Some(error) = host.faults.any(&errors) {
                return Ok(error);
            }
            let request = host.stream().map(|stream| stream.request);
            let state = request.and_then(|request| host.filter_state.get(&(request, path.clone())));
            match state.or_else(|| host.properties.get(&path)).cloned() {
                Some(value) => give(&mut c, &value, at, size_at),
                None => Ok(status::NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut c: Caller<'_, Host>, path: u32, size: u32, value: u32, length: u32| {
            let path = read(&mut c, path, size)?;
            let value = read(&mut c, value, length)?;
            let host = c.data_mut();
            let Some(request) = host.stream().map(|stream| stream.request) else {
                return Ok(status::NOT_FOUND);
            };
            host.filter_state.insert((request, path), value);
            Ok(status::OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut c: Caller<'_, Host>, key: u32, size: u32, at: u32, size_at: u32, cas_at: u32| {
            let key = text(&mut c, key, size)?;
            let Some((value, cas)) = c.data().shared.get(&key).cloned() else {
                return Ok(status::NOT_FOUND);
            };
            give(&mut c, &value, at, size_at)?;
            write_u32(&mut c, cas_at, cas)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut c: Caller<'_, Host>, key: u32, size: u32, value: u32, length: u32, cas: u32| {
            let key = text(&mut c, key, size)?;
            let value = read(&mut c, value, length)?;
            let host = c.data_mut();
            if let Some(error) =
                (cas != 0).then(|| host.faults.any(&[status::CAS_MISMATCH])).flatten()
            {
                return Ok(error);
            }
            let new = host.issue();
            // A number matters only where the key exists.
            match host.shared.get(&key) {
                Some((_, number)) if cas != 0 && cas != *number => Ok(status::CAS_MISMATCH),
                _ => {
                    host.shared.insert(key, (value, new));
                    Ok(status::OK)
                }
            }
        },
    )?;
    Ok(())
}
