//! The guard that travels with a job and answers its door exactly once.
//!
//! A [`Delivery`] that is dropped unanswered (a panic, an early return, a cancelled task) hands its job back, so no path
//! through the pipeline can lose one. What an answer means is the door's business: the stream acknowledges, delays or
//! writes a dead letter; a live request is replied to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::task::TaskTracker;

use crate::failure::{Code, Failure};
use crate::tags::TagResult;
use crate::telemetry::metrics;

/// How a job came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The work queue.
    Stream,
    /// A request over NATS.
    Live,
    /// A request over HTTP.
    Http,
    /// An image named on the command line.
    Local,
}

impl Door {
    /// Every door.
    pub(crate) const ALL: [Self; 4] = [Self::Stream, Self::Live, Self::Http, Self::Local];

    /// As metrics name it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Live => "live",
            Self::Http => "http",
            Self::Local => "local",
        }
    }

    /// Whether somebody waits for each answer, so that it goes before what nobody does.
    #[must_use]
    pub(crate) const fn is_urgent(self) -> bool {
        matches!(self, Self::Live | Self::Http)
    }
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was tagged.
    Tagged(Box<TagResult>),
    /// It was not.
    Failed(Failure),
}

/// What a door made of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result is confirmed.
    Tagged,
    /// The job is given up, and its client can know.
    Rejected,
    /// The job will be tried again.
    Retried,
}

impl Outcome {
    /// As metrics name it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::Rejected => "rejected",
            Self::Retried => "retried",
        }
    }
}

/// A door's side of one job.
pub(crate) trait Reply: Send {
    /// Tells the client, or the queue, what became of the job with this id; ends when that is certain.
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome>;

    /// Whether anybody still waits for the answer; if not, the job is dropped before it costs anything more.
    fn is_wanted(&self) -> bool {
        true
    }
}

/// What a job keeps others from while it is in flight: one that runs alone keeps all of them, any other keeps only those
/// that want to run alone.
#[derive(Debug)]
#[expect(dead_code, reason = "what it holds is let go of, not read")]
pub(crate) enum Presence {
    /// Beside others.
    Beside(OwnedRwLockReadGuard<()>),
    /// With nothing else in flight in this worker but what the same message brought.
    Alone(Arc<OwnedRwLockWriteGuard<()>>),
}

