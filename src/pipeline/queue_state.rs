//! State of a model's queue that decides about closing a batch: pending rows, running batches, and the batch limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch::limit::Limit;
use super::batch::window::{Arrivals, Capacity};
use crate::priority::Priority;

/// State of one model's queue, shared by the stages that change it and the batcher that reads it.
#[derive(Debug)]
pub(crate) struct QueueState {
    interactive: AtomicUsize,
    bulk: AtomicUsize,
    running: AtomicUsize,
    limit: Mutex<Limit>,
    /// Batches that can run at once, one per device.
    devices: usize,
    /// `true` if the devices take a second batch while one runs.
    prefetch: bool,
    changed: Notify,
}

/// Counts one job as pending for a queue, until dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Arc<QueueState>,
    priority: Priority,
}

impl Pending {
    /// Counts one more job as on its way to the queue.
    pub(crate) fn begin(state: &Arc<QueueState>, priority: Priority) -> Self {
        state.pending(priority).fetch_add(1, Ordering::AcqRel);
        Self { state: Arc::clone(state), priority }
    }

    /// Returns `true` if it counts for this queue.
    pub(crate) fn is_for(&self, state: &Arc<QueueState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    /// Priority of the job.
    pub(crate) const fn priority(&self) -> Priority {
        self.priority
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.state.pending(self.priority).fetch_sub(1, Ordering::AcqRel);
        self.state.changed.notify_one();
    }
}

impl QueueState {
    /// State of an empty queue with this batch limit for this many devices, which may `prefetch`.
    pub(crate) fn new(limit: Limit, devices: usize, prefetch: bool) -> Self {
        let [interactive, bulk, running] = [const { AtomicUsize::new(0) }; 3];
        Self { interactive, bulk, running, limit: Mutex::new(limit), devices, prefetch, changed: Notify::new() }
    }

    const fn pending(&self, priority: Priority) -> &AtomicUsize {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }

    /// Number of rows on their way to the queue.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let load = |priority| self.pending(priority).load(Ordering::Acquire);
        Arrivals { interactive: load(Priority::Interactive), bulk: load(Priority::Bulk) }
    }

    /// Capacity of the devices.
    pub(crate) fn capacity(&self) -> Capacity {
        match self.running.load(Ordering::Acquire) {
            running if running < self.devices => Capacity::Idle,
            running if self.prefetch && running < 2 * self.devices => Capacity::Prefetch,
            _ => Capacity::Busy,
        }
    }

    /// Adapts the limit after a batch. Returns the new limit if it changed.
    pub(crate) fn adapt_limit(&self, adapt: impl FnOnce(&mut Limit)) -> Option<usize> {
        let mut limit = self.limit.lock();
        let before = limit.rows();
        adapt(&mut limit);
        (limit.rows() != before).then_some(limit.rows())
    }

    /// Maximum rows of a batch now.
    pub(crate) fn limit(&self) -> usize {
        self.limit.lock().rows()
    }

    /// Completes once the state has changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Counts a batch as running.
    pub(crate) fn batch_closed(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a batch as done.
    pub(crate) fn batch_done(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }
}
