//! What streams cost: events per second when the API sends as fast as it can, and how much later an
//! event arrives when it does not.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::request;
use crate::numbers::{Spread, percentile};
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// What is compared; the first is what the others are compared with.
const KINDS: [Kind; 4] = [Kind::Bare, Kind::Empty, Kind::TwoPlaces, Kind::WithUsage];

/// Streams at the same time, the events that each has when all are sent as fast as they can be, and
/// when they are paced, and the pause between two of these.
const LOADS: [(usize, u64, u64, Duration); 3] = [
    (1, 20_000, 300, Duration::from_millis(2)),
    (100, 400, 60, Duration::from_millis(20)),
    (1000, 40, 6, Duration::from_millis(200)),
];

/// A variant with so many streams.
pub struct Row {
    /// The variant.
    pub kind: Kind,
    /// At the same time.
    pub streams: usize,
    events_per_s: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Measures all.
pub async fn measure(
    dir: &Path,
    socket: &Path,
    access_token: &str,
    rounds: usize,
) -> Result<Vec<Row>> {
    let upstream = Upstream::start(None).await?;
    let url = upstream.url()?;
    let setting =
        Setting { dir, socket, upstream: url, trusted_ca: None, access_token, workers: 1 };
    let mut variants = Vec::new();
    for kind in KINDS {
        variants.push(Variant::start(kind, &setting).await?);
    }
    let mut rows = Vec::new();
    for (streams, fast, paced, gap) in LOADS {
        eprintln!("measuring streams: {streams}");
        let row = |kind| Row {
            kind,
            streams,
            events_per_s: Vec::new(),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
        };
        let mut measured = KINDS.map(row);
        for round in 0..=rounds {
            for (variant, row) in variants.iter().zip(&mut measured) {
                let rate = read(&upstream, variant.address, streams, fast, Duration::ZERO).await?;
                let late = read(&upstream, variant.address, streams, paced, gap).await?;
                // The first warms up.
                if round > 0 {
                    row.events_per_s.push(rate.events_per_s());
                    row.p50_us.push(percentile(&late.delays_us, 0.5));
                    row.p99_us.push(percentile(&late.delays_us, 0.99));
                }
            }
        }
        rows.extend(measured);
    }
    Ok(rows)
}

/// What all streams together brought.
struct Read {
    time: Duration,
    /// Sorted.
    delays_us: Vec<f64>,
}

impl Read {
    fn events_per_s(&self) -> f64 {
        self.delays_us.len() as f64 / self.time.as_secs_f64()
    }
}

async fn read(
    upstream: &Upstream,
    address: SocketAddr,
    streams: usize,
    events: u64,
    gap: Duration,
) -> Result<Read> {
    let mut clients = JoinSet::new();
    let gap_us = gap.as_micros();
    let target = format!("/v1/stream?events={events}&gap_us={gap_us}&streams={streams}");
    // The clock of the events, on a watch that can be taken along.
    let (watch, ahead) = (Stopwatch::start(), upstream.now());
    for _ in 0..streams {
        clients.spawn(one(address, target.clone(), watch, ahead));
    }
    let (mut first, mut last, mut delays_us) = (Duration::MAX, Duration::ZERO, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (begin, end, delays) = client??;
        ensure!(delays.len() as u64 == events, "{} of {events} events", delays.len());
        (first, last) = (first.min(begin), last.max(end));
        delays_us.extend(delays);
    }
    delays_us.sort_by(f64::total_cmp);
    Ok(Read { time: last.saturating_sub(first), delays_us })
}

/// Reads one stream: when its first event was made, when its last arrived, how late each was.
async fn one(
    address: SocketAddr,
    target: String,
    watch: Stopwatch,
    ahead: Duration,
) -> Result<(Duration, Duration, Vec<f64>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request(address, "GET", &target, "")).await?;
    let (mut bytes, mut delays) = (Vec::with_capacity(1 << 16), Vec::new());
    let mut first = None;
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the stream was cut");
        let now = watch.elapsed() + ahead;
        let mut done = 0;
        while let Some(end) = find(bytes.get(done..).unwrap_or_default(), b"\n\n") {
            let event = bytes.get(done..done + end).unwrap_or_default();
            done += end + 2;
            if let Some(at) = find(event, b"\"at\":") {
                let digits = event.get(at + 5..at + 20).context("a time")?;
                let made = Duration::from_nanos(str::from_utf8(digits)?.parse()?);
                first.get_or_insert(made);
                delays.push(now.saturating_sub(made).as_secs_f64() * 1e6);
            } else if find(event, b"data: [DONE]").is_some() {
                return Ok((first.context("no event")?, now, delays));
            }
        }
        bytes.drain(..done);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

impl Row {
    /// Events per second, compared with another's round by round.
    pub fn events_over(&self, other: &Self) -> Spread {
        let pairs = self.events_per_s.iter().zip(&other.events_per_s);
        Spread::of(pairs.map(|(own, other)| own / other))
    }

    /// Events per second.
    pub fn events_per_s(&self) -> Spread {
        Spread::of(self.events_per_s.iter().copied())
    }

    /// For the report. `bare` is what the delay is compared with.
    pub fn json(&self, bare: &Self) -> Value {
        let added = |own: &[f64], other: &[f64]| {
            Spread::of(own.iter().zip(other).map(|(own, other)| own - other)).json()
        };
        json!({
            "name": self.kind.name(),
            "streams": self.streams,
            "events_per_s": self.events_per_s().json(),
            "delay_p50_us": Spread::of(self.p50_us.iter().copied()).json(),
            "delay_p99_us": Spread::of(self.p99_us.iter().copied()).json(),
            "added_p50_us": added(&self.p50_us, &bare.p50_us),
            "added_p99_us": added(&self.p99_us, &bare.p99_us),
        })
    }
}
