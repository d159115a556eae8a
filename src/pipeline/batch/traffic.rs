//! What happens around a lane's queue: rows that are coming, batches that run, and how large these may be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::limit::Limit;
use super::window::{Coming, Room};

/// What happens around a lane's queue, for its window to decide by.
#[derive(Debug)]
pub(crate) struct Traffic {
    coming: AtomicUsize,
    /// Of those that are coming, the jobs that somebody waits for.
    urgent: AtomicUsize,
    running: AtomicUsize,
    limit: Mutex<Limit>,
    /// Batches that can run at once: one on each device.
    devices: usize,
    /// Whether the devices want a batch to be ready when they are done with one.
    ahead: bool,
    changed: Notify,
}

/// Counts one job as on its way to a lane, until dropped.
#[derive(Debug)]
pub(crate) struct Approach {
    traffic: Arc<Traffic>,
    /// 1 where somebody waits for it, else 0.
    urgent: usize,
}

impl Approach {
    /// One more is on its way, an `urgent` one if somebody waits for it.
    pub(crate) fn begin(traffic: &Arc<Traffic>, urgent: bool) -> Self {
        let urgent = usize::from(urgent);
        traffic.coming.fetch_add(1, Ordering::AcqRel);
        traffic.urgent.fetch_add(urgent, Ordering::AcqRel);
        Self { traffic: Arc::clone(traffic), urgent }
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        self.traffic.urgent.fetch_sub(self.urgent, Ordering::AcqRel);
        self.traffic.coming.fetch_sub(1, Ordering::AcqRel);
        self.traffic.changed.notify_one();
    }
}

impl Traffic {
    /// For batches of a lane with this limit, on so many devices; `ahead` where they want a batch to be ready when they are done
    /// with one.
    pub(crate) fn new(limit: Limit, devices: usize, ahead: bool) -> Self {
        let [coming, urgent, running] = [const { AtomicUsize::new(0) }; 3];
        Self { coming, urgent, running, limit: Mutex::new(limit), devices, ahead, changed: Notify::new() }
    }

    /// Rows that are on their way.
    pub(super) fn coming(&self) -> Coming {
        Coming { all: self.coming.load(Ordering::Acquire), urgent: self.urgent.load(Ordering::Acquire) }
    }

    /// Whether the devices can take a batch.
    pub(super) fn room(&self) -> Room {
        match self.running.load(Ordering::Acquire) {
            running if running < self.devices => Room::Now,
            running if self.ahead && running < 2 * self.devices => Room::Ahead,
            _ => Room::None,
        }
    }

    /// What the device made of a batch: changes the limit, and gives the new one where it did.
    pub(crate) fn learn(&self, learn: impl FnOnce(&mut Limit)) -> Option<usize> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = limit.rows();
        learn(&mut limit);
        (limit.rows() != before).then_some(limit.rows())
    }

    /// Rows a batch may have now.
    pub(super) fn limit(&self) -> usize {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).rows()
    }

    /// Ends when something has changed since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A batch is on its way to the device.
    pub(super) fn batch_closed(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// A batch has left the device.
    pub(crate) fn batch_done(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }
}
