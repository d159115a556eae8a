//! Delays between attempts.

use std::time::Duration;

/// Exponential backoff: doubles from the first delay up to a limit. A jitter of a fifth keeps processes that failed together
/// from retrying together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// Delays between attempts at a job.
    pub(crate) const OF_JOBS: Self = Self::new(Duration::from_secs(1), Duration::from_mins(1));

    /// Creates delays from `first` up to `most`.
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// Delay after `tries` failed attempts.
    pub(crate) fn after(self, tries: u64) -> Duration {
        let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        (self.first * 2u32.pow(doublings)).min(self.most).mul_f64(rand::random_range(0.8..1.2))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        for (tries, seconds) in [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (u64::MAX, 60.0)] {
            let wait = backoff.after(tries).as_secs_f64();
            assert!((seconds * 0.8..=seconds * 1.2).contains(&wait), "{tries}: {wait}");
        }
        let waits: HashSet<Duration> = (0..100).map(|_| backoff.after(3)).collect();
        assert!(waits.len() > 1, "they are not all the same");
    }
}
