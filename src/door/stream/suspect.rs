//! Runs suspects: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pull::hand_back;
use crate::pipeline::accept::Incoming;
use crate::pipeline::entrance::Entrance;

/// Runs suspects, each the jobs of one message, until no more can come; after `stop` they are handed back.
pub(super) async fn run(entrance: Entrance, mut suspects: mpsc::Receiver<Vec<Incoming>>, stop: CancellationToken) {
    while let Some(suspect) = suspects.recv().await {
        if let Err(late) = entrance.admit_alone_until(&stop, suspect).await {
            late.into_iter().for_each(hand_back);
        }
    }
}
