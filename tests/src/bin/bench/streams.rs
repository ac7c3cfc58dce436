//! What streams cost: events per second, and how much later an event arrives.
//!
//! A stream carries one event at a time, as a model makes them: the API sends the next when the
//! client has had the one before. If it sent as fast as it can, a proxy would read many at once, and
//! the API's writing would be measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cores;
use crate::load::request;
use crate::numbers::{Spread, percentile};
use crate::variant::{Kind, Setting, Variant};

/// What is compared; the first is what the others are compared with.
pub const KINDS: [Kind; 4] = [Kind::Bare, Kind::Empty, Kind::TwoPlaces, Kind::WithUsage];

/// Streams at the same time.
pub const STREAMS: [usize; 3] = [1, 100, 1000];

/// How often each is measured, in turns, and once more before.
const ROUNDS: u32 = 5;

/// For how long events follow each other at once.
const FAST: Duration = Duration::from_millis(700);

/// For how long they come at their pace.
const PACED: Duration = Duration::from_millis(1000);

/// The pause between two of them, over all streams.
const PACE: Duration = Duration::from_millis(1);

/// How long the opening of a stream may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What the client asks for.
const QUESTION: &str =
    r#"{"model":"grok-4","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    transfer-encoding: chunked\r\nconnection: close\r\n\r\n";

/// One event of a chat completion.
const EVENT: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1779000000,"model":"grok-4","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":" word"},"logprobs":null,"finish_reason":null}]}"#;

/// The last two, with what the answer has cost.
const USAGE: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1779000000,"model":"grok-4","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":10,"total_tokens":21}}"#;
const DONE: &str = "data: [DONE]";

/// About how long it takes to measure all.
pub fn duration() -> Duration {
    let opening = |streams: usize| Duration::from_micros(700) * u32::try_from(streams).unwrap_or(0);
    let once: Duration = STREAMS.into_iter().map(|streams| opening(streams) + FAST + PACED).sum();
    KINDS.map(|_| once * (1 + ROUNDS)).into_iter().sum()
}

/// A variant with so many streams.
pub struct Row {
    /// The variant.
    pub kind: Kind,
    /// At the same time.
    pub streams: usize,
    rounds: Vec<Round>,
}

struct Round {
    events_per_s: f64,
    cpu_us: f64,
    proxy_share: f64,
    load_share: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Measures all. The API is this function's, whatever the setting says.
pub async fn measure(setting: &Setting<'_>) -> Result<Vec<Row>> {
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let upstream = format!("http://{}", api.local_addr()?).parse()?;
    let setting = Setting { upstream, trusted_ca: None, ..setting.clone() };
    let mut variants = Vec::new();
    for kind in KINDS {
        variants.push(Variant::start(kind, &setting).await?);
    }
    let mut rows = Vec::new();
    for streams in STREAMS {
        eprintln!("measuring streams: {streams}");
        let mut measured = KINDS.map(|kind| Row { kind, streams, rounds: Vec::new() });
        for number in 0..=ROUNDS {
            for (variant, row) in variants.iter().zip(&mut measured) {
                let round = round(&api, variant, streams).await?;
                // The first warms up.
                if number > 0 {
                    row.rounds.push(round);
                }
            }
        }
        rows.extend(measured);
    }
    Ok(rows)
}

async fn round(api: &TcpListener, variant: &Variant, count: usize) -> Result<Round> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = timeout(LIMIT, Stream::open(api, variant.address)).await;
        streams.push(opened.context("a stream does not open")??);
    }
    let (watch, before, own_before) = (Stopwatch::start(), variant.time()?, cores::own_time()?);
    let (streams, fast) = all(streams, |stream, _| stream.fast()).await?;
    let elapsed = watch.elapsed().as_secs_f64();
    let (cpu, own) = (variant.time()? - before, cores::own_time()? - own_before);
    let events: f64 = fast.into_iter().sum();

    let gap = PACE * u32::try_from(count)?;
    let (streams, late) =
        all(streams, move |stream, number| stream.paced(PACE * number, gap)).await?;
    let mut delays: Vec<f64> = late.into_iter().flatten().collect();
    delays.sort_by(f64::total_cmp);
    all(streams, |stream, _| stream.close()).await?;
    Ok(Round {
        events_per_s: events / elapsed,
        cpu_us: cpu.as_secs_f64() * 1e6 / events,
        proxy_share: cpu.as_secs_f64() / elapsed,
        load_share: own.as_secs_f64() / elapsed,
        p50_us: percentile(&delays, 0.5),
        p99_us: percentile(&delays, 0.99),
    })
}

/// Has all streams do something at the same time.
async fn all<T: Send + 'static, F>(
    streams: Vec<Stream>,
    work: impl Fn(Stream, u32) -> F,
) -> Result<(Vec<Stream>, Vec<T>)>
where
    F: Future<Output = Result<(Stream, T)>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (stream, number) in streams.into_iter().zip(0..) {
        running.spawn(work(stream, number));
    }
    Ok(running.join_all().await.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip())
}

