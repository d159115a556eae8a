//! What becomes of a job of the queue: its result or dead letter is published and confirmed, and only then is the job
//! acknowledged; or it goes back into the queue for another attempt. The message of an event ends when all its jobs have.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::AckKind;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::Stream;
use super::acks::HAND_BACK;
use super::limit::Slot;
use crate::backoff::Backoff;
use crate::delivery::{Answer, Reply};
use crate::failure::{Class, Code, Failure};
use crate::nats::answer_body::dead_letter;
use crate::nats::headers::{carry, id_in, retry_of};
use crate::telemetry::labels::Outcome;
use crate::telemetry::rate_limited::warn_limited;

/// The stream's side of one job.
pub(crate) struct StreamReply {
    held: Arc<OpenMessage>,
    /// The job, of an event the record's.
    payload: Bytes,
    /// Which record of an event it is.
    record: Option<usize>,
    /// Its slot, until it is answered.
    slot: Slot,
}

/// A message that was claimed, until all the jobs it brought are answered.
pub(super) struct OpenMessage {
    stream: Arc<Stream>,
    message: Message,
    sequence: u64,
    history: History,
    /// Jobs not answered yet, and what is to become of the message for the sake of the others.
    open: Mutex<(usize, MessageOutcome)>,
}

/// The deliveries of a message so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    /// Number of this one, from 1.
    pub(super) number: u64,
    /// `true` if the message may have ended workers.
    pub(super) is_quarantined: bool,
}

/// What becomes of a message, the lesser first: where one of its jobs is to be tried again it comes again as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MessageOutcome {
    /// There is a dead letter.
    Dead,
    /// There is a result.
    Done,
    /// After this time.
    Again(Duration),
}

impl OpenMessage {
    /// Of a message that brought so many jobs, at least one.
    pub(super) fn new(
        stream: Arc<Stream>,
        message: Message,
        sequence: u64,
        history: History,
        jobs: usize,
    ) -> Arc<Self> {
        Arc::new(Self { stream, message, sequence, history, open: Mutex::new((jobs, MessageOutcome::Dead)) })
    }

    /// The deliveries of the message so far.
    pub(super) const fn history(&self) -> History {
        self.history
    }

    /// One of its jobs is answered; the last ends the message.
    async fn record_outcome(&self, verdict: MessageOutcome) {
        let last = {
            let mut open = self.open.lock();
            *open = (open.0.saturating_sub(1), open.1.max(verdict));
            (open.0 == 0).then_some(open.1)
        };
        let kind = match last {
            None => return,
            Some(MessageOutcome::Dead) => AckKind::Term,
            Some(MessageOutcome::Done) => AckKind::Ack,
            Some(MessageOutcome::Again(delay)) => AckKind::Nak(Some(delay)),
        };
        // The job of that sequence may be another's by now.
        self.stream.verified().await;
        self.stream.acks.ack(self.sequence, kind).await;
    }
}

impl StreamReply {
    pub(super) const fn new(held: Arc<OpenMessage>, payload: Bytes, record: Option<usize>, slot: Slot) -> Self {
        Self { held, payload, record, slot }
    }

    /// What the job is called where it does not say itself.
    #[must_use]
    pub(crate) fn default_id(&self) -> String {
        let OpenMessage { stream, message, sequence, .. } = &*self.held;
        let id = id_in(message.headers.as_ref());
        self.numbered(id.unwrap_or_else(|| format!("{}-{sequence}", stream.topology.identity.stream)))
    }

    /// The record's own, of an event.
    fn numbered(&self, id: String) -> String {
        match self.record {
            Some(number) => format!("{id}.{number}"),
            None => id,
        }
    }

    async fn settle(self: Box<Self>, id: String, answer: Answer) -> Outcome {
        // Until the message is acknowledged.
        let Some(_answering) = self.held.stream.acks.begin_answer(self.held.sequence) else {
            // It was handed back: the answer is for the next worker to give.
            return Outcome::Retried;
        };
        let (verdict, outcome) = self.published(id, answer).await;
        self.held.record_outcome(verdict).await;
        outcome
    }

    async fn published(&self, id: String, answer: Answer) -> (MessageOutcome, Outcome) {
        let OpenMessage { stream, message, .. } = &*self.held;
        let subject = stream.settings.subjects.result_for(&message.subject);
        let was_tagged = matches!(answer, Answer::Tagged(_));
        let headers = self.headers();
        // A worker whose stream is another by now ends here, and leaves the job to the workers of that one.
        let is_same = async {
            stream.check_identity_soon();
            stream.verified().await;
        }
        .boxed();
        let other_id = self.numbered(stream.topology.identity.exact_answer_id(self.held.sequence));
        let Err(failure) = stream.publisher.answer(&subject, &headers, Some((&other_id, is_same)), answer).await else {
            stream.streak.end();
            if let Some(letter) = retry_of(&headers) {
                stream.evidence.close(&letter).await;
            }
            return (MessageOutcome::Done, Outcome::Tagged);
        };
        if failure.code == Code::ShuttingDown {
            // No error of the job's: however often it was handed back, it is for the next worker.
            if was_tagged {
                // Its answer's id is taken.
                stream.check_identity_soon();
            }
            return (MessageOutcome::Again(HAND_BACK), Outcome::Retried);
        }
        if failure.code == Code::InferenceFailed {
            // Its batch may have failed for this row.
            stream.acks.leave_unexplained(self.held.sequence);
        }
        if !failure.spends_attempt() {
            return (MessageOutcome::Again(Backoff::OF_JOBS.after(self.held.history.number)), Outcome::Retried);
        }
        if failure.class() == Class::Retry {
            let failures = stream.evidence.failed(&self.numbered(self.held.sequence.to_string())).await;
            if failures < stream.settings.max_attempts {
                warn_limited!("a job will be tried again", failure.code, error = %failure);
                return (MessageOutcome::Again(Backoff::OF_JOBS.after(failures)), Outcome::Retried);
            }
        }
        self.dead_letter(id, &failure).await;
        (MessageOutcome::Dead, Outcome::Rejected)
    }

    /// Writes the dead letter and sees it confirmed.
    async fn dead_letter(&self, id: String, failure: &Failure) {
        let OpenMessage { stream, message, history, .. } = &*self.held;
        stream.streak.count(failure.code);
        warn_limited!("a job becomes a dead letter", failure.code, error = %failure);
        let payload = &self.payload;
        let letter = dead_letter(id, &message.subject, payload, (failure, history.number), &stream.settings.worker);
        let subject = stream.settings.subjects.dead_for(&message.subject);
        stream.publisher.dead_letter(&subject, self.headers(), letter, payload).await;
    }

    /// The job's headers but the server's, and the id that makes a second answer to this job a duplicate.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let id = self.numbered(self.held.stream.topology.identity.answer_id(self.held.sequence));
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        carry(&self.held.message, &mut headers);
        headers
    }
}

impl Reply for StreamReply {
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        self.settle(id, answer).boxed()
    }

    fn set_parked(&self, parked: bool) {
        self.slot.set_parked(parked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_again_for_one_of_its_jobs_and_ended_as_dead_only_for_all() {
        let again = MessageOutcome::Again(Duration::from_secs(1));
        assert_eq!([MessageOutcome::Done, again, MessageOutcome::Dead].into_iter().max(), Some(again));
        assert_eq!(
            [MessageOutcome::Dead, MessageOutcome::Done, MessageOutcome::Dead].into_iter().max(),
            Some(MessageOutcome::Done)
        );
        assert!(again < MessageOutcome::Again(Duration::from_secs(2)));
    }
}
