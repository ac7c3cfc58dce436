//! What a request costs in each variant: time on the processor, requests per second, latency, memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cores;
use crate::load::{self, Client, Protocol};
use crate::numbers::Spread;
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// What the variants are under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Whether the API speaks TLS.
    pub tls: bool,
    /// How the clients speak to the proxy.
    pub protocol: Protocol,
    /// At the same time.
    pub connections: usize,
}

/// The load that the ratios are of.
pub const RATIOS: Load = Load { tls: false, protocol: Protocol::Http1, connections: 16 };

/// Numbers of connections.
pub const CONNECTIONS: [usize; 3] = [1, 16, 256];

/// All loads.
pub fn loads() -> impl Iterator<Item = Load> {
    [false, true].into_iter().flat_map(|tls| {
        [Protocol::Http1, Protocol::Http2].into_iter().flat_map(move |protocol| {
            CONNECTIONS.map(|connections| Load { tls, protocol, connections })
        })
    })
}

/// Before the first round: caches, connections to the API.
const WARM_UP: Duration = Duration::from_millis(500);

impl Load {
    /// How often each variant is measured, in turns, so that whatever else the machine does meets
    /// all alike; and for how long.
    fn rounds(self) -> (u32, Duration) {
        if self == RATIOS {
            (15, Duration::from_millis(1000))
        } else {
            (5, Duration::from_millis(500))
        }
    }

    /// The one in Python speaks HTTP/1.1 only.
    fn kinds(self) -> impl Iterator<Item = Kind> {
        let speaks = move |kind: &Kind| *kind != Kind::FastApi || self.protocol == Protocol::Http1;
        Kind::ALL.into_iter().filter(speaks)
    }

    /// About how long all of it takes.
    fn duration(self) -> Duration {
        let (rounds, time) = self.rounds();
        self.kinds().map(|_| WARM_UP + time * rounds).sum()
    }

    /// Its name in the report, less the connections.
    pub fn transport(self) -> String {
        format!("{} to {}", self.protocol.name(), if self.tls { "TLS" } else { "plain HTTP/1.1" })
    }
}

/// About how long it takes to measure all loads or, at a glance, that of the ratios.
pub fn duration(glance: bool) -> Duration {
    if glance { RATIOS.duration() } else { loads().map(Load::duration).sum() }
}

/// A variant under one load.
pub struct Row {
    /// The variant.
    pub kind: Kind,
    /// The load.
    pub load: Load,
    rounds: Vec<Round>,
}

/// What one turn has told.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Microseconds on the processor for one request.
    pub cpu_us: f64,
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    rss_kib: f64,
    proxy_share: f64,
    load_share: f64,
}

/// Measures all variants, under all loads or, at a glance, under that of the ratios. The API is
/// this function's, whatever the setting says.
pub async fn measure(setting: &Setting<'_>, glance: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for tls in [false, true] {
        let loads: Vec<_> =
            loads().filter(|load| load.tls == tls && (!glance || *load == RATIOS)).collect();
        if loads.is_empty() {
            continue;
        }
        let upstream = Upstream::start(tls.then_some(setting.dir)).await?;
        upstream.expect(setting.access_token);
        let setting = Setting {
            upstream: upstream.url()?,
            trusted_ca: upstream.certificate.as_deref(),
            ..setting.clone()
        };
        let mut variants = Vec::new();
        for kind in Kind::ALL {
            variants.push(Variant::start(kind, &setting).await?);
        }
        for load in loads {
            eprintln!("measuring requests: {}, {} connections", load.transport(), load.connections);
            rows.extend(compare(&upstream, &variants, load).await?);
        }
    }
    Ok(rows)
}

