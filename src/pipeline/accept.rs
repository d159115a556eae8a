//! **accept**: [`Incoming`] messages become [`Accepted`] jobs: parses the payload, locates the image and finds the model.
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
    /// Requested job.
    pub request: Request,
    /// Time it waited before acceptance.
    pub queued: Duration,
    /// Guard that answers the source.
    pub delivery: Delivery,
}

/// Request of a source.
pub(crate) enum Request {
    /// A job as JSON, from a message.
    Message(Bytes),
    /// A job that the source has parsed.
    Job {
        /// The job.
        job: Box<Job>,
        /// Image, if the source provides it or may read it outside the stores; otherwise the job's location applies.
        image: Option<Location>,
    },
}

/// Validated job.
pub(crate) struct Accepted {
    /// The job.
    pub context: JobContext,
    /// Own name of the job's model.
    pub model: Arc<str>,
    /// Location of the image.
    pub location: Location,
}

/// Stores and models that jobs refer to.
pub(crate) struct Accept {
    /// Stores, the default one first.
    pub stores: Vec<Store>,
    /// Pool of the models.
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
        // Time the job waited to be admitted.
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
                // A job that is invalid otherwise is still answered under its own id.
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
