//! How many jobs a worker holds: never fewer than a few batches, and as many more as it takes to hide how far away storage
//! and broker are.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::pipeline::concurrency::Estimator;

/// The most jobs a worker holds, unless its batches are larger.
const MOST: usize = 1024;

/// How often it is looked at how many it should be.
const PERIOD: Duration = Duration::from_secs(1);

/// How long room for one job waits for room for more, so that a batch that is done is asked for again as one.
const COMPANY: Duration = Duration::from_millis(5);

/// The places for jobs.
pub(super) struct InFlightLimit {
    /// Those that are free.
    pub(super) free: Arc<Semaphore>,
    /// The most there can be.
    pub(super) most: usize,
    least: usize,
    now: usize,
    /// Slots to remove that were taken when the limit fell.
    surplus: usize,
    estimator: Arc<Estimator>,
    next: Instant,
}

impl InFlightLimit {
    /// At first `least` of them.
    pub(super) fn new(least: usize, estimator: Arc<Estimator>) -> Self {
        let free = Arc::new(Semaphore::new(least));
        Self { free, most: least.max(MOST), least, now: least, surplus: 0, estimator, next: Instant::now() + PERIOD }
    }

    /// Jobs to ask for at once: a third of what is held, so that some are asked for while others are on their way.
    pub(super) fn chunk(&self) -> u32 {
        u32::try_from(self.now / 3).unwrap_or(u32::MAX).max(1)
    }

    /// Ends once a period, with as many places as are needed then.
    ///
    /// Cancel safe.
    pub(super) async fn adapt(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + PERIOD;
        self.change_to(self.estimator.places(PERIOD, self.least, self.most));
    }

    fn change_to(&mut self, places: usize) {
        if places > self.now {
            let more = places - self.now;
            // What was to go stays instead.
            let kept = more.min(self.surplus);
            self.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            self.surplus += self.now - places;
        }
        self.now = places;
        self.surplus -= self.free.forget_permits(self.surplus);
    }
}

/// Waits for room for one job, and a moment for room for as many as are asked for at once. It must not insist on more than
/// one: quarantined hold places while they wait for the jobs in the others.
pub(super) async fn acquire_some(room: &Arc<Semaphore>, chunk: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
    let mut places = Arc::clone(room).acquire_owned().await?;
    let more = Arc::clone(room).acquire_many_owned(chunk - 1);
    if let Ok(more) = tokio::time::timeout(COMPANY, more).await {
        places.merge(more?);
        return Ok(places);
    }
    let free = u32::try_from(room.available_permits()).unwrap_or(u32::MAX).min(chunk - 1);
    if let Ok(more) = Arc::clone(room).try_acquire_many_owned(free) {
        places.merge(more);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn does_not_insist_on_places_that_suspects_hold() {
        let room = Arc::new(Semaphore::new(24));
        let _suspects = Arc::clone(&room).acquire_many_owned(20).await.expect("open");
        let places = tokio::time::timeout(Duration::from_secs(30), acquire_some(&room, 8)).await;
        assert_eq!(places.expect("in time").expect("open").num_permits(), 4);
        assert_eq!(acquire_some(&room, 4).await.expect("open").num_permits(), 4);
    }

    #[tokio::test]
    async fn there_are_never_more_than_there_should_be_for_long() {
        let mut places = InFlightLimit::new(24, Arc::default());
        places.change_to(100);
        assert_eq!(places.free.available_permits(), 100);
        let taken = Arc::clone(&places.free).acquire_many_owned(90).await.expect("open");
        places.change_to(30);
        assert_eq!((places.free.available_permits(), places.surplus), (0, 60));
        places.change_to(50);
        assert_eq!((places.free.available_permits(), places.surplus), (0, 40));
        drop(taken);
        places.change_to(50);
        assert_eq!((places.free.available_permits(), places.surplus), (50, 0));
    }
}
