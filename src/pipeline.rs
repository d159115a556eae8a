//! The stages wired together: bounded channels, last stage to first; and how they end.

pub(crate) mod accept;
pub mod batch;
pub mod decode;
pub(crate) mod entrance;
pub(crate) mod fetch;
pub(crate) mod lanes;
pub(crate) mod pace;
pub(crate) mod publish;
pub(crate) mod queue;
pub mod tag;
pub(crate) mod turns;

use std::any::Any;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::delivery::Delivery;
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::store::Store;
use crate::tags::Seconds;
use crate::telemetry::metrics::{self, Stage};

use entrance::Entrance;
use lanes::{Lanes, Outlets};
use pace::Pace;
use queue::Queued;

/// A stage ended while the others still ran: the worker can't go on.
#[derive(Debug, thiserror::Error)]
#[error("the {stage} stage ended: {reason}")]
pub(crate) struct StageEnded {
    stage: &'static str,
    reason: String,
}

/// Why a stage ended before its input did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The stage after it is gone, and says why.
    NextGone,
    /// Something is wrong with it.
    Broken(String),
}

impl Ended {
    fn of_task(error: JoinError) -> Self {
        Self::Broken(match error.try_into_panic() {
            Ok(panic) => format!("it panicked: {}", panic_message(&*panic)),
            Err(cancelled) => cancelled.to_string(),
        })
    }
}

/// Settings of every stage.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Of `fetch`.
    pub(crate) fetch: fetch::Settings,
    /// Of `decode`.
    pub(crate) decode: decode::Settings,
    /// Of `publish`.
    pub(crate) publish: publish::Settings,
}

/// A job on its way: what every stage needs of it.
pub(crate) struct Flight {
    /// The job as it came, but for its image and its id.
    pub(crate) job: Job,
    /// The image as answers name it; one inside the job once it is read.
    pub(crate) image: String,
    /// Where the time went so far.
    pub(crate) seconds: Seconds,
    /// The claim on an answer.
    pub(crate) delivery: Delivery,
}

impl Flight {
    /// Whether somebody waits for the answer, so that it goes before what nobody does.
    #[must_use]
    pub(crate) const fn is_urgent(&self) -> bool {
        self.delivery.door().is_urgent()
    }

    /// Fails what nobody waits for any more, before it costs anything.
    pub(crate) fn still_wanted(&self) -> Result<(), Failure> {
        if self.delivery.is_wanted() {
            return Ok(());
        }
        Err(Failure::new(Code::Overloaded, "it was not tagged within the time that its caller would wait"))
    }
}

/// The running stages.
pub(crate) struct Pipeline {
    stages: JoinSet<(Stage, Result<(), Ended>)>,
    pace: Arc<Pace>,
}

impl Pipeline {
    /// Starts every stage; jobs go in through the entrance returned, and the pipeline ends after it was dropped.
    #[must_use]
    pub(crate) fn start(
        settings: &Settings,
        stores: Vec<Store>,
        lanes: &Arc<Lanes>,
        outlets: Outlets,
    ) -> (Entrance, Self) {
        let (mut stages, pace) = (JoinSet::new(), Arc::new(Pace::default()));
        // Last to first. Queues are short: what waits in them waits nowhere better, and every job in them is held from
        // other workers.
        let (finished, publish, parts) = outlets.split();
        stages.spawn(ended(Stage::Publish, publish::run(settings.publish.clone(), finished, Arc::clone(&pace))));
        stages.spawn(ended(Stage::Tag, Outlets::run(parts)));
        let (decode, fetched) = queue::bounded(1);
        stages.spawn(ended(Stage::Decode, decode::run(settings.decode.clone(), fetched, publish.clone())));
        let (fetch, accepted) = mpsc::channel(1);
        let (of_lanes, of_pace) = (Arc::clone(lanes), Arc::clone(&pace));
        let (of_fetch, read) = (settings.fetch.clone(), stores.clone());
        let fetching = fetch::run(of_fetch, read, of_lanes, of_pace, accepted, decode, publish.clone());
        stages.spawn(ended(Stage::Fetch, fetching));
        let (entrance, incoming) = mpsc::channel(1);
        let accept = accept::Accept { stores, lanes: Arc::clone(lanes) };
        stages.spawn(ended(Stage::Accept, accept::run(accept, incoming, fetch, publish)));
        (Entrance::new(entrance), Self { stages, pace })
    }

    /// What is seen of jobs as they pass, for a door that asks for as many as keep the models busy.
    #[must_use]
    pub(crate) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// Waits for the next stage to end while jobs still come in, which none should.
    ///
    /// Cancel safe.
    pub(crate) async fn broken(&mut self) -> StageEnded {
        loop {
            return match self.stages.join_next().await {
                Some(Ok((_, Err(Ended::NextGone)))) => continue,
                Some(Ok((stage, Ok(())))) => StageEnded { stage: stage.as_str(), reason: "its input closed".into() },
                Some(Ok((stage, Err(Ended::Broken(reason))))) => StageEnded { stage: stage.as_str(), reason },
                Some(Err(error)) => StageEnded { stage: "unknown", reason: error.to_string() },
                None => StageEnded { stage: "last", reason: "all others had ended".into() },
            };
        }
    }

    /// Waits until every stage has ended, after the entrance was dropped.
    ///
    /// # Errors
    /// Where a stage ended otherwise than by its input closing.
    pub(crate) async fn drained(mut self) -> Result<(), StageEnded> {
        while let Some(ended) = self.stages.join_next().await {
            match ended {
                Ok((_, Ok(()) | Err(Ended::NextGone))) => {}
                Ok((stage, Err(Ended::Broken(reason)))) => return Err(StageEnded { stage: stage.as_str(), reason }),
                Err(error) => return Err(StageEnded { stage: "unknown", reason: error.to_string() }),
            }
        }
        Ok(())
    }
}

/// Runs a stage as a task of its own, so that its panic is its result.
async fn ended(
    stage: Stage,
    run: impl Future<Output = Result<(), Ended>> + Send + 'static,
) -> (Stage, Result<(), Ended>) {
    let result = tokio::spawn(run).await.unwrap_or_else(|error| Err(Ended::of_task(error)));
    (stage, result)
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// The failure of a job whose stage panicked: worth another attempt, for the fault may be the worker's.
pub(crate) fn panicked(code: Code, doing: &str, panic: &(dyn Any + Send)) -> Failure {
    let message = panic_message(panic);
    tracing::error!(doing, message, "panicked over one job; the worker goes on");
    Failure::new(code, format!("the worker panicked while {doing}: {message}")).retriable()
}

/// Sends to the next stage and counts the time until that has room; `Err` gives back what the stage did not take.
pub(crate) async fn pass<T>(stage: Stage, next: &mpsc::Sender<T>, item: T) -> Result<(), T> {
    let waiting = metrics::backpressure(stage);
    let room = next.reserve().await;
    // Before the next stage has it, from when on time counts there.
    drop(waiting);
    match room {
        Ok(room) => {
            room.send(item);
            Ok(())
        }
        Err(mpsc::error::SendError(())) => Err(item),
    }
}

/// The same, what somebody waits for first.
pub(crate) async fn pass_in_order<T: Queued>(stage: Stage, next: &queue::Sender<T>, item: T) -> Result<(), T> {
    pass(stage, next.end_for(&item), item).await
}
