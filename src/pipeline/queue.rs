//! Bounded queue between two stages, with two priorities.

use tokio::sync::mpsc;

use crate::priority::{Priority, Weighted};

/// Item of a queue.
pub(crate) trait Queued {
    /// Priority of the item.
    fn priority(&self) -> Priority;
}

/// Sending end of a queue.
pub(crate) struct Sender<T> {
    interactive: mpsc::Sender<T>,
    bulk: mpsc::Sender<T>,
}

/// Receiving end of a queue.
pub(crate) struct Receiver<T> {
    interactive: mpsc::Receiver<T>,
    bulk: mpsc::Receiver<T>,
    weighted: Weighted,
}

/// Creates a queue with capacity for `size` items of each priority.
#[must_use]
pub(crate) fn bounded<T: Queued>(size: usize) -> (Sender<T>, Receiver<T>) {
    let (to_interactive, interactive) = mpsc::channel(size);
    let (to_bulk, bulk) = mpsc::channel(size);
    let sender = Sender { interactive: to_interactive, bulk: to_bulk };
    (sender, Receiver { interactive, bulk, weighted: Weighted::default() })
}

impl<T: Queued> Sender<T> {
    /// Channel for items of this one's priority.
    pub(crate) fn end_for(&self, item: &T) -> &mpsc::Sender<T> {
        match item.priority() {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { interactive: self.interactive.clone(), bulk: self.bulk.clone() }
    }
}

impl<T> Receiver<T> {
    /// Channels of interactive and of bulk items, for receivers that serve one each.
    #[must_use]
    pub(crate) fn split(self) -> (mpsc::Receiver<T>, mpsc::Receiver<T>) {
        (self.interactive, self.bulk)
    }

    /// Receives the next item: the oldest interactive one, except in bulk's slots. `None` once all senders are dropped.
    ///
    /// Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let both = !self.interactive.is_empty() && !self.bulk.is_empty();
        if both
            && self.weighted.next_slot() == Priority::Bulk
            && let Ok(item) = self.bulk.try_recv()
        {
            return Some(item);
        }
        tokio::select! {
            biased;
            Some(item) = self.interactive.recv() => Some(item),
            Some(item) = self.bulk.recv() => Some(item),
            else => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Numbered(u32, Priority);

    impl Queued for Numbered {
        fn priority(&self) -> Priority {
            self.1
        }
    }

    #[tokio::test]
    async fn interactive_items_overtake_and_nothing_is_lost() {
        let (sender, mut receiver) = bounded(2);
        let (interactive, bulk) = (Priority::Interactive, Priority::Bulk);
        for item in [Numbered(1, bulk), Numbered(2, bulk), Numbered(3, interactive), Numbered(4, interactive)] {
            assert!(sender.end_for(&item).send(item).await.is_ok());
        }
        drop(sender);
        let mut order = Vec::new();
        while let Some(Numbered(number, _)) = receiver.recv().await {
            order.push(number);
        }
        assert_eq!(order, [3, 4, 1, 2]);
    }

    #[tokio::test]
    async fn every_fourth_item_is_a_bulk_one() {
        let (sender, mut receiver) = bounded(8);
        for number in 0..8 {
            for item in [Numbered(number, Priority::Interactive), Numbered(number, Priority::Bulk)] {
                assert!(sender.end_for(&item).send(item).await.is_ok());
            }
        }
        let mut order = String::new();
        for _ in 0..8 {
            let interactive = receiver.recv().await.expect("sixteen").1 == Priority::Interactive;
            order.push(if interactive { 'i' } else { 'b' });
        }
        assert_eq!(order, "iiibiiib");
    }
}
