//! Runs quarantined: jobs that come for the third time or later, one at a time and with nothing else in flight in this
//! worker, so that one that kills its workers takes no other job with it.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::nats::publisher::ConfirmedPublisher;
use crate::pipeline::accept::Incoming;
use crate::pipeline::gate::Gate;
use crate::store::Store;
use crate::store::outage::{all_well, any_troubled};

/// Runs quarantined, each the jobs of one message, until no more can come; after `stop` they are handed back.
pub(super) async fn run(
    gate: Gate,
    stores: Vec<Store>,
    publisher: ConfirmedPublisher,
    mut quarantined: mpsc::Receiver<Vec<Incoming>>,
    stop: CancellationToken,
) {
    // A quarantined does not wait to run alone while jobs in flight wait for a store: they would keep it waiting, and it all
    // others, callers with images of their own among them. Nor does it run while answers wait to be stored, whose jobs would
    // come again if it took the worker down.
    let in_the_way = async || {
        tokio::select! {
            () = stop.cancelled() => {}
            () = any_troubled(&stores) => {}
            () = publisher.until_some_wait(true) => {}
        }
    };
    let out_of_it = async || {
        publisher.until_some_wait(false).await;
        all_well(&stores).await
    };
    while let Some(mut quarantined) = quarantined.recv().await {
        while let Err(late) = gate.admit_alone_unless(in_the_way(), quarantined).await {
            if !matches!(stop.run_until_cancelled(out_of_it()).await, Some(Ok(()))) {
                late.into_iter().for_each(Incoming::hand_back);
                break;
            }
            quarantined = late;
        }
    }
}
