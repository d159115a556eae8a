//! What becomes of a job of the queue: its result or dead letter is published and confirmed, and only then is the job
//! acknowledged; or it goes back into the queue for another attempt.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::AckKind;
use async_nats::{HeaderMap, Message};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::Stream;
use super::claims::HAND_BACK;
use crate::delivery::{Answer, Outcome, Reply};
use crate::door::outbox::{carry, id_in, jittered, original};
use crate::failure::{Class, Code, ErrorBody, Failure};
use crate::tags::{DeadLetter, TagResult};

/// The first and the longest wait before another attempt.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The stream's side of one job.
pub struct StreamReply {
    stream: Arc<Stream>,
    message: Message,
    sequence: u64,
    attempt: u64,
    /// A place for another job, once this is dropped.
    _place: OwnedSemaphorePermit,
}

impl StreamReply {
    pub(super) fn new(
        stream: Arc<Stream>,
        message: Message,
        sequence: u64,
        attempt: u64,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, message, sequence, attempt, _place: place }
    }

    /// What the job is called where it does not say itself.
    #[must_use]
    pub fn default_id(&self) -> String {
        id_in(self.message.headers.as_ref())
            .unwrap_or_else(|| format!("{}-{}", self.stream.topology.identity.stream, self.sequence))
    }

    async fn settle(self: Box<Self>, id: String, answer: Answer) -> Outcome {
        let failure = match answer {
            Answer::Tagged(result) => match self.publish_result(&result).await {
                Ok(()) => {
                    self.acknowledge(AckKind::Ack).await;
                    return Outcome::Tagged;
                }
                Err(failure) => failure,
            },
            Answer::Failed(failure) => failure,
        };
        if failure.code == Code::ShuttingDown {
            // No error of the job's: however often it was handed back, it is for the next worker.
            self.acknowledge(AckKind::Nak(Some(HAND_BACK))).await;
            return Outcome::Retried;
        }
        if failure.class() == Class::Retry && self.attempt < self.stream.settings.max_attempts {
            let delay = retry_delay(self.attempt);
            tracing::warn!(id, code = %failure.code, error = %failure, attempt = self.attempt, "a job will be tried again");
            self.acknowledge(AckKind::Nak(Some(delay))).await;
            return Outcome::Retried;
        }
        self.bury(id, &failure).await;
        Outcome::Rejected
    }

    async fn acknowledge(&self, kind: AckKind) {
        self.stream.claims.end(self.sequence, kind).await;
    }

    async fn publish_result(&self, result: &TagResult) -> Result<(), Failure> {
        let subject = self.stream.settings.subjects.result_for(&self.message.subject);
        self.stream.outbox.result(&subject, &self.headers(), result).await
    }

    /// Writes the dead letter, sees it confirmed, and only then ends the job. The job stays claimed meanwhile; a worker that
    /// stops leaves it to the next.
    async fn bury(&self, id: String, failure: &Failure) {
        tracing::warn!(id, code = %failure.code, error = %failure, attempts = self.attempt, "a job becomes a dead letter");
        let payload = &self.message.payload;
        let letter = DeadLetter {
            id,
            subject: self.message.subject.to_string(),
            job: original(payload),
            error: ErrorBody::from(failure),
            attempts: self.attempt,
            worker: self.stream.settings.worker.to_string(),
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        };
        let subject = self.stream.settings.subjects.dead_for(&self.message.subject);
        self.stream.outbox.letter(&subject, self.headers(), letter, payload).await;
        self.acknowledge(AckKind::Term).await;
    }

    /// The job's headers but the server's, and the id that makes a second answer to this job a duplicate.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, self.stream.topology.identity.answer_id(self.sequence).as_str());
        carry(&self.message, &mut headers);
        headers
    }
}

impl Reply for StreamReply {
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        self.settle(id, answer).boxed()
    }
}

/// Doubles with each attempt, with jitter, so that jobs that failed together do not come back together.
fn retry_delay(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    jittered((RETRY.0 * 2u32.pow(doublings)).min(RETRY.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_spread_from_a_second_to_a_minute() {
        for (attempt, seconds) in [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (1000, 60.0)] {
            let delay = retry_delay(attempt).as_secs_f64();
            assert!((seconds * 0.8..=seconds * 1.2).contains(&delay), "{attempt}: {delay}");
        }
    }
}
