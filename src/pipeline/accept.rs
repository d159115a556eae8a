//! **accept**: [`Incoming`] messages become [`Accepted`] jobs: the payload is read, the image located, the model found.
//! Fails with `bad_job`, `unknown_model` or `forbidden_location`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};

use super::context::JobContext;
use super::handoff::Finished;
use super::pool::ModelPool;
use super::stage::{Ended, pass};
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::job::Job;
use crate::store::Store;
use crate::store::location::Location;
use crate::tags::Seconds;
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;

/// A message from a source.
pub(crate) struct Incoming {
    /// What is asked for.
    pub request: Request,
    /// How long it waited before it came.
    pub queued: Duration,
    /// The claim on an answer.
    pub delivery: Delivery,
}

/// Request of a source.
pub(crate) enum Request {
    /// A job as a message has it: JSON.
    Message(Bytes),
    /// A job that the source has read.
    Job {
        /// The job.
        job: Box<Job>,
        /// The image, where the source brings it along or may read it wherever it is; else it is where the job says.
        image: Option<Location>,
    },
}

/// A job that can be worked on.
pub(crate) struct Accepted {
    /// The job.
    pub context: JobContext,
    /// The own name of its model.
    pub model: Arc<str>,
    /// Where its image is.
    pub location: Location,
}

/// What jobs are checked against.
pub(crate) struct Accept {
    /// The stores, default first.
    pub stores: Vec<Store>,
    /// The models.
    pub pool: Arc<ModelPool>,
}

/// Accepts until `incoming` closes.
///
/// # Errors
/// None of its own.
pub(crate) async fn run(
    accept: Accept,
    mut incoming: Receiver<Incoming>,
    fetch: Sender<Accepted>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    while let Some(Incoming { request, queued, mut delivery }) = incoming.recv().await {
        metrics::stage_seconds("queue", queued);
        // Time it waited to be admitted.
        metrics::waited(Stage::Accept, delivery.age());
        match accept.check(request, &mut delivery) {
            Ok((mut job, model, location)) => {
                let image = std::mem::take(&mut job.image);
                let seconds = Seconds { queue: queued.as_secs_f64(), ..Seconds::default() };
                let accepted = Accepted { context: JobContext { job, image, seconds, delivery }, model, location };
                if pass(Stage::Accept, &fetch, accepted).await.is_err() {
                    return Err(Ended::NextGone);
                }
            }
            Err(failure) => {
                metrics::failed(Stage::Accept, failure.code);
                let _ = publish.send(Finished::failed(delivery, failure)).await;
            }
        }
    }
    Ok(())
}

impl Accept {
    fn check(&self, request: Request, delivery: &mut Delivery) -> Result<(Job, Arc<str>, Location), Failure> {
        let (mut job, image) = match request {
            Request::Message(payload) => {
                // A job that is wrong elsewhere is still answered under its own name.
                let job = Job::parse(&payload).inspect_err(|_| delivery.identify(Job::id_in(&payload), None))?;
                (job, None)
            }
            Request::Job { job, image } => (*job, image),
        };
        let model = self.pool.own_name(job.model.as_deref());
        delivery.identify(job.id.take(), model.as_deref().ok().or(job.model.as_deref()));
        let _span = delivery.span().entered();
        let location = match image {
            Some(image) => image,
            None => Location::find(&mut job.image, &self.stores)?,
        };
        let model = self.pool.own_name(job.model.as_deref())?;
        Ok((job, model, location))
    }
}
