//! The module's memory: reading what it points at, and handing things over.

use wasmi::{Caller, Error};

use super::host::{Headers, Host, status};

pub fn read(caller: &mut Caller<'_, Host>, start: u32, size: u32) -> Result<Vec<u8>, Error> {
    let memory = caller.data().memory.ok_or_else(|| Error::new("no memory"))?;
    let mut bytes = vec![0; size as usize];
    memory.read(&*caller, start as usize, &mut bytes).map_err(|_| Error::new("out of bounds"))?;
    Ok(bytes)
}

pub fn text(caller: &mut Caller<'_, Host>, start: u32, size: u32) -> Result<String, Error> {
    String::from_utf8(read(caller, start, size)?).map_err(|_| Error::new("not UTF-8"))
}

pub fn write(caller: &mut Caller<'_, Host>, at: u32, bytes: &[u8]) -> Result<u32, Error> {
    let memory = caller.data().memory.ok_or_else(|| Error::new("no memory"))?;
    memory.write(caller, at as usize, bytes).map_err(|_| Error::new("out of bounds"))?;
    Ok(status::OK)
}

pub fn write_u32(caller: &mut Caller<'_, Host>, at: u32, number: u32) -> Result<u32, Error> {
    write(caller, at, &number.to_le_bytes())
}

/// Hands bytes over in memory that the module allocates; for no bytes, none.
pub fn give(
    caller: &mut Caller<'_, Host>,
    bytes: &[u8],
    at: u32,
    size_at: u32,
) -> Result<u32, Error> {
    let size = u32::try_from(bytes.len()).map_err(|_| Error::new("too much"))?;
    let start = if size == 0 {
        0
    } else {
        let allocate = caller.data().allocate.ok_or_else(|| Error::new("no allocator"))?;
        caller.data_mut().asked[1] += 1;
        allocate.call(&mut *caller, size)?
    };
    write(caller, start, bytes)?;
    write_u32(caller, at, start)?;
    write_u32(caller, size_at, size)
}

/// Names and values, as `proxy_get_header_map_pairs` has them.
pub fn serialized(headers: &Headers) -> Vec<u8> {
    let mut bytes = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b"\0", value, b"\0"].concat());
    }
    bytes
}

fn deserialized(bytes: &[u8]) -> Option<Headers> {
    let number =
        |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = if bytes.is_empty() { 0 } else { number(0)? };
    let mut at = 4 + count * 8;
    let mut take = |size: usize| {
        let part = bytes.get(at..at + size);
        at += size + 1;
        part
    };
    (0..count)
        .map(|index| {
            let name = take(number(4 + index * 8)?)?.to_vec();
            let value = take(number(8 + index * 8)?)?.to_vec();
            Some((String::from_utf8(name).ok()?, value))
        })
        .collect()
}

pub fn read_map(caller: &mut Caller<'_, Host>, start: u32, size: u32) -> Result<Headers, Error> {
    deserialized(&read(caller, start, size)?).ok_or_else(|| Error::new("not a header map"))
}
