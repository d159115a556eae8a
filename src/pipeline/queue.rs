//! A bounded queue between two stages in which what somebody waits for goes before what nobody does, but for one
//! [turn](super::turns) in so many.

use super::turns::Turns;

/// What can be in such a queue.
pub(crate) trait Queued {
    /// Whether somebody waits for it.
    fn is_urgent(&self) -> bool;
}

/// The end things go in at.
pub(crate) struct Sender<T> {
    urgent: async_channel::Sender<T>,
    other: async_channel::Sender<T>,
}

/// The end they come out of. Each thing comes out of one clone only.
pub(crate) struct Receiver<T> {
    urgent: async_channel::Receiver<T>,
    other: async_channel::Receiver<T>,
    turns: Turns,
}

/// A queue with room for `size` things of either kind.
#[must_use]
pub(crate) fn bounded<T: Queued>(size: usize) -> (Sender<T>, Receiver<T>) {
    let (urgent, urgents) = async_channel::bounded(size);
    let (other, others) = async_channel::bounded(size);
    (Sender { urgent, other }, Receiver { urgent: urgents, other: others, turns: Turns::default() })
}

impl<T: Queued> Sender<T> {
    /// Waits for room.
    ///
    /// # Errors
    /// Gives the item back where the other end is gone.
    pub(crate) async fn send(&self, item: T) -> Result<(), T> {
        let lane = if item.is_urgent() { &self.urgent } else { &self.other };
        lane.send(item).await.map_err(async_channel::SendError::into_inner)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { urgent: self.urgent.clone(), other: self.other.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { urgent: self.urgent.clone(), other: self.other.clone(), turns: Turns::default() }
    }
}

impl<T> Receiver<T> {
    /// One that things come out of only where somebody waits for them.
    #[must_use]
    pub(crate) fn of_urgent(&self) -> Self {
        let (_, nothing) = async_channel::bounded(1);
        Self { urgent: self.urgent.clone(), other: nothing, turns: Turns::default() }
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
            Ok(item) = self.urgent.recv() => Some(item),
            Ok(item) = self.other.recv() => Some(item),
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
            assert_eq!(sender.send(item).await, Ok(()));
        }
        drop(sender);
        let mut order = Vec::new();
        while let Some(Numbered(number, _)) = receiver.recv().await {
            order.push(number);
        }
        assert_eq!(order, [3, 4, 1, 2]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_does_not_come_out_where_only_the_urgent_do() {
        let (sender, receiver) = bounded(2);
        let (mut express, mut receiver) = (receiver.of_urgent(), receiver);
        for item in [Numbered(1, false), Numbered(2, true), Numbered(3, false)] {
            assert_eq!(sender.send(item).await, Ok(()));
        }
        drop(sender);
        assert_eq!(express.recv().await, Some(Numbered(2, true)));
        assert_eq!(express.recv().await, None);
        assert_eq!(receiver.recv().await, Some(Numbered(1, false)));
        assert_eq!(receiver.clone().recv().await, Some(Numbered(3, false)));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn every_fourth_is_one_that_nobody_waits_for() {
        let (sender, mut receiver) = bounded(8);
        for number in 0..8 {
            assert_eq!(sender.send(Numbered(number, true)).await, Ok(()));
            assert_eq!(sender.send(Numbered(number, false)).await, Ok(()));
        }
        let mut order = String::new();
        for _ in 0..8 {
            order.push(if receiver.recv().await.expect("sixteen").1 { 'u' } else { 'o' });
        }
        assert_eq!(order, "uuuouuuo");
    }
}
