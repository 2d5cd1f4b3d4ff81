//! What a run was like: counts, rate and latencies, as one JSON line.

use serde::{Deserialize, Serialize};

/// Durations in microseconds; throughput in operations per second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub workload: String,
    pub ops: u64,
    pub seconds: f64,
    pub throughput: f64,
    pub p50_us: u32,
    pub p90_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
    pub errors: u64,
    /// The text of the first error, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

impl Report {
    /// From the latency of each operation, in any order.
    pub fn new(workload: &str, ops: u64, seconds: f64, mut latencies: Vec<u32>) -> Self {
        latencies.sort_unstable();
        let at = |part: f64| {
            latencies.get(((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        Self {
            workload: workload.to_owned(),
            ops,
            seconds,
            throughput: if seconds > 0.0 { ops as f64 / seconds } else { 0.0 },
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: at(1.0),
            errors: 0,
            first_error: None,
        }
    }

    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("numbers and text")
    }
}

/// The middle of some numbers (the mean of the two middle ones when their count is even); `None` of none.
pub fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => None,
        n if n % 2 == 1 => Some(numbers[n / 2]),
        n => Some((numbers[n / 2 - 1] + numbers[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles are taken of the sorted latencies, whatever order they came in.
    #[test]
    fn percentiles() {
        let r = Report::new("w", 100, 2.0, (1..=100).rev().collect());
        assert_eq!((r.p50_us, r.p90_us, r.p99_us, r.max_us), (51, 91, 100, 100));
        assert_eq!(r.throughput, 50.0);
        assert_eq!(Report::new("w", 0, 0.0, vec![]).max_us, 0);
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
