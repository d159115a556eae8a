//! Dispatches a model's work to its devices: the next batch goes to the one with the least outstanding work. The runners of
//! a device share a queue, so that the second runner of a busy device does not take work from an idle one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::pipeline::handoff::Work;

/// Capacity of a device's queue: the maximum number of batches that are closed for it.
const WAITING: usize = 2;

/// Work of one device.
pub(super) struct DeviceQueue {
    work: Mutex<Receiver<Work>>,
    /// Work sent to the device and not done.
    outstanding: AtomicUsize,
}

impl DeviceQueue {
    /// Takes the next piece of work; `None` at the end. The caller reports its completion with [`done`](Self::done).
    pub(super) fn next(&self) -> Option<Work> {
        // The lock's holder waits for the next piece of work, the device's other runners for the lock.
        self.work.lock().blocking_recv()
    }

    /// Counts a piece of work as done.
    pub(super) fn done(&self) {
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Device with its sender.
struct Device {
    name: Arc<str>,
    work: Sender<Work>,
    queue: Arc<DeviceQueue>,
}

/// Dispatches a model's work to its devices.
#[derive(Default)]
pub(super) struct Dispatcher(Vec<Device>);

impl Dispatcher {
    /// Queue of a device, created if it is new.
    pub(super) fn queue(&mut self, name: &Arc<str>) -> Arc<DeviceQueue> {
        if let Some(device) = self.0.iter().find(|device| device.name == *name) {
            return Arc::clone(&device.queue);
        }
        let (work, waiting) = mpsc::channel(WAITING);
        let queue = Arc::new(DeviceQueue { work: Mutex::new(waiting), outstanding: AtomicUsize::new(0) });
        self.0.push(Device { name: Arc::clone(name), work, queue: Arc::clone(&queue) });
        queue
    }

    /// Dispatches until the work ends or a device is gone; then the queues end.
    pub(super) async fn dispatch(self, mut work: Receiver<Work>) {
        while let Some(next) = work.recv().await {
            let least = self.0.iter().min_by_key(|device| device.queue.outstanding.load(Ordering::Acquire));
            let Some(Device { work, queue, .. }) = least else { return };
            queue.outstanding.fetch_add(1, Ordering::AcqRel);
            if work.send(next).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::pipeline::handoff::Trial;

    fn taken(queue: &DeviceQueue) -> Option<usize> {
        match queue.next()? {
            Work::Trial(trial) => Some(trial.rows),
            Work::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn the_device_with_the_least_outstanding_takes_the_next() {
        let mut dispatcher = Dispatcher::default();
        let (first, second) = (dispatcher.queue(&"cuda:0".into()), dispatcher.queue(&"cuda:1".into()));
        assert!(Arc::ptr_eq(&first, &dispatcher.queue(&"cuda:0".into())), "runners of a device share its queue");
        let (work, coming) = mpsc::channel(1);
        let mut dispatching = Box::pin(dispatcher.dispatch(coming));
        let mut give = |rows| {
            assert!(work.try_send(Work::Trial(Trial { rows, answer: oneshot::channel().0 })).is_ok());
            assert!((&mut dispatching).now_or_never().is_none(), "it waits for more");
        };
        give(1);
        give(2);
        assert_eq!((taken(&first), taken(&second)), (Some(1), Some(2)));
        second.done();
        give(3);
        assert_eq!(taken(&second), Some(3), "the first is still busy, though one of its runners is free");
        give(4);
        assert_eq!(taken(&first), Some(4), "both have one outstanding");
        drop(work);
        assert!(dispatching.now_or_never().is_some());
        assert_eq!((taken(&first), taken(&second)), (None, None));
    }
}
