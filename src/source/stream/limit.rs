//! In-flight limit of the stream's source: at least the jobs of a few batches, and as many more as hide the latency of
//! storage and broker.
//!
//! A job takes a [`Slot`]. While it waits for its store it is *parked*: it counts against a bound of its own and leaves the
//! limit to jobs that keep the models busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::pipeline::concurrency::Estimator;

/// Maximum limit, unless batches are larger.
const MOST: usize = 1024;

/// Maximum parked jobs, beyond the limit.
const PARKED: usize = 1024;

/// Interval at which the limit is adapted.
const PERIOD: Duration = Duration::from_secs(1);

/// Time that a free slot waits for more, so that the jobs of a finished batch are requested again as one.
const LINGER: Duration = Duration::from_millis(5);

/// Limit, and the jobs that count against it.
pub(super) struct InFlightLimit {
    slots: Arc<Slots>,
    least: usize,
    most: usize,
    estimator: Arc<Estimator>,
    next: Instant,
}

#[derive(Debug)]
struct Slots {
    counts: Mutex<Counts>,
    /// Notified when slots may have become free.
    freed: Notify,
}

#[derive(Debug)]
struct Counts {
    limit: usize,
    /// Number of jobs that count against the limit.
    active: usize,
    /// Number of jobs that wait for their store.
    parked: usize,
}

impl Counts {
    /// Number of free slots.
    fn free(&self) -> usize {
        if self.parked >= PARKED { 0 } else { self.limit.saturating_sub(self.active) }
    }
}

/// Slots that were acquired together.
#[derive(Debug)]
pub(super) struct Acquired {
    slots: Arc<Slots>,
    count: usize,
}

/// Slot of a job, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    parked: AtomicBool,
}

impl InFlightLimit {
    /// Creates a limit that begins with `least` jobs and never falls below.
    pub(super) fn new(least: usize, estimator: Arc<Estimator>) -> Self {
        let counts = Counts { limit: least, active: 0, parked: 0 };
        let slots = Arc::new(Slots { counts: Mutex::new(counts), freed: Notify::new() });
        Self { slots, least, most: least.max(MOST), estimator, next: Instant::now() + PERIOD }
    }

    /// Number of jobs to request at once: a third of the limit, so that some are requested while others are on their way.
    pub(super) fn chunk(&self) -> usize {
        (self.slots.counts.lock().limit / 3).max(1)
    }

    /// Waits for the end of the period and adapts the limit.
    ///
    /// Cancel safe.
    pub(super) async fn adapt(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + PERIOD;
        self.set(self.estimator.estimate(PERIOD, self.least, self.most));
    }

    fn set(&self, limit: usize) {
        self.slots.counts.lock().limit = limit;
        self.slots.freed.notify_waiters();
    }

    /// Returns a handle that acquires slots.
    pub(super) fn acquirer(&self) -> Acquirer {
        Acquirer(Arc::clone(&self.slots))
    }
}

/// Handle that acquires slots.
#[derive(Clone, Debug)]
pub(super) struct Acquirer(Arc<Slots>);

impl Acquirer {
    /// Waits for a free slot, and a moment for more. Acquires at most `most`.
    ///
    /// Cancel safe.
    pub(super) async fn acquire(&self, most: usize) -> Acquired {
        loop {
            self.free(1).await;
            let _ = timeout(LINGER, self.free(most)).await;
            let mut counts = self.0.counts.lock();
            let count = counts.free().min(most);
            // Others may have been quicker.
            if count > 0 {
                counts.active += count;
                return Acquired { slots: Arc::clone(&self.0), count };
            }
        }
    }

    /// Waits until `wanted` slots are free.
    async fn free(&self, wanted: usize) {
        loop {
            let freed = self.0.freed.notified();
            if self.0.counts.lock().free() >= wanted {
                return;
            }
            freed.await;
        }
    }
}

impl Acquired {
    /// Number of slots.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Takes one of the slots.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.count = self.count.checked_sub(1)?;
        Some(Slot { slots: Arc::clone(&self.slots), parked: AtomicBool::new(false) })
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        if self.count > 0 {
            self.slots.counts.lock().active -= self.count;
            self.slots.freed.notify_waiters();
        }
    }
}

impl Slot {
    /// Stops or resumes counting against the limit. A job resumes without a free slot, because it has waited long enough.
    pub(super) fn set_parked(&self, parked: bool) {
        if self.parked.swap(parked, Ordering::AcqRel) == parked {
            return;
        }
        let mut counts = self.slots.counts.lock();
        if parked {
            (counts.active, counts.parked) = (counts.active - 1, counts.parked + 1);
        } else {
            (counts.active, counts.parked) = (counts.active + 1, counts.parked - 1);
        }
        drop(counts);
        self.slots.freed.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock();
        if self.parked.load(Ordering::Acquire) {
            counts.parked -= 1;
        } else {
            counts.active -= 1;
        }
        drop(counts);
        self.slots.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn free(limit: &InFlightLimit) -> usize {
        limit.slots.counts.lock().free()
    }

    #[tokio::test]
    async fn takes_what_is_free_without_waiting_for_all_of_it() {
        let limit = InFlightLimit::new(24, Arc::default());
        let _held = limit.acquirer().acquire(20).await;
        assert_eq!(limit.acquirer().acquire(8).await.count(), 4);
    }

    #[tokio::test]
    async fn the_limit_falls_while_all_slots_are_taken() {
        let limit = InFlightLimit::new(24, Arc::default());
        limit.set(100);
        let acquirer = limit.acquirer();
        let mut held = acquirer.acquire(100).await;
        let slots: Vec<Slot> = std::iter::from_fn(|| held.take()).collect();
        limit.set(30);
        let mut waiting = Box::pin(acquirer.acquire(1));
        for slot in slots.into_iter().take(70) {
            assert!((&mut waiting).now_or_never().is_none(), "more are in flight than may be");
            drop(slot);
        }
        assert_eq!(free(&limit), 30, "all are back, whatever the limit was when they were taken");
    }

    #[tokio::test]
    async fn a_parked_job_leaves_its_slot_to_others_but_not_without_bound() {
        let limit = InFlightLimit::new(2, Arc::default());
        let acquirer = limit.acquirer();
        let slot = acquirer.acquire(1).await.take().expect("one");
        slot.set_parked(true);
        slot.set_parked(true);
        assert_eq!(free(&limit), 2);
        slot.set_parked(false);
        assert_eq!(free(&limit), 1);
        drop(slot);
        let mut parked = Vec::new();
        for _ in 0..PARKED {
            let slot = acquirer.acquire(1).await.take().expect("one");
            slot.set_parked(true);
            parked.push(slot);
        }
        assert!(acquirer.acquire(1).now_or_never().is_none(), "too many are parked");
        drop(parked);
        assert_eq!(free(&limit), 2);
    }
}
