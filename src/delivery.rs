//! Guard that travels with a job and answers its source exactly once.
//!
//! A [`Delivery`] that is dropped unanswered (a panic, an early return, a cancelled task) hands its job back, so no path
//! through the pipeline can lose one. The source decides the effect of an answer: the stream acknowledges, delays or writes
//! a dead letter; a request receives a reply.

pub(crate) mod answers;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

use crate::failure::{Code, Failure};
use crate::tags::TagResult;
use crate::telemetry::labels::{Outcome, Source};
use crate::telemetry::metrics;
use crate::telemetry::span::JobIdentity;
use answers::Answers;

/// Outcome of a job for its source.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The job was tagged.
    Tagged(Box<TagResult>),
    /// The job failed.
    Failed(Failure),
}

/// Source's side of one job.
pub(crate) trait Reply: Send + Sync {
    /// Sends the outcome of the job with this id to the client or the queue; completes once it is certain. Runs in the job's
    /// span, so its log lines need not name the job.
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome>;

    /// Returns `true` while the answer is wanted. An unwanted job is dropped before it costs anything more.
    fn is_wanted(&self) -> bool {
        true
    }

    /// Notifies the source that the job starts or stops waiting for its store.
    fn set_parked(&self, _parked: bool) {}
}

/// One accepted job, which must be answered.
pub(crate) struct Delivery {
    /// The job's id: the source's until the job's own is known.
    pub id: String,
    /// Span of the job, once its id and model are known.
    span: Option<Span>,
    source: Source,
    attempt: u64,
    is_quarantined: bool,
    accepted: Instant,
    reply: Option<Box<dyn Reply>>,
    answers: Answers,
}

impl Delivery {
    /// Creates the `attempt`th delivery of a job from `source`, counted from 1.
    #[must_use]
    pub(crate) fn new(id: String, source: Source, attempt: u64, reply: Box<dyn Reply>, answers: Answers) -> Self {
        metrics::job_accepted();
        let accepted = Instant::now();
        Self { id, span: None, source, attempt, is_quarantined: false, accepted, reply: Some(reply), answers }
    }

    /// Marks the job as one that may have ended a worker.
    #[must_use]
    pub(crate) fn quarantined(mut self) -> Self {
        self.is_quarantined = true;
        self
    }

    /// Sets the span of a job whose id and model are known to its source.
    #[must_use]
    pub(crate) fn in_span(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// Time since the source accepted the job.
    #[must_use]
    pub(crate) fn age(&self) -> Duration {
        self.accepted.elapsed()
    }

    /// Source of the job.
    #[must_use]
    pub(crate) const fn source(&self) -> Source {
        self.source
    }

    /// Returns `true` while the answer is wanted.
    #[must_use]
    pub(crate) fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.is_wanted())
    }

    /// Notifies the source that the job starts or stops waiting for its store. A waiting job does not count against
    /// in-flight limits.
    pub(crate) fn set_parked(&self, parked: bool) {
        if let Some(reply) = &self.reply {
            reply.set_parked(parked);
        }
    }

    /// Sets the job's own id, if it has one, and the name of its model, if known. The span contains them from then on.
    pub(crate) fn identify(&mut self, id: Option<String>, model: Option<&str>) {
        if let Some(id) = id {
            self.id = id;
        }
        if self.span.is_none() {
            self.span = Some(self.new_span(model));
        }
    }

    /// Span of the job, for every log line about it.
    #[must_use]
    pub(crate) fn span(&self) -> Span {
        self.span.clone().unwrap_or_else(|| self.new_span(None))
    }

    fn new_span(&self, model: Option<&str>) -> Span {
        JobIdentity { id: &self.id, attempt: self.attempt, model, source: self.source, request_id: None }.span()
    }

    /// Number of the delivery, from 1.
    #[must_use]
    pub(crate) const fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Returns `true` if the job may have ended a worker.
    #[must_use]
    pub(crate) const fn is_quarantined(&self) -> bool {
        self.is_quarantined
    }

    /// Answers the source. Completes once the answer has arrived, with its outcome at the source.
    pub(crate) async fn answer(mut self, answer: Answer) -> Option<Outcome> {
        Some(self.answered(answer)?.await)
    }

    /// Answers a job that is not accepted, in the background.
    pub(crate) fn refuse(mut self, failure: Failure) {
        if let Some(answered) = self.answered(Answer::Failed(failure)) {
            self.answers.spawn(answered);
        }
    }

    fn answered(&mut self, answer: Answer) -> Option<impl Future<Output = Outcome> + Send + 'static> {
        let reply = self.reply.take()?;
        let span = self.span();
        let (id, source, accepted) = (std::mem::take(&mut self.id), self.source, self.accepted);
        let answered = async move {
            let outcome = reply.answer(id, answer).await;
            metrics::job_answered(source, outcome, accepted.elapsed());
            outcome
        };
        Some(answered.instrument(span))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        metrics::job_left();
        let dropped =
            Failure::new(Code::InferenceFailed, "the worker dropped the job without an answer; its log says why");
        // A panic on the job's own path is evidence against the job; the end of a stage is not.
        let dropped = if std::thread::panicking() { dropped } else { dropped.without_attempt() };
        if let Some(answered) = self.answered(Answer::Failed(dropped)) {
            self.answers.spawn(answered);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;
    use crate::telemetry::span::tests::Log;

    /// Source that records its answers.
    struct Notebook(UnboundedSender<(String, Answer)>);

    impl Reply for Notebook {
        fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
            tracing::warn!("noted");
            let noted = self.0.send((id, answer));
            Box::pin(async move { if noted.is_ok() { Outcome::Retried } else { Outcome::Rejected } })
        }
    }

    /// A first delivery of the queue, and the answers to its source.
    pub(crate) fn noted(id: &str) -> (Delivery, UnboundedReceiver<(String, Answer)>) {
        noted_at(Source::Stream, id)
    }

    /// A first delivery, and the answers to its source.
    pub(crate) fn noted_at(source: Source, id: &str) -> (Delivery, UnboundedReceiver<(String, Answer)>) {
        let (notes, told) = unbounded_channel();
        (Delivery::new(id.to_owned(), source, 1, Box::new(Notebook(notes)), Answers::new()), told)
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
        let log = Log::start();
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
            let lines = log.lines(&format!("id=\"{way}\""));
            let expected = format!(" job{{id=\"{way}\" attempt=1 source=stream}}: noted");
            assert!(lines.len() == 1 && lines[0].ends_with(&expected), "{lines:?}");
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
