//! Runs suspects: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::pull::{Claimed, Entry, Room, Suspect};

/// Suspects that wait, and the places they hold: these count towards having all of them.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Claimed>,
    places: Option<OwnedSemaphorePermit>,
}

/// Runs suspects until no more can come.
pub(super) async fn run(entry: Entry, mut suspects: mpsc::Receiver<Suspect>, room: Arc<Semaphore>, places: usize) {
    let mut queue = Queue::default();
    while let Some(suspect) = suspects.recv().await {
        queue.push(suspect);
        while !queue.jobs.is_empty() {
            queue.take_all_places(&mut suspects, &room, places).await;
            if let Some(job) = queue.jobs.pop_front() {
                let (alone, answered) = oneshot::channel::<Infallible>();
                entry.admit(job, Room::Alone(alone)).await;
                // Ends when the other end is dropped, which is when the job is answered.
                let _ = answered.await;
            }
        }
        queue.places = None;
    }
}

impl Queue {
    fn push(&mut self, Suspect { job, place }: Suspect) {
        self.jobs.push_back(job);
        match &mut self.places {
            Some(places) => places.merge(place),
            None => self.places = Some(place),
        }
    }

    /// Waits until nothing else is in flight, and takes in what comes meanwhile.
    async fn take_all_places(&mut self, suspects: &mut mpsc::Receiver<Suspect>, room: &Arc<Semaphore>, all: usize) {
        loop {
            let held = self.places.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let missing = u32::try_from(all.saturating_sub(held)).unwrap_or(u32::MAX);
            if missing == 0 {
                return;
            }
            tokio::select! {
                biased;
                Some(suspect) = suspects.recv() => self.push(suspect),
                Ok(rest) = Arc::clone(room).acquire_many_owned(missing) => match &mut self.places {
                    Some(places) => places.merge(rest),
                    None => self.places = Some(rest),
                },
            }
        }
    }
}
