//! Distribution of durations.

use std::time::Duration;

use serde::Serialize;

/// Percentiles in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// 50th percentile.
    pub(super) p50: f64,
    /// 95th percentile.
    pub(super) p95: f64,
    /// 99th percentile.
    pub(super) p99: f64,
}

impl Spread {
    /// Percentiles of durations in any order, by the nearest rank, so that each is one that occurred. Zero without
    /// durations.
    pub(super) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let percentile = |of_hundred: usize| {
            let rank = (durations.len() * of_hundred).div_ceil(100).max(1);
            durations.get(rank - 1).map(Duration::as_secs_f64).unwrap_or_default()
        };
        Self { p50: percentile(50), p95: percentile(95), p99: percentile(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_durations_that_occurred() {
        let spread = Spread::of((1..=200).rev().map(Duration::from_secs).collect());
        assert_eq!(spread, Spread { p50: 100.0, p95: 190.0, p99: 198.0 });
        let one = Spread::of(vec![Duration::from_secs(7)]);
        assert_eq!(one, Spread { p50: 7.0, p95: 7.0, p99: 7.0 });
        assert!(Spread::of(vec![]).p99.abs() < f64::EPSILON);
    }
}
