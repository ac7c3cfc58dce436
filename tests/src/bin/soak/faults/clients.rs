//! Faults of clients: connections that are reset, and readers that are slow.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use serde_json::json;
use tests::Answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{Injection, PATIENCE};
use crate::allowance::Failure;
use crate::traffic::is_whole;

/// Connections that are reset amid a stream, and as many amid an upload.
const RESETS: u64 = 10;

/// Readers that are slow, and how: a little at a time, from a buffer that is small.
const SLOW_READERS: usize = 5;
const BUFFER_BYTES: usize = 8 << 10;
const BYTES_AT_ONCE: usize = 8 << 10;
const PAUSE: Duration = Duration::from_millis(50);

/// The pieces of a stream that is much larger than all buffers on its way.
const LONG: u64 = 4_000;

const DESTROYED: &str = "http.proxy.downstream_cx_destroy_remote_active_rq";
const PAUSED: &str = "cluster.upstream.upstream_flow_control_paused_reading_total";

impl Injection<'_> {
    /// Clients reset their connections amid a stream, and amid an upload.
    pub(super) async fn reset_connections(&mut self) -> Result<()> {
        let before = self.rig.stack.stat(DESTROYED).await?;
        let address = self.rig.stack.address;
        let mut resetting = JoinSet::new();
        for _ in 0..RESETS {
            let pause = Duration::from_millis(self.random.random_range(0..500));
            resetting.spawn(reset(address, stream_request(LONG, 10), pause, true));
            let pause = Duration::from_millis(self.random.random_range(100..500));
            let upload = format!(
                "POST /v1/body HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n{}",
                "x".repeat(100_000)
            );
            resetting.spawn(reset(address, upload, pause, false));
        }
        while let Some(done) = resetting.join_next().await {
            done??;
            self.recorder.ended(self.recorder.elapsed(), false, Ok(()));
        }
        self.counted_times(DESTROYED, before, 2 * RESETS).await
    }

    /// Clients read long streams so slowly that Envoy has to stop reading from the API.
    pub(super) async fn read_slowly(&mut self) -> Result<()> {
        let before = self.rig.stack.stat(PAUSED).await?;
        let (address, began) = (self.rig.stack.address, self.recorder.elapsed());
        let mut reading = JoinSet::new();
        for _ in 0..SLOW_READERS {
            reading.spawn(read_all_slowly(address));
        }
        while let Some(read) = reading.join_next().await {
            let result = read?.map_err(|error| (Failure::Cut, format!("a slow reader: {error:#}")));
            self.recorder.ended(began, true, result);
        }
        self.counted(PAUSED, before).await
    }
}

/// A request for a stream, on a connection that ends with it.
fn stream_request(pieces: u64, apart_ms: u64) -> String {
    let body = json!({
        "model": "grok-4", "stream": true, "x_chunks": pieces, "x_delay_ms": apart_ms,
        "messages": [{"role": "user", "content": "hello"}]
    })
    .to_string();
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request, and after a pause a reset; if it is `answered`, only once the answer has begun.
async fn reset(
    address: SocketAddr,
    request: String,
    pause: Duration,
    answered: bool,
) -> Result<()> {
    let mut client = TcpStream::connect(address).await?;
    client.write_all(request.as_bytes()).await?;
    if answered {
        let mut head = [0; 12];
        tokio::time::timeout(PATIENCE, client.read_exact(&mut head)).await??;
        ensure!(head.ends_with(b" 200"), "{}", String::from_utf8_lossy(&head));
    }
    tokio::time::sleep(pause).await;
    // Closing with a zero linger time sends a reset instead of an orderly end.
    Ok(set_socket_linger(&client, Some(Duration::ZERO))?)
}

async fn read_all_slowly(address: SocketAddr) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    set_socket_recv_buffer_size(&socket, BUFFER_BYTES)?;
    let mut client = socket.connect(address).await?;
    client.write_all(stream_request(LONG, 0).as_bytes()).await?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; BYTES_AT_ONCE]);
    loop {
        let read = tokio::time::timeout(PATIENCE, client.read(&mut piece)).await;
        match read.context("nothing more comes")?? {
            0 => break,
            read => bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let answer = Answer::parse(&bytes).context("the answer is not HTTP")?;
    if answer.status != 200 || !is_whole(&answer.body) {
        bail!("{} with {} bytes, not whole", answer.status, answer.body.len());
    }
    Ok(())
}
