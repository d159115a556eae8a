//! What becomes of a job of the queue: its result or dead letter is published and confirmed, and only then is the job
//! acknowledged; or it goes back into the queue for another attempt. The message of an event ends when all its jobs have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Stream;
use super::claims::HAND_BACK;
use super::pull::Room;
use crate::delivery::{Answer, Outcome, Reply};
use crate::failure::{Class, Code, ErrorBody, Failure};
use crate::model::hex;
use crate::tags::{Base64, DeadLetter, OriginalJob, TagResult};
use crate::telemetry::metrics;

/// A client's id for its job, where the job itself has none.
pub const ID_HEADER: &str = "Tagmill-Id";

/// The first and the longest wait before another attempt.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The first and the longest wait before an unconfirmed answer is published again.
const REPUBLISH: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The stream's side of one job.
pub struct StreamReply {
    held: Arc<Held>,
    /// The job, of an event the record's.
    payload: Bytes,
    /// Which record of an event it is.
    record: Option<usize>,
}

/// A message that was claimed, until all the jobs it brought are answered.
pub(super) struct Held {
    stream: Arc<Stream>,
    message: Message,
    sequence: u64,
    attempt: u64,
    /// Jobs not answered yet, and what is to become of the message for the sake of the others.
    open: Mutex<(usize, Verdict)>,
    /// Room for more jobs, once this is dropped.
    _room: Room,
}

/// What becomes of a message, the lesser first: where one of its jobs is to be tried again it comes again as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// There is a dead letter.
    Dead,
    /// There is a result.
    Done,
    /// After this time.
    Again(Duration),
}

impl Held {
    /// Of a message that brought so many jobs, at least one.
    pub(super) fn new(
        stream: Arc<Stream>,
        message: Message,
        (sequence, attempt): (u64, u64),
        jobs: usize,
        room: Room,
    ) -> Arc<Self> {
        Arc::new(Self { stream, message, sequence, attempt, open: Mutex::new((jobs, Verdict::Dead)), _room: room })
    }

    /// One of its jobs is answered; the last ends the message.
    async fn answered(&self, verdict: Verdict) {
        let last = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            *open = (open.0.saturating_sub(1), open.1.max(verdict));
            (open.0 == 0).then_some(open.1)
        };
        let kind = match last {
            None => return,
            Some(Verdict::Dead) => AckKind::Term,
            Some(Verdict::Done) => AckKind::Ack,
            Some(Verdict::Again(delay)) => AckKind::Nak(Some(delay)),
        };
        self.stream.claims.end(self.sequence, kind).await;
    }
}

impl StreamReply {
    pub(super) const fn new(held: Arc<Held>, payload: Bytes, record: Option<usize>) -> Self {
        Self { held, payload, record }
    }

