//! Limit of interactive images in flight, shared by the sources of requests: what finds no slot is refused at once, instead of
//! waiting in a queue that nobody sees.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many images may be on their way at once. A clone is another way in to the same places.
#[derive(Clone, Debug)]
pub(crate) struct RequestLimit {
    /// The free ones.
    places: Arc<Semaphore>,
    size: usize,
}

impl RequestLimit {
    /// With this many places, one at least.
    #[must_use]
    pub(crate) fn new(places: usize) -> Self {
        let size = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(size)), size }
    }

    /// How many places there are, free or not.
    #[must_use]
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// A place, until the permit is dropped, if there is one now.
    #[must_use]
    pub(crate) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// The next place, for work that was let in and goes on in as many places as it can get; each in its turn.
    ///
    /// Cancel safe.
    pub(crate) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        // `None` only where the places were closed, which nobody does.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let in_flight_limit = RequestLimit::new(2);
        let (first, second) = (in_flight_limit.try_acquire(), in_flight_limit.clone().try_acquire());
        assert!(first.is_some() && second.is_some() && in_flight_limit.try_acquire().is_none());
        drop(first);
        let third = in_flight_limit.try_acquire();
        assert!(third.is_some() && in_flight_limit.try_acquire().is_none() && in_flight_limit.size() == 2);
    }

    #[tokio::test]
    async fn what_was_let_in_waits_its_turn() {
        let in_flight_limit = RequestLimit::new(0);
        let place = in_flight_limit.try_acquire().expect("there is one at least");
        let next = tokio::spawn({
            let in_flight_limit = in_flight_limit.clone();
            async move { in_flight_limit.acquire().await.is_some() }
        });
        drop(place);
        assert!(next.await.expect("no panic"));
    }
}
