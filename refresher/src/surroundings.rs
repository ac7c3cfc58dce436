//! Where the Envoy is that the refresher serves: its listener, and its admin interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::admin::Admin;
use crate::config::Config;

/// The admin socket of the shipped bootstrap, beside the refresher's.
const ADMIN_SOCKET: &str = "envoy-admin.sock";

/// Where Envoy is: as the settings say, until who starts it knows better.
#[derive(Clone, Debug)]
pub struct Surroundings(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    listener: SocketAddr,
    admin: Admin,
    settled: bool,
}

impl Surroundings {
    /// Where the settings say that Envoy is.
    pub fn of(config: &Config) -> Self {
        let listener = SocketAddr::new(config.listener.host, config.listener.port);
        let admin = admin_of(config);
        Self(Arc::new(Mutex::new(Places { listener, admin, settled: false })))
    }

    /// Envoy was started here.
    pub fn settle(&self, listener: SocketAddr, admin: &Path) {
        *self.lock() = Places { listener, admin: Admin::Socket(admin.to_owned()), settled: true };
    }

    /// Where Envoy's listener is reached from this machine.
    pub fn listener(&self) -> SocketAddr {
        reachable(self.lock().listener)
    }

    /// Where Envoy's admin interface is.
    pub fn admin(&self) -> Admin {
        self.lock().admin.clone()
    }

    /// Whether this process has started Envoy.
    pub fn settled(&self) -> bool {
        self.lock().settled
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // A change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The admin interface of an Envoy that `up` does not start.
pub fn admin_of(config: &Config) -> Admin {
    let beside = || config.socket.parent().unwrap_or(Path::new("")).join(ADMIN_SOCKET);
    config.envoy.admin.clone().unwrap_or_else(|| Admin::Socket(beside()))
}

/// Where to connect for a listener on every address.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