    /// What the job is called where it does not say itself.
    #[must_use]
    pub fn default_id(&self) -> String {
        let Held { stream, message, sequence, .. } = &*self.held;
        let headers = message.headers.as_ref();
        let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned());
        let id = header(ID_HEADER)
            .or_else(|| header(NATS_MESSAGE_ID.as_ref()))
            .unwrap_or_else(|| format!("{}-{sequence}", stream.topology.identity.stream));
        self.numbered(id)
    }

    /// The record's own, of an event.
    fn numbered(&self, id: String) -> String {
        match self.record {
            Some(number) => format!("{id}.{number}"),
            None => id,
        }
    }

    async fn settle(self: Box<Self>, id: String, answer: Answer) -> Outcome {
        let (verdict, outcome) = self.published(id, answer).await;
        self.held.answered(verdict).await;
        outcome
    }

    async fn published(&self, id: String, answer: Answer) -> (Verdict, Outcome) {
        let failure = match answer {
            Answer::Tagged(result) => match self.publish_result(&result).await {
                Ok(()) => return (Verdict::Done, Outcome::Tagged),
                Err(failure) => failure,
            },
            Answer::Failed(failure) => failure,
        };
        if failure.code == Code::ShuttingDown {
            // No error of the job's: however often it was handed back, it is for the next worker.
            return (Verdict::Again(HAND_BACK), Outcome::Retried);
        }
        let attempt = self.held.attempt;
        if failure.class() == Class::Retry && attempt < self.held.stream.settings.max_attempts {
            tracing::warn!(id, code = %failure.code, error = %failure, attempt, "a job will be tried again");
            return (Verdict::Again(retry_delay(attempt)), Outcome::Retried);
        }
        self.bury(id, &failure).await;
        (Verdict::Dead, Outcome::Rejected)
    }

    async fn publish_result(&self, result: &TagResult) -> Result<(), Failure> {
        let body = serde_json::to_vec(result).map_err(|error| {
            Failure::new(Code::InferenceFailed, format!("the result can't be written as JSON: {error}"))
        })?;
        let (size, tags) = (body.len(), result.tags.tags.len());
        let subject = self.held.stream.settings.subjects.result_for(&self.held.message.subject);
        self.publish_until_confirmed(&subject, &self.headers(), body.into()).await.map_err(|TooLarge| {
            Failure::new(
                Code::ResultTooLarge,
                format!(
                    "the result of {tags} tags has {size} bytes, over what the NATS server takes (max_payload, or max_msg_size of the stream); raise the thresholds, or the limit"
                ),
            )
        })
    }

    /// Writes the dead letter and sees it confirmed.
    async fn bury(&self, id: String, failure: &Failure) {
        let Held { stream, message, attempt, .. } = &*self.held;
        tracing::warn!(id, code = %failure.code, error = %failure, attempts = attempt, "a job becomes a dead letter");
        let payload = &self.payload;
        let mut letter = DeadLetter {
            id,
            subject: message.subject.to_string(),
            job: original(payload),
            error: ErrorBody::from(failure),
            attempts: *attempt,
            worker: stream.settings.worker.to_string(),
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        };
        let subject = stream.settings.subjects.dead_for(&message.subject);
        let mut headers = self.headers();
        while let Err(TooLarge) = self.publish_until_confirmed(&subject, &headers, written(&letter)).await {
            if matches!(letter.job, OriginalJob::Omitted { .. }) {
                tracing::error!(subject, "the server takes no message even of this size; the dead letter waits");
                tokio::time::sleep(REPUBLISH.1).await;
                headers = self.own_headers();
            }
            letter.job =
                OriginalJob::Omitted { job: (), job_bytes: payload.len(), job_sha256: hex(&Sha256::digest(payload)) };
        }
        metrics::dead_letter(failure.code);
    }

    /// Publishes again and again, under one message id, until the stream has it. The job stays claimed meanwhile; a worker
    /// that stops leaves it to the next.
    async fn publish_until_confirmed(&self, subject: &str, headers: &HeaderMap, body: Bytes) -> Result<(), TooLarge> {
        if wire_size(headers, body.len()) > self.held.stream.nats.client.server_info().max_payload {
            return Err(TooLarge);
        }
        let mut delay = REPUBLISH.0;
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(body.clone());
            let sent = self.held.stream.jetstream.send_publish(subject.to_owned(), message).await;
            let confirmed = match sent {
                Ok(confirmation) => confirmation.await,
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(_) => return Ok(()),
                Err(error) if is_too_large(&error) => return Err(TooLarge),
                Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                    tracing::error!(
                        subject,
                        "no stream takes this subject; the answer waits until one does (restart the worker to have it made)"
                    );
                }
                Err(error) => tracing::warn!(subject, %error, "an answer is not confirmed; publishing it again"),
            }
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(REPUBLISH.1);
            self.held.stream.nats.up().await;
        }
    }

    /// The job's headers but the server's, and the answer's own.
    fn headers(&self) -> HeaderMap {
        let mut headers = self.own_headers();
        for (name, values) in self.held.message.headers.iter().flat_map(HeaderMap::iter) {
            let name_text: &str = name.as_ref();
            let servers = name_text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"));
            for value in values.iter().filter(|_| !servers) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers
    }

    /// The id that makes a second answer to this job a duplicate.
    fn own_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let id = self.numbered(self.held.stream.topology.identity.answer_id(self.held.sequence));
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        headers
    }
}

impl Reply for StreamReply {
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        self.settle(id, answer).boxed()
    }
}

/// The server will never take this message.
struct TooLarge;

fn is_too_large(error: &PublishError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    let code = source.map(jetstream::Error::error_code);
    error.kind() == PublishErrorKind::MaxPayloadExceeded || code == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

fn written(letter: &DeadLetter) -> Bytes {
    // Nothing in it can fail to be written: it came from JSON, or is text.
    serde_json::to_vec(letter).unwrap_or_default().into()
}

/// What the server counts against its payload limit: the headers as they are written, and the body.
fn wire_size(headers: &HeaderMap, body: usize) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let lines: usize =
        lines.map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()).sum();
    "NATS/1.0\r\n\r\n".len() + lines + body
}

fn original(payload: &Bytes) -> OriginalJob {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(job) => OriginalJob::Json { job },
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => OriginalJob::Text { job: text.to_owned() },
            Err(_) => OriginalJob::Bytes { job: Base64 { base64: STANDARD.encode(payload) } },
        },
    }
}

/// Doubles with each attempt, with jitter, so that jobs that failed together do not come back together.
fn retry_delay(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    jittered((RETRY.0 * 2u32.pow(doublings)).min(RETRY.1))
}

fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_job_is_kept_as_it_was() {
        let json =
            |payload: &'static [u8]| serde_json::to_string(&original(&Bytes::from_static(payload))).expect("JSON");
        assert_eq!(json(br#"{"image": "a",  "n":1.0}"#), r#"{"job":{"image": "a",  "n":1.0}}"#);
        assert_eq!(json(b"not json"), r#"{"job":"not json"}"#);
        assert_eq!(json(b"\xff\x00"), r#"{"job":{"base64":"/wA="}}"#);
    }

    #[test]
    fn a_message_is_tried_again_for_one_of_its_jobs_and_ended_as_dead_only_for_all() {
        let again = Verdict::Again(Duration::from_secs(1));
        assert_eq!([Verdict::Done, again, Verdict::Dead].into_iter().max(), Some(again));
        assert_eq!([Verdict::Dead, Verdict::Done, Verdict::Dead].into_iter().max(), Some(Verdict::Done));
        assert!(again < Verdict::Again(Duration::from_secs(2)));
    }

    #[test]
    fn attempts_are_spread_from_a_second_to_a_minute() {
        for (attempt, seconds) in [(1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (1000, 60.0)] {
            let delay = retry_delay(attempt).as_secs_f64();
            assert!((seconds * 0.8..=seconds * 1.2).contains(&delay), "{attempt}: {delay}");
        }
    }
}
