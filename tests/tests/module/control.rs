//! Host functions that act: on streams, by calls, on metrics; and WASI's.

use wasmi::{Caller, Error, Linker};

use super::abi::Linked;
use super::host::{Call, Deferred, Host, REQUEST_HEADERS, status};
use super::memory::{read, read_map, text, write, write_u32};

/// Logs, ticks, the effective context, local replies and calls.
pub fn streams(linker: &mut Linker<Host>) -> Linked {
    linker.func_wrap(
        "env",
        "proxy_log",
        |mut c: Caller<'_, Host>, level: u32, message: u32, size: u32| {
            let message = text(&mut c, message, size)?;
            c.data_mut().log.push(format!("{level} {message}"));
            Ok::<_, Error>(status::OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_tick_period_milliseconds",
        |mut c: Caller<'_, Host>, period: u32| {
            let root = c.data().root();
            c.data_mut().roots.insert(root, period);
            status::OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_effective_context",
        |mut c: Caller<'_, Host>, id: u32| {
            let host = c.data_mut();
            if !host.streams.contains_key(&id) && !host.roots.contains_key(&id) {
                return status::BAD_ARGUMENT;
            }
            host.effective = id;
            status::OK
        },
    )?;
    linker.func_wrap("env", "proxy_continue_stream", |mut c: Caller<'_, Host>, kind: u32| {
        let host = c.data_mut();
        let id = host.context();
        if kind > 1 {
            return status::BAD_ARGUMENT;
        }
        if let Some(stream) = host.stream() {
            // What goes on is what the map is now.
            let headers = stream.maps[REQUEST_HEADERS].take();
            host.deferred.push_back(Deferred::Resume { context: id, headers });
        }
        status::OK
    })?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |mut c: Caller<'_, Host>,
         code: u32,
         _details: u32,
         _details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         _grpc_status: u32| {
            let body = read(&mut c, body, body_size)?;
            let headers = read_map(&mut c, headers, headers_size)?;
            let host = c.data_mut();
            let context = host.context();
            if host.streams.contains_key(&context) {
                host.deferred.push_back(Deferred::Reply { context, code, headers, body });
            }
            Ok::<_, Error>(status::OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |mut c: Caller<'_, Host>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         _trailers: u32,
         _trailers_size: u32,
         _timeout: u32,
         token_at: u32| {
            let cluster = text(&mut c, cluster, cluster_size)?;
            let headers = read_map(&mut c, headers, headers_size)?;
            let body = read(&mut c, body, body_size)?;
            let host = c.data_mut();
            let errors = [status::BAD_ARGUMENT, status::INTERNAL_FAILURE];
            if let Some(error) = host.faults.any(&errors) {
                return Ok(error);
            }
            let named = |wanted: &str| headers.iter().any(|(name, _)| name == wanted);
            if ![":method", ":path", ":authority"].into_iter().all(named) {
                return Ok(status::BAD_ARGUMENT);
            }
            let (token, root) = (host.issue(), host.root());
            host.calls.insert(token, Call { root, cluster, headers, body });
            write_u32(&mut c, token_at, token)
        },
    )?;
    Ok(())
}

/// Metrics, of which only the names matter here.
pub fn metrics(linker: &mut Linker<Host>) -> Linked {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut c: Caller<'_, Host>, kind: u32, name: u32, size: u32, id_at: u32| {
            let name = text(&mut c, name, size)?;
            if kind > 2 {
                return Ok(status::BAD_ARGUMENT);
            }
            let metrics = &mut c.data_mut().metrics;
            metrics.push((kind, name));
            let id = u32::try_from(metrics.len()).map_err(|_| Error::new("too many"))?;
            write_u32(&mut c, id_at, id)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_increment_metric",
        |c: Caller<'_, Host>, id: u32, offset: i64| match metric(&c, id) {
            Some(0) if offset <= 0 => status::BAD_ARGUMENT,
            Some(2) => status::BAD_ARGUMENT,
            Some(_) => status::OK,
            None => status::NOT_FOUND,
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_record_metric",
        |c: Caller<'_, Host>, id: u32, _value: u64| match metric(&c, id) {
            Some(_) => status::OK,
            None => status::NOT_FOUND,
        },
    )?;
    Ok(())
}

/// The kind of a metric.
fn metric(c: &Caller<'_, Host>, id: u32) -> Option<u32> {
    let index = usize::try_from(id.checked_sub(1)?).ok()?;
    c.data().metrics.get(index).map(|(kind, _)| *kind)
}

/// The clocks, randomness, an empty environment, and standard error as a part of the log.
pub fn wasi(linker: &mut Linker<Host>) -> Linked {
    const WASI: &str = "wasi_snapshot_preview1";
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut c: Caller<'_, Host>, clock: u32, _precision: u64, at: u32| {
            let host = c.data();
            let now = if clock == 0 { host.wall } else { host.monotonic };
            write(&mut c, at, &now.to_le_bytes())
        },
    )?;
    linker.func_wrap(WASI, "random_get", |mut c: Caller<'_, Host>, at: u32, size: u32| {
        let bytes: Vec<u8> = (0..size).map(|_| c.data_mut().faults.byte()).collect();
        write(&mut c, at, &bytes)
    })?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut c: Caller<'_, Host>, count_at: u32, size_at: u32| {
            write_u32(&mut c, count_at, 0)?;
            write_u32(&mut c, size_at, 0)
        },
    )?;
    linker.func_wrap(WASI, "environ_get", |_: Caller<'_, Host>, _: u32, _: u32| 0_u32)?;
    linker.func_wrap(
        WASI,
        "fd_write",
        |mut c: Caller<'_, Host>, fd: u32, parts: u32, count: u32, written_at: u32| {
            let list = read(&mut c, parts, count.saturating_mul(8))?;
            let mut written = Vec::new();
            for part in list.as_chunks::<4>().0.as_chunks::<2>().0 {
                let [start, size] = part.map(u32::from_le_bytes);
                written.extend(read(&mut c, start, size)?);
            }
            let message = format!("fd {fd}: {}", String::from_utf8_lossy(&written));
            c.data_mut().log.push(message);
            write_u32(&mut c, written_at, u32::try_from(written.len()).unwrap_or(u32::MAX))
        },
    )?;
    linker.func_wrap(WASI, "proc_exit", |_: Caller<'_, Host>, code: u32| {
        Err::<(), _>(Error::new(format!("the module ended itself with {code}")))
    })?;
    Ok(())
}
