//! Resident memory over time.

use std::time::Duration;

use anyhow::Result;
use tests::Stack;

/// Samples of one program: seconds and KiB.
#[derive(Debug, Default)]
pub struct Series(Vec<(f64, f64)>);

/// Samples of both.
#[derive(Debug, Default)]
pub struct Memory {
    pub refresher: Series,
    pub envoy: Series,
}

impl Memory {
    /// Takes a sample of each.
    pub fn sample(&mut self, stack: &Stack, elapsed: Duration) -> Result<()> {
        self.refresher.0.push((elapsed.as_secs_f64(), stack.refresher()?.resident_kib()? as f64));
        self.envoy.0.push((elapsed.as_secs_f64(), stack.envoy()?.resident_kib()? as f64));
        Ok(())
    }
}

impl Series {
    /// The slope of the regression line in KiB an hour. The first quarter is left out: programs
    /// grow while they warm up.
    pub fn slope_kib_per_hour(&self) -> f64 {
        let settled = self.0.get(self.0.len() / 4..).unwrap_or_default();
        let count = settled.len() as f64;
        if count < 2.0 {
            return 0.0;
        }
        let mean = |pick: fn(&(f64, f64)) -> f64| settled.iter().map(pick).sum::<f64>() / count;
        let (time, size) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let sum = |term: &dyn Fn(&(f64, f64)) -> f64| settled.iter().map(term).sum::<f64>();
        let covariance = sum(&|sample| (sample.0 - time) * (sample.1 - size));
        let variance = sum(&|sample| (sample.0 - time).powi(2));
        if variance == 0.0 { 0.0 } else { covariance / variance * 3600.0 }
    }

    /// What the slope comes to over the samples, in KiB.
    pub fn growth_kib(&self) -> f64 {
        let first = self.0.get(self.0.len() / 4).map_or(0.0, |sample| sample.0);
        let last = self.0.last().map_or(0.0, |sample| sample.0);
        self.slope_kib_per_hour() * (last - first) / 3600.0
    }
}
