//! Bound on concurrent reads of one store. Interactive reads have slots of their own. The number of bulk reads adapts to the
//! store: enough to hide its latency, but few if bandwidth is the limit, because more would only slow each other down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::priority::Priority;

/// Maximum concurrent reads of each priority.
const MOST: usize = 128;

/// Initial limit of concurrent bulk reads.
const FIRST: usize = 16;

/// Bulk reads beyond those that hide latency.
const BASE: f64 = 8.0;

/// Minimum limit of concurrent bulk reads.
const LEAST: usize = 2;

/// Interval at which the limit is adapted.
const PERIOD: Duration = Duration::from_secs(1);

/// Weight of the last period in the averages.
const LAST: f64 = 0.5;

/// Slots of one store, shared by its copies.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    bulk: Arc<Slots>,
    interactive: Arc<Slots>,
}

#[derive(Debug)]
struct Slots {
    counts: Mutex<Counts>,
    freed: Notify,
}

#[derive(Debug)]
struct Counts {
    limit: usize,
    taken: usize,
    measured: Measured,
}

/// A read in progress, until dropped.
#[derive(Debug)]
pub(super) struct ReadSlot(Arc<Slots>);

impl Default for Slots {
    fn default() -> Self {
        let counts = Counts { limit: FIRST, taken: 0, measured: Measured::default() };
        Self { counts: Mutex::new(counts), freed: Notify::new() }
    }
}

impl Reads {
    /// Waits for a slot.
    ///
    /// Cancel safe.
    pub(super) async fn acquire(&self, priority: Priority) -> ReadSlot {
        let slots = self.slots(priority);
        loop {
            let freed = slots.freed.notified();
            {
                let mut counts = slots.counts.lock();
                let limit = if priority == Priority::Interactive { MOST } else { counts.limit };
                if counts.taken < limit {
                    counts.taken += 1;
                    return ReadSlot(Arc::clone(slots));
                }
            }
            freed.await;
        }
    }

    /// Records a successful read: the time to its first byte and the time of the whole read.
    pub(super) fn ended(&self, first_byte: Duration, whole: Duration) {
        let mut counts = self.bulk.counts.lock();
        if let Some(limit) = counts.measured.add(first_byte, whole, Instant::now()) {
            counts.limit = limit;
            drop(counts);
            self.bulk.freed.notify_waiters();
        }
    }

    fn slots(&self, priority: Priority) -> &Arc<Slots> {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }
}

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.0.counts.lock().taken -= 1;
        self.0.freed.notify_waiters();
    }
}

/// Measurements of reads, the input of the limit.
#[derive(Debug, Default)]
struct Measured {
    since: Option<Instant>,
    count: u32,
    first_byte: Duration,
    whole: Duration,
    /// Reads a second, seconds to the first byte, and seconds from the first byte to the last, on average.
    averages: Option<(f64, f64, f64)>,
}

impl Measured {
    /// Adds a read. Returns the new limit, once a period.
    fn add(&mut self, first_byte: Duration, whole: Duration, now: Instant) -> Option<usize> {
        let since = *self.since.get_or_insert(now);
        (self.count, self.first_byte, self.whole) = (self.count + 1, self.first_byte + first_byte, self.whole + whole);
        let period = now.duration_since(since);
        if period < PERIOD {
            return None;
        }
        let count = f64::from(self.count);
        let (first, whole) = (self.first_byte.as_secs_f64() / count, self.whole.as_secs_f64() / count);
        let new = (count / period.as_secs_f64(), first, (whole - first).max(0.0));
        let blend = |old: f64, new: f64| old + LAST * (new - old);
        let old = self.averages.unwrap_or(new);
        let averages = (blend(old.0, new.0), blend(old.1, new.1), blend(old.2, new.2));
        *self = Self { since: Some(now), averages: Some(averages), ..Self::default() };
        Some(limit(averages))
    }
}

/// Limit of concurrent bulk reads. By Little's law, `rate · latency` reads wait for their first byte; twice as many let the
/// rate grow. `BASE` more are allowed, fewer the longer a transfer takes: two transfers use a link as well as eight.
fn limit((rate, first_byte, transfer): (f64, f64, f64)) -> usize {
    let reads = 2.0 * rate * first_byte + BASE / (1.0 + transfer);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number, not negative")]
    let reads = reads.ceil() as usize;
    reads.clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn reads_hide_latency_and_do_not_share_a_slow_link() {
        assert_eq!(limit((1000.0, 0.001, 0.0)), 10, "a store nearby");
        assert_eq!(limit((500.0, 0.1, 0.01)), 108, "one far away");
        assert_eq!(limit((0.25, 0.05, 30.0)), 2, "images of 4 MB over 1 MB/s");
        assert_eq!(limit((1e6, 1.0, 0.0)), MOST);
    }

    #[tokio::test]
    async fn bulk_reads_are_bounded_and_interactive_ones_have_slots_of_their_own() {
        let reads = Reads::default();
        let mut held = Vec::new();
        for _ in 0..FIRST {
            held.push(reads.acquire(Priority::Bulk).await);
        }
        assert!(reads.acquire(Priority::Bulk).now_or_never().is_none());
        assert!(reads.acquire(Priority::Interactive).now_or_never().is_some());
        held.pop();
        assert!(reads.acquire(Priority::Bulk).now_or_never().is_some());
    }

    #[test]
    fn the_limit_follows_what_is_measured_once_a_period() {
        let (mut measured, began) = (Measured::default(), Instant::now());
        let (first, whole) = (Duration::from_millis(50), Duration::from_secs(16));
        assert_eq!(measured.add(first, whole, began), None);
        assert_eq!(measured.add(first, whole, began + PERIOD), Some(2));
        assert_eq!(measured.add(first, whole, began + PERIOD), None, "a period has just ended");
    }
}
