//! Which device takes the next batch: the one with the least in hand. The turns of a device share a queue of its own, lest the
//! second turn of a busy one takes what an idle one could run at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::work::Work;

/// What waits at a device: as many batches as are closed for each at most.
const WAITING: usize = 2;

/// What a device has to do.
pub(super) struct Queue {
    work: Mutex<Receiver<Work>>,
    /// What it was given and is not done with.
    in_hand: AtomicUsize,
}

impl Queue {
    /// The next piece of work; `None` once there is no more. Whoever takes it says when it is done.
    pub(super) fn next(&self) -> Option<Work> {
        // Whoever holds the lock waits for the next one; the device's other turns wait for the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv()
    }

    /// A piece of work is done.
    pub(super) fn done(&self) {
        self.in_hand.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A device, as work is dealt to it.
struct Hand {
    device: Arc<str>,
    work: Sender<Work>,
    queue: Arc<Queue>,
}

/// Deals a lane's work to its devices.
#[derive(Default)]
pub(super) struct Dealer(Vec<Hand>);

impl Dealer {
    /// The queue of a device.
    pub(super) fn queue(&mut self, device: &Arc<str>) -> Arc<Queue> {
        if let Some(hand) = self.0.iter().find(|hand| hand.device == *device) {
            return Arc::clone(&hand.queue);
        }
        let (work, waiting) = mpsc::channel(WAITING);
        let queue = Arc::new(Queue { work: Mutex::new(waiting), in_hand: AtomicUsize::new(0) });
        self.0.push(Hand { device: Arc::clone(device), work, queue: Arc::clone(&queue) });
        queue
    }

    /// Deals until there is no more, or a device is gone; then the queues end.
    pub(super) async fn deal(self, mut work: Receiver<Work>) {
        while let Some(next) = work.recv().await {
            let least = self.0.iter().min_by_key(|hand| hand.queue.in_hand.load(Ordering::Acquire));
            let Some(Hand { work, queue, .. }) = least else { return };
            queue.in_hand.fetch_add(1, Ordering::AcqRel);
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
    use crate::pipeline::tag::work::Trial;

    fn taken(queue: &Queue) -> Option<usize> {
        match queue.next()? {
            Work::Trial(trial) => Some(trial.rows),
            Work::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn the_device_with_the_least_in_hand_takes_the_next() {
        let mut dealer = Dealer::default();
        let (first, second) = (dealer.queue(&"cuda:0".into()), dealer.queue(&"cuda:1".into()));
        assert!(Arc::ptr_eq(&first, &dealer.queue(&"cuda:0".into())), "turns of a device share its queue");
        let (work, coming) = mpsc::channel(1);
        let mut dealing = Box::pin(dealer.deal(coming));
        let mut give = |rows| {
            assert!(work.try_send(Work::Trial(Trial { rows, answer: oneshot::channel().0 })).is_ok());
            assert!((&mut dealing).now_or_never().is_none(), "it waits for more");
        };
        give(1);
        give(2);
        assert_eq!((taken(&first), taken(&second)), (Some(1), Some(2)));
        second.done();
        give(3);
        assert_eq!(taken(&second), Some(3), "the first is still busy, though a turn of its is free");
        give(4);
        assert_eq!(taken(&first), Some(4), "both have one in hand");
        drop(work);
        assert!(dealing.now_or_never().is_some());
        assert_eq!((taken(&first), taken(&second)), (None, None));
    }
}
