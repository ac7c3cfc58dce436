//! What a request costs in each variant: time on the processor, requests per second, latency, memory.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::load::{self, Protocol};
use crate::numbers::Spread;
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// How often each is measured, in turns, so that whatever else the machine does meets all alike.
pub const ROUNDS: usize = 5;

/// How long one measurement takes.
const TIME: Duration = Duration::from_millis(700);

/// Before the first: caches, connections to the API.
const WARM_UP: Duration = Duration::from_millis(700);

/// A variant under one load.
pub struct Row {
    /// The variant.
    pub kind: Kind,
    /// Whether the API speaks TLS.
    pub tls: bool,
    /// How the clients speak to the proxy.
    pub protocol: Protocol,
    /// At the same time.
    pub connections: usize,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    cpu_us: f64,
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    rss_kib: f64,
}

/// The load that the ratios are of.
pub const RATIOS: (bool, Protocol, usize) = (false, Protocol::Http1, 16);

/// Measures all variants, under all loads or, at a glance, under that of the ratios.
pub async fn measure(
    dir: &Path,
    socket: &Path,
    access_token: &str,
    glance: bool,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for tls in [false, true] {
        if glance && tls {
            break;
        }
        let upstream = Upstream::start(tls.then_some(dir)).await?;
        let setting = Setting {
            dir,
            socket,
            upstream: upstream.url()?,
            trusted_ca: upstream.certificate.as_deref(),
            access_token,
            workers: 1,
        };
        let mut variants = Vec::new();
        let others = [Kind::FastApi].into_iter().filter(|_| !tls);
        // The minimal proxy speaks no TLS.
        let envoys = Kind::ENVOYS.into_iter().filter(|kind| !(tls && *kind == Kind::Sidecar));
        for kind in envoys.chain(others) {
            variants.push(Variant::start(kind, &setting).await?);
        }
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for connections in [1, 16, 256] {
                if glance && (tls, protocol, connections) != RATIOS {
                    continue;
                }
                eprintln!(
                    "measuring requests: {} API, {}, {connections} connections",
                    if tls { "TLS" } else { "plain" },
                    protocol.name()
                );
                rows.extend(compare(&variants, tls, protocol, connections).await?);
            }
        }
    }
    Ok(rows)
}

async fn compare(
    variants: &[Variant],
    tls: bool,
    protocol: Protocol,
    connections: usize,
) -> Result<Vec<Row>> {
    // The one in Python speaks HTTP/1.1 only.
    let speaks = |kind| kind != Kind::FastApi || protocol == Protocol::Http1;
    let variants: Vec<_> = variants.iter().filter(|variant| speaks(variant.kind)).collect();
    let row = |variant: &&Variant| Row {
        kind: variant.kind,
        tls,
        protocol,
        connections,
        rounds: Vec::new(),
    };
    let mut rows: Vec<_> = variants.iter().map(row).collect();
    for variant in &variants {
        load::run(variant.address, protocol, connections, WARM_UP).await?;
    }
    for _ in 0..ROUNDS {
        for (variant, row) in variants.iter().zip(&mut rows) {
            row.rounds.push(round(variant, protocol, connections).await?);
        }
    }
    Ok(rows)
}

async fn round(variant: &Variant, protocol: Protocol, connections: usize) -> Result<Round> {
    let before = variant.cpu()?;
    let mut times = load::run(variant.address, protocol, connections, TIME).await?;
    let cpu = variant.cpu()? - before;
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(0.0, |ns| f64::from(*ns) / 1000.0)
    };
    let requests = times.len() as f64;
    Ok(Round {
        cpu_us: cpu.as_secs_f64() * 1e6 / requests,
        rps: requests / TIME.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        rss_kib: variant.resident_kib()? as f64,
    })
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

    /// Compares the time on the processor with another's, round by round.
    pub fn cpu_against(&self, other: &Self, how: fn(f64, f64) -> f64) -> Spread {
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(own, other)| how(own.cpu_us, other.cpu_us)))
    }

    /// For the report.
    pub fn json(&self) -> Value {
        json!({
            "name": self.kind.name(),
            "transport": format!(
                "{} to {}", self.protocol.name(), if self.tls { "TLS" } else { "plain HTTP/1.1" }
            ),
            "connections": self.connections,
            "cpu_us_per_request": self.cpu_us().json(),
            "rps": self.rps().json(),
            "p50_us": self.p50_us().json(),
            "p99_us": self.p99_us().json(),
            "rss_kib": self.spread(|round| round.rss_kib).json(),
        })
    }
}
