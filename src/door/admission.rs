//! Places for the images somebody waits for, shared by the live doors: what finds none is told so at once, instead of
//! waiting in a queue that nobody sees.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many images may be on their way at once. A clone is another way in to the same places.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The free ones.
    places: Arc<Semaphore>,
    size: usize,
}

impl Admission {
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
    pub(crate) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// The next place, for work that was let in and goes on in as many places as it can get; each in its turn.
    ///
    /// Cancel safe.
    pub(crate) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // `None` only where the places were closed, which nobody does.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let admission = Admission::new(2);
        let (first, second) = (admission.try_enter(), admission.clone().try_enter());
        assert!(first.is_some() && second.is_some() && admission.try_enter().is_none());
        drop(first);
        let third = admission.try_enter();
        assert!(third.is_some() && admission.try_enter().is_none() && admission.size() == 2);
    }

    #[tokio::test]
    async fn what_was_let_in_waits_its_turn() {
        let admission = Admission::new(0);
        let place = admission.try_enter().expect("there is one at least");
        let next = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter().await.is_some() }
        });
        drop(place);
        assert!(next.await.expect("no panic"));
    }
}
