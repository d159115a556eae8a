//! Runs suspects: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use tokio::sync::mpsc;

use crate::pipeline::accept::Incoming;
use crate::pipeline::entrance::Entrance;

/// Runs suspects, each the jobs of one message, until no more can come.
pub(super) async fn run(entrance: Entrance, mut suspects: mpsc::Receiver<Vec<Incoming>>) {
    while let Some(suspect) = suspects.recv().await {
        entrance.admit_alone(suspect).await;
    }
}
