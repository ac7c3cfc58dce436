//! Clients that go away, and clients that do not read.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use refresher::config::Proxy;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::process::Signal;
use tests::{Plan, Stack, allow_open_files, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connects, sends a request and leaves the answer where it is.
async fn asked(address: SocketAddr, request: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // As small as the system allows, so that what is not read stays in Envoy.
    set_socket_recv_buffer_size(&socket, 1024)?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// The same for many at once.
async fn many(count: usize, address: SocketAddr, request: &str) -> Result<Vec<TcpStream>> {
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let request = request.to_owned();
        asking.spawn(async move { asked(address, &request).await });
    }
    asking.join_all().await.into_iter().collect()
}

/// Reads that the answer is a 200, and no more of it.
async fn answered(stream: &mut TcpStream) -> Result<()> {
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    ensure!(head.ends_with(b"200"), "{}", String::from_utf8_lossy(&head));
    Ok(())
}

/// Waits until Envoy has so many requests under way.
async fn under_way(stack: &Stack, accepted: impl Fn(u64) -> bool) -> Result<()> {
    let stat = "http.proxy.downstream_rq_active";
    let reached = async || accepted(stack.stat(stat).await.ok()?).then_some(());
    eventually(PATIENCE, reached).await.with_context(|| format!("{stat} does not get there"))
}

fn without_trap(stack: &Stack) -> Result<()> {
    let log = stack.envoy()?.log();
    let trap = ["panicked", "Wasm VM failed", "wasm trap", "Uncaught RuntimeError"];
    ensure!(!trap.iter().any(|sign| log.contains(sign)), "the filter trapped");
    Ok(())
}

#[tokio::test]
async fn twenty_thousand_resets_during_a_callout_leave_no_trap_and_no_growth() -> Result<()> {
    const WAVE: usize = 500;
    const WAVES: usize = 40;
    const WAVES_A_REPORT: usize = 10;
    /// What allocators keep, with room. Were the state of each request left behind, it would be more.
    const GROWTH_KIB: u64 = 1792;
    allow_open_files(4 * WAVE as u64)?;
    let stack = Stack::start(Plan::default()).await?;
    let get = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let serves = async || {
        let answer = async || stack.client.get(stack.url("/v1/models")).send().await.ok();
        let served = eventually(PATIENCE, async || (answer().await?.status() == 200).then_some(()));
        served.await.context("it does not serve again")
    };
    let mut settled_kib = 0;
    for wave in 0..WAVES {
        if wave % WAVES_A_REPORT == 0 {
            stack.refresher()?.signal(Signal::CONT)?;
            serves().await?;
            // The report of the dead token is not answered as long as the refresher is stopped, and
            // every request waits for it, until it is given up.
            stack.refresher()?.signal(Signal::STOP)?;
            stack.provider().kill_access_token();
        }
        let streams = many(WAVE, stack.address, get).await?;
        under_way(&stack, |active| active >= WAVE as u64).await?;
        for stream in streams {
            set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        under_way(&stack, |active| active == 0).await?;
        if wave == WAVES / 4 {
            settled_kib = stack.envoy()?.resident_kib()?;
        }
    }
    let grown = stack.envoy()?.resident_kib()?.saturating_sub(settled_kib);
    println!("{grown} KiB more after {} resets", WAVE * WAVES * 3 / 4);
    assert!(grown < GROWTH_KIB, "Envoy grew by {grown} KiB");
    without_trap(&stack)?;
    stack.refresher()?.signal(Signal::CONT)?;
    serves().await?;
    assert_eq!(stack.provider().summary().spent_twice, 0);
    Ok(())
}

/// An API that answers every request with events that never end, as fast as they are taken.
async fn endless() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Ends when Envoy closes the connection.
            tokio::spawn(pour(stream));
        }
    });
    Ok(address)
}

async fn pour(mut stream: TcpStream) -> Result<()> {
    let mut request = [0; 16 << 10];
    let _ = stream.read(&mut request).await?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let event = format!("data: {}\n\n", "x".repeat(8 << 10));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    loop {
        stream.write_all(chunk.as_bytes()).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_thousand_stalled_readers_leave_memory_bounded() -> Result<()> {
    const READERS: usize = 1000;
    /// What one may hold in Envoy: the listener's buffer, the API's side's, which is as large here,
    /// and the connections themselves.
    const EACH_KIB: u64 = 256 + 256 + 64;
    // A stream has two connections, and this process has both outer ends.
    allow_open_files(4 * READERS as u64)?;
    let proxy = Proxy { buffer_bytes: 256 << 10, ..Proxy::default() };
    let mut stack = Stack::prepare(Plan { proxy, ..Plan::default() }).await?;
    stack.login().await?;
    stack.start_refresher().await?;
    let bootstrap = stack.bootstrap_for(&format!("http://{}", endless().await?))?;
    stack.start_envoy_with(&bootstrap).await?;
    let get = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let served = async || -> Result<()> { answered(&mut asked(stack.address, get).await?).await };
    served().await?;
    let before = stack.envoy()?.resident_kib()?;
    let mut streams = many(READERS, stack.address, get).await?;
    for stream in &mut streams {
        answered(stream).await?;
    }
    // All that goes in has gone in when nothing more does.
    let received = "cluster.upstream.upstream_cx_rx_bytes_total";
    let mut last = 0;
    let full = eventually(PATIENCE, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = stack.stat(received).await.ok()?;
        (std::mem::replace(&mut last, now) == now).then_some(())
    });
    full.await.context("Envoy goes on reading for clients that do not")?;
    let each = stack.envoy()?.resident_kib()?.saturating_sub(before) / READERS as u64;
    println!("{each} KiB for each stalled stream, {} MiB taken from the API", last >> 20);
    assert!(each < EACH_KIB, "{each} KiB for each stalled stream");
    // The others are served meanwhile, and nothing is left afterwards.
    served().await?;
    drop(streams);
    under_way(&stack, |active| active == 0).await?;
    without_trap(&stack)
}
