//! A bounded queue between two stages in which what somebody waits for goes before what nobody does, but for one
//! [turn](super::turns) in so many.

use tokio::sync::mpsc;

use super::turns::Turns;

/// What can be in such a queue.
pub(crate) trait Queued {
    /// Whether somebody waits for it.
    fn is_urgent(&self) -> bool;
}

/// The end things go in at.
pub(crate) struct Sender<T> {
    urgent: mpsc::Sender<T>,
    other: mpsc::Sender<T>,
}

/// The end they come out of.
pub(crate) struct Receiver<T> {
    urgent: mpsc::Receiver<T>,
    other: mpsc::Receiver<T>,
    turns: Turns,
}

/// A queue with room for `size` things of either kind.
#[must_use]
pub(crate) fn bounded<T: Queued>(size: usize) -> (Sender<T>, Receiver<T>) {
    let (urgent, urgents) = mpsc::channel(size);
    let (other, others) = mpsc::channel(size);
    (Sender { urgent, other }, Receiver { urgent: urgents, other: others, turns: Turns::default() })
}

impl<T: Queued> Sender<T> {
    /// Where something of its kind goes in.
    pub(crate) fn end_for(&self, item: &T) -> &mpsc::Sender<T> {
        if item.is_urgent() { &self.urgent } else { &self.other }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { urgent: self.urgent.clone(), other: self.other.clone() }
    }
}

impl<T> Receiver<T> {
    /// What somebody waits for, and what nobody does, for receivers that need not take turns.
    #[must_use]
    pub(crate) fn split(self) -> (mpsc::Receiver<T>, mpsc::Receiver<T>) {
        (self.urgent, self.other)
    }

    /// The next: the oldest that is urgent, or of the others where it is their turn or there is no urgent one. `None` once
    /// nothing can come any more.
    ///
    /// Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let both = !self.urgent.is_empty() && !self.other.is_empty();
        if both
            && self.turns.next_is_for_others()
            && let Ok(item) = self.other.try_recv()
        {
            return Some(item);
        }
        tokio::select! {
            biased;
            Some(item) = self.urgent.recv() => Some(item),
            Some(item) = self.other.recv() => Some(item),
            else => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Numbered(u32, bool);

    impl Queued for Numbered {
        fn is_urgent(&self) -> bool {
            self.1
        }
    }

    #[tokio::test]
    async fn the_urgent_overtake_and_nothing_is_lost() {
        let (sender, mut receiver) = bounded(2);
        for item in [Numbered(1, false), Numbered(2, false), Numbered(3, true), Numbered(4, true)] {
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
    async fn every_fourth_is_one_that_nobody_waits_for() {
        let (sender, mut receiver) = bounded(8);
        for number in 0..8 {
            for item in [Numbered(number, true), Numbered(number, false)] {
                assert!(sender.end_for(&item).send(item).await.is_ok());
            }
        }
        let mut order = String::new();
        for _ in 0..8 {
            order.push(if receiver.recv().await.expect("sixteen").1 { 'u' } else { 'o' });
        }
        assert_eq!(order, "uuuouuuo");
    }
}
