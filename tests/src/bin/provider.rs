//! The simulated provider for a network of containers: the simulator, behind TLS, under a name. The
//! refresher and Envoy speak plain HTTP on loopback only, and across hosts they should not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use simulator::{Options, Simulator};
use tests::unix_request;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be the provider; prints a line when it is ready
    Serve {
        /// What the others call it: the issuer, and the base of the API
        #[arg(long)]
        url: String,
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
        /// Its certificate, PEM
        #[arg(long)]
        certificate: PathBuf,
        /// The key of that, PEM
        #[arg(long)]
        key: PathBuf,
        /// Life of an access token, in seconds
        #[arg(long)]
        token_life: u64,
    },
    /// Ask a server on a unix socket, and print its answer's body
    Ask {
        /// The socket
        socket: PathBuf,
        /// The method
        method: String,
        /// Path and query
        target: String,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve { url, listen, certificate, key, token_life } => {
            let options = Options {
                url: Some(url),
                approve_device: true,
                device_interval: 0,
                token_life,
                ..Options::default()
            };
            let simulator = Simulator::start(options).await?;
            let acceptor = acceptor(&certificate, &key)?;
            let listener = TcpListener::bind(listen).await?;
            println!("listening on {listen} as {}", simulator.url());
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(relay(stream, acceptor.clone(), simulator.address()));
            }
        }
        Command::Ask { socket, method, target } => {
            print!("{}", unix_request(&socket, &method, &target, "").await?.body);
            Ok(())
        }
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| certificate.display().to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Passes what comes over TLS on to the simulator, and back.
async fn relay(stream: TcpStream, acceptor: TlsAcceptor, simulator: SocketAddr) {
    let _ = stream.set_nodelay(true);
    if let (Ok(mut client), Ok(mut server)) =
        (acceptor.accept(stream).await, TcpStream::connect(simulator).await)
    {
        let _ = server.set_nodelay(true);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