/// A stream, with its two ends: one task has both, so that an event costs the load a write and a
/// read, and no more.
struct Stream {
    client: TcpStream,
    api: TcpStream,
    received: Vec<u8>,
    event: Vec<u8>,
}

impl Stream {
    /// Asks for a stream. Streams are opened one by one, so the next connection to the API is its.
    async fn open(api: &TcpListener, address: SocketAddr) -> Result<Self> {
        let mut client = TcpStream::connect(address).await?;
        client.set_nodelay(true)?;
        client.write_all(&request(address, "POST", "/v1/chat/completions", QUESTION)).await?;
        let (mut api, _) = api.accept().await?;
        api.set_nodelay(true)?;
        let mut asked = Vec::with_capacity(4096);
        while !asked.ends_with(QUESTION.as_bytes()) {
            ensure!(api.read_buf(&mut asked).await? > 0, "a request was cut");
        }
        api.write_all(HEAD).await?;
        let mut stream =
            Self { client, api, received: Vec::with_capacity(4096), event: chunk(EVENT) };
        stream.receive(b"\r\n\r\n").await?;
        Ok(stream)
    }

    /// Reads until this has come.
    async fn receive(&mut self, end: &[u8]) -> Result<()> {
        self.received.clear();
        while !self.received.windows(end.len()).any(|window| window == end) {
            let size = self.client.read_buf(&mut self.received).await?;
            ensure!(size > 0, "a stream was cut: {}", String::from_utf8_lossy(&self.received));
        }
        Ok(())
    }

    async fn pass_event(&mut self) -> Result<()> {
        self.api.write_all(&self.event).await?;
        self.receive(b"\n\n").await
    }

    /// One event after the other; gives how many there were.
    async fn fast(mut self) -> Result<(Self, f64)> {
        let (watch, mut events) = (Stopwatch::start(), 0_u32);
        while watch.elapsed() < FAST {
            self.pass_event().await?;
            events += 1;
        }
        Ok((self, events.into()))
    }

    /// An event after each gap; gives how long each took, in microseconds.
    async fn paced(mut self, first: Duration, gap: Duration) -> Result<(Self, Vec<f64>)> {
        let (watch, mut delays) = (Stopwatch::start(), Vec::new());
        tokio::time::sleep(first).await;
        let mut pace = tokio::time::interval(gap);
        loop {
            pace.tick().await;
            if watch.elapsed() >= PACED {
                return Ok((self, delays));
            }
            let begin = watch.elapsed();
            self.pass_event().await?;
            delays.push((watch.elapsed() - begin).as_secs_f64() * 1e6);
        }
    }

    /// Its end, which has to be whole.
    async fn close(mut self) -> Result<(Self, ())> {
        let end = [chunk(USAGE), chunk(DONE), b"0\r\n\r\n".to_vec()].concat();
        self.api.write_all(&end).await?;
        self.receive(b"\r\n0\r\n\r\n").await?;
        Ok((self, ()))
    }
}

/// An event in a chunk of its own.
fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2).into_bytes()
}

impl Row {
    fn spread(&self, of: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of))
    }

    fn against(&self, other: &Self, of: fn(&Round) -> f64, how: fn(f64, f64) -> f64) -> Spread {
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(own, other)| how(of(own), of(other))))
    }

    /// Events per second, compared with another's round by round.
    pub fn events_over(&self, other: &Self) -> Spread {
        self.against(other, |round| round.events_per_s, |own, other| own / other)
    }

    /// Events per second.
    pub fn events_per_s(&self) -> Spread {
        self.spread(|round| round.events_per_s)
    }

    /// Microseconds on the processor for one event.
    pub fn cpu_us(&self) -> Spread {
        self.spread(|round| round.cpu_us)
    }

    /// How long half of the events took, in microseconds.
    pub fn p50_us(&self) -> Spread {
        self.spread(|round| round.p50_us)
    }

    /// How long one in a hundred took at least, in microseconds.
    pub fn p99_us(&self) -> Spread {
        self.spread(|round| round.p99_us)
    }

    /// Which part of its core the load took, the API included.
    pub fn load_share(&self) -> Spread {
        self.spread(|round| round.load_share)
    }

    /// For the report. `bare` is what the delay is compared with.
    pub fn json(&self, bare: &Self) -> Value {
        json!({
            "name": self.kind.name(),
            "streams": self.streams,
            "rounds": self.rounds.len(),
            "events_per_s": self.events_per_s().json(),
            "cpu_us_per_event": self.cpu_us().json(),
            "delay_p50_us": self.p50_us().json(),
            "delay_p99_us": self.p99_us().json(),
            "added_p50_us": self.against(bare, |round| round.p50_us, |own, bare| own - bare).json(),
            "added_p99_us": self.against(bare, |round| round.p99_us, |own, bare| own - bare).json(),
            "proxy_core_share": self.spread(|round| round.proxy_share).json(),
            "load_core_share": self.load_share().json(),
        })
    }
}
