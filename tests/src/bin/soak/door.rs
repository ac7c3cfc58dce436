//! Ports that stay ours while nobody listens on them, and the door to the provider, on one of them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// A port that belongs to this process for as long as this lives. Connections to it are refused unless
/// somebody listens there, which with `SO_REUSEPORT` any process of this user can. Without that, the
/// port of an Envoy that was killed could be another connection's by the time of the next.
#[derive(Debug)]
pub struct HeldPort {
    _socket: TcpSocket,
    address: SocketAddr,
}

impl HeldPort {
    /// A port of 127.0.0.1.
    pub fn take() -> Result<Self> {
        let socket = shared(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?;
        Ok(Self { _socket: socket, address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&self) -> Result<TcpListener> {
        Ok(shared(self.address)?.listen(1024)?)
    }
}

fn shared(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Where the refresher finds the provider, and where it does not while the door is closed. The API
/// has none: Envoy goes there directly.
#[derive(Debug)]
pub struct Door {
    port: HeldPort,
    accepting: Option<JoinHandle<()>>,
}

impl Door {
    /// A closed door.
    pub fn new() -> Result<Self> {
        Ok(Self { port: HeldPort::take()?, accepting: None })
    }

    /// The provider's address as the refresher is to know it.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// From now on, connections go to the provider.
    pub fn open(&mut self, provider: SocketAddr) -> Result<()> {
        let listener = self.port.listen()?;
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, provider));
            }
        }));
        Ok(())
    }

    /// From now on, connections are refused. Those that are open end in their own time: what the
    /// provider has answered arrives.
    pub async fn close(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Only then is the port closed. That it was aborted is no news.
            let _ = accepting.await;
        }
    }
}

async fn pass(mut client: TcpStream, provider: SocketAddr) {
    if let Ok(mut server) = TcpStream::connect(provider).await {
        // However it ends, both ends see it.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
