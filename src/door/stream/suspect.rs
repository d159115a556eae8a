//! Runs suspects: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pull::hand_back;
use crate::door::outbox::Outbox;
use crate::pipeline::accept::Incoming;
use crate::pipeline::entrance::Entrance;
use crate::store::Store;
use crate::store::outage::{all_well, any_troubled};

/// Runs suspects, each the jobs of one message, until no more can come; after `stop` they are handed back.
pub(super) async fn run(
    entrance: Entrance,
    stores: Vec<Store>,
    outbox: Outbox,
    mut suspects: mpsc::Receiver<Vec<Incoming>>,
    stop: CancellationToken,
) {
    // A suspect does not wait to run alone while jobs in flight wait for a store: they would keep it waiting, and it all
    // others, callers with images of their own among them. Nor does it run while answers wait to be stored, whose jobs would
    // come again if it took the worker down.
    let in_the_way = async || {
        tokio::select! {
            () = stop.cancelled() => {}
            () = any_troubled(&stores) => {}
            () = outbox.until_some_wait(true) => {}
        }
    };
    let out_of_it = async || {
        outbox.until_some_wait(false).await;
        all_well(&stores).await
    };
    while let Some(mut suspect) = suspects.recv().await {
        while let Err(late) = entrance.admit_alone_unless(in_the_way(), suspect).await {
            if !matches!(stop.run_until_cancelled(out_of_it()).await, Some(Ok(()))) {
                late.into_iter().for_each(hand_back);
                break;
            }
            suspect = late;
        }
    }
}