async fn compare(upstream: &Upstream, variants: &[Variant], load: Load) -> Result<Vec<Row>> {
    let kinds: Vec<_> = load.kinds().collect();
    let mut turns = Vec::new();
    for variant in variants.iter().filter(|variant| kinds.contains(&variant.kind)) {
        upstream.forget();
        let clients = connect(variant, load).await?;
        load::run(clients, WARM_UP).await?;
        let (other, requests) = upstream.last_other();
        ensure!(requests > 0, "{}: nothing came to the API", variant.kind.name());
        ensure!(
            other.is_none() == variant.kind.puts_token_in(),
            "{}: does another job than it has to",
            variant.kind.name()
        );
        turns.push((variant, Row { kind: variant.kind, load, rounds: Vec::new() }));
    }
    let (rounds, time) = load.rounds();
    for _ in 0..rounds {
        for (variant, row) in &mut turns {
            row.rounds.push(round(variant, load, time).await?);
        }
        // Each comes after each.
        turns.rotate_left(1);
    }
    let mut rows: Vec<_> = turns.into_iter().map(|(_, row)| row).collect();
    rows.sort_by_key(|row| kinds.iter().position(|kind| *kind == row.kind));
    Ok(rows)
}

async fn connect(variant: &Variant, load: Load) -> Result<Vec<Client>> {
    load::connect(variant.address, load.protocol, load.connections).await
}

/// One turn of a variant.
pub async fn round(variant: &Variant, load: Load, time: Duration) -> Result<Round> {
    let clients = connect(variant, load).await?;
    let (before, own_before) = (variant.time()?, cores::own_time()?);
    let outcome = load::run(clients, time).await?;
    let (cpu, own) = (variant.time()? - before, cores::own_time()? - own_before);
    let at = |share: f64| {
        let last = outcome.times.len().saturating_sub(1);
        let place = ((outcome.times.len() as f64 * share) as usize).min(last);
        outcome.times.get(place).map_or(0.0, |ns| f64::from(*ns) / 1000.0)
    };
    let (requests, elapsed) = (outcome.times.len() as f64, outcome.elapsed.as_secs_f64());
    let round = Round {
        cpu_us: cpu.as_secs_f64() * 1e6 / requests,
        rps: requests / elapsed,
        p50_us: at(0.5),
        p99_us: at(0.99),
        rss_kib: variant.resident_kib()? as f64,
        proxy_share: cpu.as_secs_f64() / elapsed,
        load_share: own.as_secs_f64() / elapsed,
    };
    drop(outcome.clients);
    Ok(round)
}

impl Row {
    fn spread(&self, of: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of))
    }

    /// Microseconds on the processor for one request.
    pub fn cpu_us(&self) -> Spread {
        self.spread(|round| round.cpu_us)
    }

    /// Requests per second.
    pub fn rps(&self) -> Spread {
        self.spread(|round| round.rps)
    }

    /// Half of the requests took longer, in microseconds.
    pub fn p50_us(&self) -> Spread {
        self.spread(|round| round.p50_us)
    }

    /// One in a hundred took longer, in microseconds.
    pub fn p99_us(&self) -> Spread {
        self.spread(|round| round.p99_us)
    }

    /// Which part of its core the load took, the API included.
    pub fn load_share(&self) -> Spread {
        self.spread(|round| round.load_share)
    }

    /// Compares the time on the processor with another's, round by round.
    pub fn cpu_against(&self, other: &Self, how: fn(f64, f64) -> f64) -> Spread {
        self.against(other, |round| round.cpu_us, how)
    }

    /// Requests per second compared with another's, round by round.
    pub fn rps_over(&self, other: &Self) -> Spread {
        self.against(other, |round| round.rps, |own, other| own / other)
    }

    /// How much more resident memory it has than another, in KiB, round by round.
    pub fn rss_above(&self, other: &Self) -> Spread {
        self.against(other, |round| round.rss_kib, |own, other| own - other)
    }

    fn against(&self, other: &Self, of: fn(&Round) -> f64, how: fn(f64, f64) -> f64) -> Spread {
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(own, other)| how(of(own), of(other))))
    }

    /// For the report.
    pub fn json(&self) -> Value {
        json!({
            "name": self.kind.name(),
            "transport": self.load.transport(),
            "connections": self.load.connections,
            "rounds": self.rounds.len(),
            "cpu_us_per_request": self.cpu_us().json(),
            "rps": self.rps().json(),
            "p50_us": self.p50_us().json(),
            "p99_us": self.p99_us().json(),
            "rss_kib": self.spread(|round| round.rss_kib).json(),
            "proxy_core_share": self.spread(|round| round.proxy_share).json(),
            "load_core_share": self.load_share().json(),
        })
    }
}
