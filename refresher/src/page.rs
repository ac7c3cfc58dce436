//! The status page: what runs and how it stands, and a way to log in and to change client keys, in
//! a browser on this machine.
//!
//! It has a loopback port of its own, apart from the data path. Two things protect it. Any page that
//! the browser shows may send requests to it: [`guard`] refuses those of other origins. Any program
//! of this machine may connect to it, other users' too: [`access`] lets nobody see or change
//! anything without a session, which begins with a ticket from the refresher's own socket (0600).
//! What the port serves without one is the same to everybody, and tells nothing.
//!
//! The session is sent in a header and not in a cookie, because a cookie of `127.0.0.1` goes to
//! every port there, other users' programs included (RFC 6265, section 8.5).

pub mod access;
pub mod connection;
pub mod document;
pub mod guard;
pub mod logins;
pub mod qr;
pub mod routes;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::publish::server::Service;
use crate::secret::Secret;
use crate::up::port::TRIES;
use crate::{chain, clock};

/// The file in the state directory by which `refresher page` leads the browser here. It is private, and
/// removed when the ticket in it is used.
pub const FORWARDING: &str = "page.html";

/// Why there is no status page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No port is free.
    #[error(
        "no free port among {first} to {last} on 127.0.0.1 for the status page; choose another with status_page.port"
    )]
    NoPort {
        /// The first that was tried.
        first: u16,
        /// The last that was tried.
        last: u16,
    },
    /// The port cannot be listened on at all.
    #[error("the status page cannot listen on 127.0.0.1")]
    Listen(#[source] io::Error),
}

/// A status page that is served until this is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    door: access::Door,
    server: JoinHandle<()>,
}

/// Serves the status page on the first port that is free.
///
/// # Errors
///
/// See [`Error`].
pub async fn start(service: Service) -> Result<Page, Error> {
    let port = service.config.borrow().status_page.port;
    let listener = listen(port).await?;
    let address = listener.local_addr().map_err(Error::Listen)?;
    let door = service.door.clone();
    door.open(address);
    let router = routes::router(service, address.port());
    let server = tokio::spawn(connection::serve(listener, router));
    tracing::info!(%address, "the status page is served");
    Ok(Page { address, door, server })
}

/// The same, where it is no reason to stop that there is none: what the page is about goes on.
pub async fn start_or_warn(service: Service) -> Option<Page> {
    match start(service).await {
        Ok(page) => Some(page),
        Err(error) => {
            tracing::warn!(error = %chain::line(&error), "no status page");
            None
        }
    }
}

impl Page {
    /// What to tell the user about it, in one line. A terminal gets the address with a ticket, which
    /// is good for one use; a log must not, and gets the command that shows one.
    pub fn line(&self, terminal: bool) -> String {
        let address = self.address;
        match self.door.issue(clock::now()).filter(|_| terminal) {
            Some(invitation) => format!("status page: {}", invitation.url().expose()),
            None => format!("status page: http://{address}/ (\"refresher page\" opens it)"),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
        self.door.close();
    }
}

async fn listen(first: u16) -> Result<TcpListener, Error> {
    let last = if first == 0 { 0 } else { first.saturating_add(TRIES - 1) };
    for port in first..=last {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome.map_err(Error::Listen),
        }
    }
    Err(Error::NoPort { first, last })
}

/// A page that sends the browser on to an address, as HTML: the address is then in a private file,
/// and not among the arguments of a process.
pub fn forwarding(url: &Secret) -> Secret {
    let url = url.expose();
    Secret::new(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"referrer\" content=\"no-referrer\"><title>Torchbearer</title>\
         <meta http-equiv=\"refresh\" content=\"0; url={url}\">\
         <p><a href=\"{url}\">Open the status page</a></html>\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_leads_to_the_next_and_none_is_off_loopback() {
        let taken = listen(0).await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        let next = listen(address.port()).await.unwrap().local_addr().unwrap();
        assert!(next.port() > address.port() && next.ip().is_loopback(), "{next}");
    }
}
