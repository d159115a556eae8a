//! One image's way through the pipeline and back to the request that waits for it.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{Instrument, Span};

use super::body::{Given, Room};
use super::image::{Image, image};
use super::{Http, shutting_down};
use crate::delivery::{Answer, Delivery, Reply};
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::model::threshold::Thresholds;
use crate::pipeline::accept::{Incoming, Request};
use crate::tags::TagResult;
use crate::telemetry::labels::{Outcome, Source};
use crate::telemetry::rate_limited::warn_limited;
use crate::telemetry::span::JobIdentity;

/// What is asked of an image.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The job's id.
    pub(super) id: String,
    /// The request's id.
    pub(super) request_id: String,
    /// The model's name or alias.
    pub(super) model: Option<String>,
    /// Thresholds of tags, by category.
    pub(super) thresholds: Thresholds,
    /// Report every label from this score on.
    pub(super) scores_from: Option<f32>,
    /// Room for what brought it.
    pub(super) room: Room,
}

impl Question {
    /// The span of its job, which goes to this model.
    pub(super) fn span(&self, model: &str) -> Span {
        let Self { id, request_id, .. } = self;
        JobIdentity { id, attempt: 1, model: Some(model), source: Source::Http, request_id: Some(request_id) }.span()
    }
}

/// The request's side of one image. Its place and its room are free when the pipeline has let go of it, not when the client
/// has.
struct Caller {
    told: oneshot::Sender<Result<TagResult, Failure>>,
    until: Instant,
    _place: OwnedSemaphorePermit,
    _room: Room,
}

impl Reply for Caller {
    fn answer(self: Box<Self>, _id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        let (outcome, answer) = match answer {
            Answer::Tagged(result) => (Outcome::Tagged, Ok(*result)),
            // It is the client that may try again.
            Answer::Failed(failure) => {
                if matches!(failure.code, Code::StorageUnavailable | Code::StorageDenied) {
                    warn_limited!("an image can't be read", failure.code, error = %failure);
                } else {
                    tracing::debug!(code = %failure.code, error = %failure, "an image is not tagged");
                }
                (Outcome::Rejected, Err(failure.for_callers()))
            }
        };
        // The client may be gone.
        let _ = self.told.send(answer);
        Box::pin(std::future::ready(outcome))
    }

    fn is_wanted(&self) -> bool {
        !self.told.is_closed() && Instant::now() < self.until
    }
}

impl Http {
    /// A place for an image, now or not at all.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let full = || Failure::new(Code::Overloaded, "as many images are on their way as may be; try again");
        self.0.in_flight_limit.try_acquire().ok_or_else(full)
    }

    /// A place for an image of a request that has been let in, as soon as there is one.
    pub(super) async fn next_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        tokio::select! {
            place = self.0.in_flight_limit.acquire() => place.ok_or_else(shutting_down),
            () = self.0.given_up.cancelled() => Err(shutting_down()),
        }
    }

    /// Has an image tagged, as the job of this span.
    pub(super) async fn tag(
        &self,
        to_accept: &Sender<Incoming>,
        place: OwnedSemaphorePermit,
        given: Given,
        question: Question,
        span: Span,
    ) -> Result<TagResult, Failure> {
        let Question { id, model, thresholds, scores_from, room, .. } = question;
        let job_span = span.clone();
        let timeout = self.0.settings.timeout;
        let until = Instant::now() + timeout;
        let late =
            || Failure::new(Code::Overloaded, format!("the image was not tagged within {timeout:?} (--http-timeout)"));
        let (told, answer) = oneshot::channel();
        let asked = async {
            let (named, brought) = match image(given)? {
                Image::Named(location) => (location, None),
                Image::Brought(location) => (String::new(), Some(location)),
            };
            let job = Job { id: None, image: named, model, thresholds, meta: None, scores_from };
            let caller = Caller { told, until, _place: place, _room: room };
            let delivery = Delivery::new(id, Source::Http, 1, Box::new(caller), self.0.answers.clone());
            let delivery = delivery.in_span(job_span);
            let request = Request::Job { job: Box::new(job), image: brought };
            // Refused only where the pipeline is gone: the delivery inside answers.
            drop(to_accept.send(Incoming { request, queued: Duration::ZERO, delivery }).await);
            answer.await.unwrap_or_else(|_| Err(shutting_down()))
        }
        .instrument(span);
        tokio::select! {
            answer = asked => match answer {
                // A stage saw first that the time is over.
                Err(failure) if failure.code == Code::Overloaded => Err(late()),
                answer => answer,
            },
            () = tokio::time::sleep_until(until.into()) => Err(late()),
            () = self.0.given_up.cancelled() => Err(shutting_down()),
        }
    }
}
