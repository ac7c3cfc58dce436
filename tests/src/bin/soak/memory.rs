//! Resident memory over time.

use std::time::Duration;

use anyhow::Result;
use tests::{Process, Stack};

/// Samples of one program: seconds and KiB. Only those of the process that runs now: another one has
/// nothing to do with what the one before had.
#[derive(Debug, Default)]
pub struct Series {
    process: Option<u32>,
    samples: Vec<(f64, f64)>,
}

/// Samples of both.
#[derive(Debug, Default)]
pub struct Memory {
    pub refresher: Series,
    pub envoy: Series,
}

impl Memory {
    /// Takes a sample of each.
    pub fn sample(&mut self, stack: &Stack, elapsed: Duration) -> Result<()> {
        for (series, process) in
            [(&mut self.refresher, stack.refresher()?), (&mut self.envoy, stack.envoy()?)]
        {
            series.add(process, elapsed)?;
        }
        Ok(())
    }
}

impl Series {
    fn add(&mut self, process: &Process, elapsed: Duration) -> Result<()> {
        self.take(process.id(), elapsed.as_secs_f64(), process.resident_kib()? as f64);
        Ok(())
    }

    fn take(&mut self, process: Option<u32>, seconds: f64, kib: f64) {
        if self.process != process {
            self.samples.clear();
            self.process = process;
        }
        self.samples.push((seconds, kib));
    }

    /// The latest sample, in KiB.
    pub fn last_kib(&self) -> f64 {
        self.samples.last().map_or(0.0, |sample| sample.1)
    }

    /// All but the first quarter: programs grow while they warm up.
    fn settled(&self) -> &[(f64, f64)] {
        self.samples.get(self.samples.len() / 4..).unwrap_or_default()
    }

    /// The slope of the regression line in KiB an hour.
    pub fn slope_kib_per_hour(&self) -> f64 {
        let settled = self.settled();
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
        let settled = self.settled();
        let first = settled.first().map_or(0.0, |sample| sample.0);
        let last = settled.last().map_or(0.0, |sample| sample.0);
        self.slope_kib_per_hour() * (last - first) / 3600.0
    }
}

#[cfg(test)]
mod slopes {
    use super::*;

    #[test]
    fn a_slope_is_of_the_last_process_after_its_first_quarter() {
        let mut series = Series::default();
        for second in 0..100 {
            series.take(Some(1), f64::from(second), 9_000.0 * f64::from(second));
        }
        for second in 0..40 {
            let warm = if second < 10 { 0.0 } else { 5_000.0 };
            series.take(Some(2), f64::from(100 + second), warm + f64::from(second));
        }
        assert!((series.slope_kib_per_hour() - 3600.0).abs() < 1e-6);
        assert!((series.growth_kib() - 29.0).abs() < 1e-6);
        assert!((series.last_kib() - 5_039.0).abs() < 1e-6);
        assert!(Series::default().slope_kib_per_hour() == 0.0);
    }
}
