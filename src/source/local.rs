//! Images named on the command line. What may succeed later is tried again a few times; then whoever named them is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::delivery::answers::Answers;
use crate::delivery::{Answer, Delivery, Reply};
use crate::failure::{Class, Code, Failure};
use crate::job::Job;
use crate::model::threshold::Thresholds;
use crate::pipeline::accept::{Incoming, Request};
use crate::store::location::Location;
use crate::tags::TagResult;
use crate::telemetry::labels::{Outcome, Source};

/// Attempts at one image.
const ATTEMPTS: u64 = 3;

/// An image to tag.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// As answers name it; of an object its location.
    pub name: String,
    /// Where it is, if it is a file.
    pub path: Option<PathBuf>,
}

/// An image that is through.
pub(crate) struct Done {
    /// Which.
    pub image: Image,
    /// What became of it.
    pub result: Result<Box<TagResult>, Failure>,
    /// A place for another, once this is dropped.
    _place: OwnedSemaphorePermit,
}

/// The way in for images of the command line.
pub(crate) struct Local {
    to_accept: mpsc::Sender<Incoming>,
    answers: Answers,
    done: mpsc::Sender<Done>,
    stop: CancellationToken,
}

impl Local {
    /// What is through goes to `done`; nothing is tried again after `stop`.
    #[must_use]
    pub(crate) fn new(
        to_accept: mpsc::Sender<Incoming>,
        done: mpsc::Sender<Done>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { to_accept, answers: Answers::new(), done, stop })
    }

    /// Brings an image in.
    pub(crate) async fn tag(self: &Arc<Self>, image: Image, place: OwnedSemaphorePermit) {
        self.attempt(image, place, 1).await;
    }

    async fn attempt(self: &Arc<Self>, image: Image, place: OwnedSemaphorePermit, attempt: u64) {
        let job = Box::new(Job {
            id: None,
            image: image.name.clone(),
            model: None,
            thresholds: Thresholds::default(),
            meta: None,
            scores_from: None,
        });
        let request = Request::Job { job, image: image.path.clone().map(Location::File) };
        let id = image.name.clone();
        let reply = LocalReply { local: Arc::clone(self), image, place, attempt };
        let delivery = Delivery::new(id, Source::Local, attempt, Box::new(reply), self.answers.clone());
        // Refused only where the pipeline is gone: the delivery inside hands its job back.
        drop(self.to_accept.send(Incoming { request, queued: Duration::ZERO, delivery }).await);
    }
}

struct LocalReply {
    local: Arc<Local>,
    image: Image,
    place: OwnedSemaphorePermit,
    attempt: u64,
}

impl LocalReply {
    /// Whether another attempt may end otherwise. What the file system says it says again.
    fn may_try_again(&self, failure: &Failure) -> bool {
        let of_file =
            self.image.path.is_some() && matches!(failure.code, Code::StorageDenied | Code::StorageUnavailable);
        let again = failure.class() == Class::Retry && failure.code != Code::ShuttingDown && !of_file;
        again && self.attempt < ATTEMPTS && !self.local.stop.is_cancelled()
    }

    async fn settle(self, answer: Answer) -> Outcome {
        let result = match answer {
            Answer::Tagged(result) => Ok(result),
            Answer::Failed(failure) if self.may_try_again(&failure) => {
                tracing::warn!(code = %failure.code, error = %failure, "it will be tried again");
                let delay = Backoff::OF_JOBS.after(self.attempt);
                tokio::spawn(async move {
                    if self.local.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_some() {
                        self.local.attempt(self.image, self.place, self.attempt + 1).await;
                    } else {
                        self.done(Err(failure)).await;
                    }
                });
                return Outcome::Retried;
            }
            Answer::Failed(failure) => Err(failure),
        };
        let outcome = if result.is_ok() { Outcome::Tagged } else { Outcome::Rejected };
        self.done(result).await;
        outcome
    }

    async fn done(self, result: Result<Box<TagResult>, Failure>) {
        // Refused only where nobody wants to know any more.
        let _ = self.local.done.send(Done { image: self.image, result, _place: self.place }).await;
    }
}

impl Reply for LocalReply {
    fn answer(self: Box<Self>, _: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        (*self).settle(answer).boxed()
    }
}