/// Where answers run that nobody waits for, and what a stop waits for before it closes the connection.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Answers {
    /// Answers on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Ends when every answer given so far has arrived.
    pub(crate) async fn arrived(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

/// One accepted job's claim on an answer.
pub(crate) struct Delivery {
    /// The job's id: the door's until the job's own is known.
    pub id: String,
    door: Door,
    attempt: u64,
    accepted: Instant,
    reply: Option<Box<dyn Reply>>,
    answers: Answers,
    /// From when it enters the pipeline until it has its answer.
    presence: Option<Presence>,
}

impl Delivery {
    /// A job that came through `door` as its `attempt`th delivery, from 1.
    #[must_use]
    pub(crate) fn new(id: String, door: Door, attempt: u64, reply: Box<dyn Reply>, answers: Answers) -> Self {
        metrics::job_accepted();
        Self { id, door, attempt, accepted: Instant::now(), reply: Some(reply), answers, presence: None }
    }

    /// How long ago its door accepted the job.
    #[must_use]
    pub(crate) fn age(&self) -> Duration {
        self.accepted.elapsed()
    }

    /// How the job came in.
    #[must_use]
    pub(crate) const fn door(&self) -> Door {
        self.door
    }

    /// Whether anybody still waits for the answer.
    #[must_use]
    pub(crate) fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.is_wanted())
    }

    /// Lets others in beside a job that keeps them waiting; what it needs to run alone again, if it did.
    pub(crate) fn step_aside(&mut self) -> Option<Arc<RwLock<()>>> {
        let alone = self.presence.take_if(|presence| matches!(presence, Presence::Alone(_)))?;
        let Presence::Alone(guard) = alone else { return None };
        Some(Arc::clone(OwnedRwLockWriteGuard::rwlock(&guard)))
    }

    /// Whether the job keeps all others waiting.
    #[must_use]
    pub(crate) const fn is_alone(&self) -> bool {
        matches!(self.presence, Some(Presence::Alone(_)))
    }

    /// The job is in the pipeline from now on.
    pub(crate) fn enter(&mut self, presence: Presence) {
        self.presence = Some(presence);
    }

    /// The job has a name of its own.
    pub(crate) fn called(&mut self, id: Option<String>) {
        if let Some(id) = id {
            self.id = id;
        }
    }

    /// Which delivery of the job this is, from 1.
    #[must_use]
    pub(crate) const fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Answers the door; ends when the answer has arrived, and says what the door made of it.
    pub(crate) async fn answer(mut self, answer: Answer) -> Option<Outcome> {
        Some(self.answered(answer)?.await)
    }

    /// Answers a job that does not come in, in the background.
    pub(crate) fn refuse(mut self, failure: Failure) {
        if let Some(answered) = self.answered(Answer::Failed(failure)) {
            self.answers.tasks.spawn_on(answered, &self.answers.runtime);
        }
    }

    fn answered(&mut self, answer: Answer) -> Option<impl Future<Output = Outcome> + Send + 'static> {
        let (reply, presence) = (self.reply.take()?, self.presence.take());
        let (id, door, accepted) = (std::mem::take(&mut self.id), self.door, self.accepted);
        // What could take the worker down is over, and to have an answer confirmed may take as long as the server is away.
        drop(presence);
        Some(async move {
            let outcome = reply.answer(id, answer).await;
            metrics::job_answered(door, outcome, accepted.elapsed());
            outcome
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        metrics::job_left();
        let dropped =
            Failure::new(Code::InferenceFailed, "the worker dropped the job without an answer; its log says why");
        if let Some(answered) = self.answered(Answer::Failed(dropped)) {
            self.answers.tasks.spawn_on(answered, &self.answers.runtime);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    /// A door that notes down what it is told.
    struct Notebook(UnboundedSender<(String, Answer)>);

    impl Reply for Notebook {
        fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
            let noted = self.0.send((id, answer));
            Box::pin(async move { if noted.is_ok() { Outcome::Retried } else { Outcome::Rejected } })
        }
    }

    /// A first delivery of the queue, and what its door is told.
    pub(crate) fn noted(id: &str) -> (Delivery, UnboundedReceiver<(String, Answer)>) {
        noted_at(Door::Stream, id)
    }

    /// A first delivery, and what its door is told.
    pub(crate) fn noted_at(door: Door, id: &str) -> (Delivery, UnboundedReceiver<(String, Answer)>) {
        let (notes, told) = unbounded_channel();
        (Delivery::new(id.to_owned(), door, 1, Box::new(Notebook(notes)), Answers::new()), told)
    }

    fn failed(answer: Option<(String, Answer)>) -> (String, Code) {
        match answer {
            Some((id, Answer::Failed(failure))) => (id, failure.code),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_is_given_once() {
        let (delivery, mut told) = noted("one");
        delivery.answer(Answer::Failed(Failure::new(Code::ImageNotFound, "gone"))).await;
        assert_eq!(failed(told.recv().await), ("one".to_owned(), Code::ImageNotFound));
        assert!(told.recv().await.is_none(), "and not again on drop");
    }

    #[tokio::test]
    async fn dropped_without_an_answer_it_hands_the_job_back() {
        for way in ["dropped", "panicked", "cancelled"] {
            let (delivery, mut told) = noted(way);
            let holding = tokio::spawn(async move {
                match way {
                    "dropped" => drop(delivery),
                    "panicked" => panic!("holding {}", delivery.id),
                    _ => std::future::pending::<()>().await,
                }
            });
            if way == "cancelled" {
                holding.abort();
            }
            let (id, code) = failed(told.recv().await);
            assert_eq!((id.as_str(), code), (way, Code::InferenceFailed));
            assert_eq!(code.class(), crate::failure::Class::Retry);
            assert!(told.recv().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_stop_can_wait_for_the_answers_of_dropped_jobs() {
        let (delivery, mut told) = noted("one");
        let answers = delivery.answers.clone();
        drop(delivery);
        answers.arrived().await;
        assert!(told.try_recv().is_ok());
    }
}
