//! What a call of the host costs a Wasm filter: the first of a request, which finds little of what
//! it needs in the processor's caches, and each further one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::numbers::Spread;
use crate::requests::{self, RATIOS};
use crate::upstream::Upstream;
use crate::variant::{Kind, Setting, Variant};

/// The calls, as `tests/prices` names them.
const CALLS: [&str; 8] = [
    "clock",
    "counter",
    "header",
    "headers",
    "property",
    "remove_header",
    "set_header",
    "set_property",
];

/// What they are compared with.
const NOTHING: Kind = Kind::Price("nothing", 0);

/// How often one is made, for the price of the first and of the others. A call that fails stops the
/// request, and so the bench.
const TIMES: [u32; 2] = [1, 50];

/// How often each is measured, in turns, and for how long.
const ROUNDS: u32 = 15;
const TIME: Duration = Duration::from_millis(300);

/// About how long it takes to measure all.
pub fn duration() -> Duration {
    let start = Duration::from_millis(500);
    kinds().map(|_| start + TIME * (ROUNDS + 1)).sum()
}

fn kinds() -> impl Iterator<Item = Kind> {
    let calls = CALLS.into_iter().flat_map(|call| TIMES.map(|times| Kind::Price(call, times)));
    std::iter::once(NOTHING).chain(calls)
}

/// The price of a call, in microseconds.
pub struct Price {
    call: &'static str,
    first: Spread,
    further: Spread,
}

/// Measures all, under the load of the ratios. The API is this function's, whatever the setting says.
pub async fn measure(setting: &Setting<'_>) -> Result<Vec<Price>> {
    eprintln!("measuring calls of the host");
    let upstream = Upstream::start(None).await?;
    let setting = Setting { upstream: upstream.url()?, trusted_ca: None, ..setting.clone() };
    let mut turns = Vec::new();
    for kind in kinds() {
        turns.push((Variant::start(kind, &setting).await?, Vec::new()));
    }
    for number in 0..=ROUNDS {
        for (variant, costs) in &mut turns {
            let round = requests::round(variant, RATIOS, TIME).await?;
            // The first warms up.
            if number > 0 {
                costs.push(round.cpu_us);
            }
        }
    }
    let costs = |kind: Kind| {
        let mut turns = turns.iter();
        let turn = turns.find(|(variant, _)| variant.kind == kind);
        turn.map(|(_, costs)| costs.as_slice()).context("each kind is measured")
    };
    let nothing = costs(NOTHING)?;
    let price = |call| {
        let [once, often] = TIMES.map(|times| costs(Kind::Price(call, times)));
        let (once, often) = (once?, often?);
        let [one, many] = TIMES;
        let difference = |own: &[f64], other: &[f64], calls: u32| {
            let pairs = own.iter().zip(other);
            Spread::of(pairs.map(|(own, other)| (own - other) / f64::from(calls)))
        };
        Ok(Price {
            call,
            first: difference(once, nothing, one),
            further: difference(often, once, many - one),
        })
    };
    CALLS.into_iter().map(price).collect()
}

impl Price {
    /// For the report.
    pub fn json(&self) -> Value {
        json!({"call": self.call, "first_us": self.first.json(), "further_us": self.further.json()})
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let Self { call, first, further } = self;
        format!("{call:32} {:6.2} µs, each further {:5.2} µs", first.median, further.median)
    }
}
