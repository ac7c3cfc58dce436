//! The port that Envoy gets.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::Error;
use crate::config::Listener;

/// How many ports are tried, the configured one included.
pub const TRIES: u16 = 20;

/// The first free port from the configured one on, after `tried` if that turned out to be taken.
/// Port 0 lets the kernel choose.
///
/// # Errors
///
/// When none is free, or the address is not this machine's.
pub fn free(listener: Listener, tried: Option<u16>) -> Result<SocketAddr, Error> {
    let Listener { host, port } = listener;
    let last = if port == 0 { 0 } else { port.saturating_add(TRIES - 1) };
    let first = match tried {
        Some(tried) if port != 0 => tried.saturating_add(1),
        _ => port,
    };
    for port in first..=last {
        let address = SocketAddr::new(host, port);
        match TcpListener::bind(address).and_then(|listener| listener.local_addr()) {
            Ok(address) => return Ok(address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(source) => return Err(Error::Listen { address, source }),
        }
    }
    Err(Error::NoPort { first: port, last, host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_leads_to_the_next() {
        let host = "127.0.0.1".parse().unwrap();
        let taken = TcpListener::bind((host, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let next = free(Listener { host, port }, None).unwrap();
        assert!(next.port() > port && next.port() < port + TRIES);
        let after = free(Listener { host, port }, Some(next.port())).unwrap();
        assert!(after.port() > next.port());
        assert_ne!(free(Listener { host, port: 0 }, None).unwrap().port(), 0);
        let foreign = Listener { host: "192.0.2.1".parse().unwrap(), port: 1 };
        assert!(matches!(free(foreign, None), Err(Error::Listen { .. })));
    }
}
