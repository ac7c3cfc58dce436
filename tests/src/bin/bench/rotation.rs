//! How soon a token is used: from its publication until no worker uses the one before, and how long
//! requests take that a refused token meets.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Plan, Publisher, Stack, Stopwatch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::request;
use crate::numbers::{Spread, percentile};
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// Envoy's workers.
const WORKERS: [u16; 3] = [1, 4, 16];

/// Rotations for each number of workers.
const ROTATIONS: u32 = 100;

/// Connections to each worker, and how often each sends a request. They set how fine the measure is:
/// one or four workers are asked each millisecond on average, sixteen each four, since two cores
/// bear no more than some 4,000 requests a second beside the rotation.
const CONNECTIONS: u16 = 4;
fn pace(workers: u16) -> Duration {
    Duration::from_millis(4) * u32::from(workers.div_ceil(4))
}

/// How long a rotation is watched.
const WATCHED: Duration = Duration::from_millis(60);

/// Requests that meet a refused token.
pub const REJECTED: usize = 2000;

/// How often that is measured.
const STORMS: u32 = 3;

/// The times of one number of workers, in milliseconds, sorted.
pub struct Row {
    /// Envoy's workers.
    pub workers: u16,
    times_ms: Vec<f64>,
}

impl Row {
    /// One rotation in a hundred took longer, in milliseconds.
    pub fn p99_ms(&self) -> f64 {
        percentile(&self.times_ms, 0.99)
    }

    /// For the report.
    pub fn json(&self) -> Value {
        json!({
            "workers": self.workers,
            "asked_each_ms": (pace(self.workers) / u32::from(CONNECTIONS)).as_millis(),
            "rotations": self.times_ms.len(),
            "p50_ms": percentile(&self.times_ms, 0.5),
            "p99_ms": self.p99_ms(),
            "max_ms": percentile(&self.times_ms, 1.0),
        })
    }
}

/// About how long it takes to measure all rotations.
pub fn duration() -> Duration {
    let start = Duration::from_secs(2);
    WORKERS.map(|_| start + WATCHED * ROTATIONS).into_iter().sum()
}

/// Measures rotations.
pub async fn measure(dir: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for workers in WORKERS {
        eprintln!("measuring rotations: {workers} workers");
        rows.push(rotate(dir, workers).await?);
    }
    Ok(rows)
}

async fn rotate(dir: &Path, workers: u16) -> Result<Row> {
    let upstream = Upstream::start(None).await?;
    let socket = dir.join(format!("publisher-{workers}.sock"));
    let publisher = Publisher::start(&socket)?;
    publisher.publish("token-first", &[]);
    let url = upstream.url()?;
    let setting = Setting {
        dir,
        socket: &socket,
        refresher: None,
        upstream: url,
        trusted_ca: None,
        access_token: "",
        workers,
    };
    let variant = Variant::start(Kind::TwoPlaces, &setting).await?;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS * workers {
        clients.spawn(ask(variant.address, pace(workers)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut times_ms = Vec::new();
    for number in 0..ROTATIONS {
        let token = format!("token-{number}");
        upstream.expect(&token);
        let published = upstream.now();
        publisher.publish(&token, &[]);
        tokio::time::sleep(WATCHED).await;
        let (last_other, requests) = upstream.last_other();
        ensure!(requests > 0, "nothing was asked");
        let late = last_other.map_or(Duration::ZERO, |at| at.saturating_sub(published));
        times_ms.push(late.as_secs_f64() * 1e3);
    }
    // All would be none if they had failed.
    ensure!(clients.try_join_next().is_none(), "a client has ended");
    times_ms.sort_by(f64::total_cmp);
    Ok(Row { workers, times_ms })
}

/// Asks again and again, on one connection.
async fn ask(address: std::net::SocketAddr, pace: Duration) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = request(address, "GET", "/v1/models", "");
    let mut pace = tokio::time::interval(pace);
    let mut answer = [0; 4096];
    loop {
        pace.tick().await;
        stream.write_all(&request).await?;
        let size = stream.read(&mut answer).await?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "an answer of {size} bytes");
    }
}

/// About how long the storms take.
pub fn duration_of_rejections() -> Duration {
    Duration::from_secs(4) * STORMS
}

/// Has so many requests meet a refused token at once; gives the seconds until all are answered.
pub async fn rejections() -> Result<Spread> {
    eprintln!("measuring {REJECTED} requests on a refused token");
    let mut times = Vec::new();
    for _ in 0..STORMS {
        let plan = Plan { log: "info", quiet: true, ..Plan::default() };
        times.push(storm(&Stack::start(plan).await?).await?.as_secs_f64());
    }
    Ok(Spread::of(times))
}

async fn storm(stack: &Stack) -> Result<Duration> {
    let url = stack.url("/v1/chat/completions");
    let post = || {
        let body = json!({"model": "grok-4", "messages": [{"role": "user", "content": "hello"}]});
        stack.client.post(&url).json(&body)
    };
    ensure!(post().send().await?.status() == 200, "the API does not answer");
    let refreshes = stack.provider().summary().refreshes;
    stack.provider().kill_access_token();
    let watch = Stopwatch::start();
    let mut requests = JoinSet::new();
    for _ in 0..REJECTED {
        requests.spawn(post().send());
    }
    while let Some(answer) = requests.join_next().await {
        let status = answer??.status();
        ensure!(status == 200, "{status}");
    }
    let time = watch.elapsed();
    let made = stack.provider().summary().refreshes - refreshes;
    ensure!(made == 1, "{made} refreshes instead of one");
    Ok(time)
}
