//! Runs suspects: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pull::hand_back;
use crate::pipeline::accept::Incoming;
use crate::pipeline::entrance::Entrance;
use crate::store::Store;

/// Runs suspects, each the jobs of one message, until no more can come; after `stop` they are handed back.
pub(super) async fn run(
    entrance: Entrance,
    stores: Vec<Store>,
    mut suspects: mpsc::Receiver<Vec<Incoming>>,
    stop: CancellationToken,
) {
    while let Some(mut suspect) = suspects.recv().await {
        while let Err(late) = entrance.admit_alone_unless(in_the_way(&stores, &stop), suspect).await {
            if stop.run_until_cancelled(well(&stores)).await.is_none() {
                late.into_iter().for_each(hand_back);
                break;
            }
            suspect = late;
        }
    }
}

/// Ends when a suspect must not wait to run alone any more: the worker stops, or jobs in flight wait for a store, and would
/// keep it waiting, and it all others, callers with images of their own among them.
async fn in_the_way(stores: &[Store], stop: &CancellationToken) {
    let mut troubled: FuturesUnordered<_> = stores.iter().map(Store::troubled).collect();
    tokio::select! {
        () = stop.cancelled() => {}
        Some(()) = troubled.next() => {}
    }
}

/// Ends when every store can be read from.
async fn well(stores: &[Store]) {
    for store in stores {
        // Fails where the worker stops, which is seen to beside this.
        let _ = store.well().await;
    }
}
