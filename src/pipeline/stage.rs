//! Common parts of all stages: their ends, and the transfer of their output.

use std::any::Any;

use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::queue::{self, Queued};
use crate::failure::{Code, Failure};
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;

/// Reason for a stage to end before its input.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The next stage is gone, and reports the reason.
    NextGone,
    /// The stage itself failed.
    Broken(String),
}

impl Ended {
    /// End of a stage whose task panicked or was cancelled.
    pub(super) fn of_task(error: JoinError) -> Self {
        Self::Broken(match error.try_into_panic() {
            Ok(panic) => format!("it panicked: {}", panic_message(&*panic)),
            Err(cancelled) => cancelled.to_string(),
        })
    }
}

/// Runs a stage as a task of its own, so that its panic becomes its result.
pub(super) async fn guarded(run: impl Future<Output = Result<(), Ended>> + Send + 'static) -> Result<(), Ended> {
    tokio::spawn(run).await.unwrap_or_else(|error| Err(Ended::of_task(error)))
}

/// Message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Failure of a job whose stage panicked. It is retriable, because the fault may be the worker's.
pub(crate) fn panicked(code: Code, doing: &str, panic: &(dyn Any + Send)) -> Failure {
    let message = panic_message(panic);
    tracing::error!(doing, message, "panicked over one job; the worker goes on");
    Failure::new(code, format!("the worker panicked while {doing}: {message}")).retriable()
}

/// Sends an item to the next stage and counts the time until it has capacity. `Err` returns an item that could not be sent.
pub(super) async fn pass<T>(stage: Stage, next: &mpsc::Sender<T>, item: T) -> Result<(), T> {
    let waiting = metrics::backpressure(stage);
    let room = next.reserve().await;
    // Dropped before the next stage receives the item, because time counts there from then on.
    drop(waiting);
    match room {
        Ok(room) => {
            room.send(item);
            Ok(())
        }
        Err(mpsc::error::SendError(())) => Err(item),
    }
}

/// Sends an item like [`pass`], through a queue of two priorities.
pub(super) async fn pass_by_priority<T: Queued>(stage: Stage, next: &queue::Sender<T>, item: T) -> Result<(), T> {
    pass(stage, next.end_for(&item), item).await
}
