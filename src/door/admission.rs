//! Places for the images somebody waits for, shared by the live doors: what finds none is told so at once, instead of
//! waiting in a queue that nobody sees.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many images may be on their way at once. A clone is another way in to the same places.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
}

impl Admission {
    /// With this many places, one at least.
    #[must_use]
    pub(crate) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// A place, until the permit is dropped, if there is one now.
    #[must_use]
    pub(crate) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.try_enter_many(1)
    }

    /// So many places together, or none.
    #[must_use]
    pub(crate) fn try_enter_many(&self, n: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_many_owned(n).ok()
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
        assert!(admission.try_enter_many(2).is_none() && admission.try_enter().is_some());
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
