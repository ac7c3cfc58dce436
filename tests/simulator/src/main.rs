//! The simulator as a program of its own.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use simulator::{Options, Simulator};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated OAuth provider and OpenAI-style API. Prints its address when it is ready.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Life of an access token, in seconds
    #[arg(long, default_value_t = Options::default().token_life)]
    token_life: u64,
    /// The one registered client
    #[arg(long, default_value_t = Options::default().client_id)]
    client_id: String,
    /// A registered redirect URI; may be repeated
    #[arg(long = "redirect-uri", default_values_t = Options::default().redirect_uris)]
    redirect_uris: Vec<String>,
    /// Approve device logins at once
    #[arg(long)]
    approve_device: bool,
    /// Approve authorization requests at once, without the consent page
    #[arg(long)]
    approve_consent: bool,
    /// Seconds between two polls of a device login
    #[arg(long, default_value_t = Options::default().device_interval)]
    device_interval: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let simulator = Simulator::start(Options {
        listen: arguments.listen,
        token_life: arguments.token_life,
        client_id: arguments.client_id,
        redirect_uris: arguments.redirect_uris,
        approve_device: arguments.approve_device,
        approve_consent: arguments.approve_consent,
        device_interval: arguments.device_interval,
        ..Options::default()
    })
    .await
    .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", simulator.url())?;
    stdout.flush()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
