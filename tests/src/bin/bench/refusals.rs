//! Whether the time of a refusal tells how a wrong key differs from a right one.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use statrs::stats_tests::Alternative;
use statrs::stats_tests::mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu};
use tests::{Plan, Stack, Stopwatch};

/// Refusals of each kind.
const REFUSALS: usize = 20_000;

/// Refusals before the first that counts.
const WARM_UP: usize = 1000;

/// Below this probability, chance is no explanation of a difference. Three pairs are compared, so
/// chance alone breaks the bound once in some 300 runs.
const SIGNIFICANT: f64 = 0.001;

const KEY: &str = "torchbearer-bench-key-0123456789";

/// Wrong keys, by how they differ from the right one.
const KINDS: [(&str, &str); 3] = [
    ("first byte", "Torchbearer-bench-key-0123456789"),
    ("last byte", "torchbearer-bench-key-0123456788"),
    ("length", "torchbearer-bench-key-012345678"),
];

/// The times of each kind, in nanoseconds.
pub struct Refusals([Vec<u64>; 3]);

/// About how long all refusals take.
pub fn duration() -> Duration {
    Duration::from_secs(15)
}

/// Sends them one after the other, the kinds mixed, so that whatever else the machine does meets
/// all alike.
pub async fn measure() -> Result<Refusals> {
    let others = ["bench-key-of-another-client-1", "bench-key-of-another-client-2"];
    let client_keys = vec![("one", others[0]), ("right", KEY), ("two", others[1])];
    let plan = Plan { client_keys, workers: 1, log: "info", quiet: true, ..Plan::default() };
    let stack = Stack::start(plan).await?;
    let address = stack.address;
    let times = tokio::task::spawn_blocking(move || refused(address)).await??;
    Ok(Refusals(times))
}

fn refused(address: SocketAddr) -> Result<[Vec<u64>; 3]> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = |key: &str| {
        format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n")
    };
    let requests = KINDS.map(|(_, key)| request(key));
    // Every refusal is the same, so the first tells how long all are.
    stream.write_all(requests.first().map(String::as_str).unwrap_or_default().as_bytes())?;
    let mut answer = vec![0; whole(&mut stream)?];
    let mut order: Vec<usize> = (0..KINDS.len()).cycle().take(KINDS.len() * REFUSALS).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(1));
    let warm_up = order.iter().copied().take(WARM_UP).collect::<Vec<_>>();
    let mut times: [Vec<u64>; 3] = std::array::from_fn(|_| Vec::with_capacity(REFUSALS));
    for (number, kind) in warm_up.into_iter().chain(order).enumerate() {
        let (Some(request), Some(times)) = (requests.get(kind), times.get_mut(kind)) else {
            continue;
        };
        let watch = Stopwatch::start();
        stream.write_all(request.as_bytes())?;
        stream.read_exact(&mut answer)?;
        let time = watch.elapsed();
        ensure!(answer.starts_with(b"HTTP/1.1 401"), "a wrong key was not refused");
        if number >= WARM_UP {
            times.push(u64::try_from(time.as_nanos())?);
        }
    }
    Ok(times)
}

/// Reads one answer; gives its length in bytes.
fn whole(stream: &mut TcpStream) -> Result<usize> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        answer.extend_from_slice(&byte);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("a refusal has a length")?.trim().parse()?;
    stream.read_exact(&mut vec![0; length])?;
    Ok(answer.len() + length)
}

impl Refusals {
    /// Each pair of kinds with the probability that chance alone makes such a difference.
    fn pairs(&self) -> Vec<(String, f64)> {
        let Self([first, last, length]) = self;
        let named = |at: usize| KINDS.get(at).map_or("", |(name, _)| name);
        [(0, first, 1, last), (0, first, 2, length), (1, last, 2, length)]
            .into_iter()
            .map(|(a, one, b, other)| {
                (format!("{}, {}", named(a), named(b)), probability(one, other))
            })
            .collect()
    }

    /// The bounds that do not hold.
    pub fn broken(&self) -> Vec<String> {
        let tells = self.pairs().into_iter().filter(|(_, p)| *p < SIGNIFICANT);
        let say = |(pair, p)| format!("refusals differ in time: {pair}: p = {p:.5}");
        tells.map(say).collect()
    }

    /// For the report.
    pub fn json(&self) -> Value {
        let rows = KINDS.iter().zip(&self.0).map(|((name, _), times)| {
            let [p25, p50, p75] = quartiles(times);
            json!({"wrong": name, "count": times.len(), "p25_us": p25, "p50_us": p50, "p75_us": p75})
        });
        let tests = self.pairs().into_iter().map(|(pair, p)| json!({"pair": pair, "p": p}));
        json!({"rows": rows.collect::<Vec<_>>(), "mann_whitney": tests.collect::<Vec<_>>()})
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{REFUSALS} refusals of each wrong key, in µs (quartiles):")?;
        for ((name, _), times) in KINDS.iter().zip(&self.0) {
            let [p25, p50, p75] = quartiles(times);
            writeln!(f, "{name:>24}  {p25:.1}  {p50:.1}  {p75:.1}")?;
        }
        for (pair, p) in self.pairs() {
            writeln!(f, "{pair:>24}  p = {p:.3} (Mann-Whitney)")?;
        }
        Ok(())
    }
}

/// That of the two-sided Mann-Whitney test, which asks nothing of the shape of the distribution.
fn probability(one: &[u64], other: &[u64]) -> f64 {
    let float = |times: &[u64]| times.iter().map(|time| *time as f64).collect::<Vec<_>>();
    let test = mannwhitneyu(
        &float(one),
        &float(other),
        MannWhitneyUMethod::AsymptoticInclContinuityCorrection,
        Alternative::TwoSided,
    );
    // What cannot be compared is not taken for equal.
    test.map_or(0.0, |(_, p)| p)
}

fn quartiles(times: &[u64]) -> [f64; 3] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [1, 2, 3].map(|part| sorted.get(sorted.len() * part / 4).map_or(0.0, |ns| *ns as f64 / 1000.0))
}

#[cfg(test)]
mod bounds {
    use super::*;

    /// Times that are spread like real ones, with this much added.
    fn times(added: u64) -> Vec<u64> {
        (0..5_000).map(|n: u64| 90_000 + added + n.wrapping_mul(7919) % 5_003 * 4).collect()
    }

    #[test]
    fn what_is_alike_is_within_the_bound_and_half_a_microsecond_is_not() {
        assert_eq!(Refusals([times(0), times(0), times(0)]).broken(), Vec::<String>::new());
        let broken = Refusals([times(0), times(500), times(0)]).broken();
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken.iter().all(|bound| bound.contains("last byte")), "{broken:?}");
        assert_eq!(Refusals([times(0), Vec::new(), times(0)]).broken().len(), 2);
    }
}
