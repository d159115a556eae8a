//! Publishes results and dead letters, again and again until their streams have confirmed them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::answer_body::{self, result_too_large};
use super::headers::{id_alone, retry_of, wire_size};
use super::{Nats, is_full, reply};
use crate::backoff::Backoff;
use crate::delivery::Answer;
use crate::failure::{Code, Failure};
use crate::job::random_id;
use crate::tags::{DeadLetter, OriginalJob, TagResult};
use crate::telemetry::health::Health;
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;
use crate::telemetry::rate_limited;

/// The first and the longest wait before an unconfirmed answer is published again.
const REPUBLISH: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// How often a duplicate is looked at, whether it is another job's.
const LOOKS: u64 = 4;

/// Publishes answers until they are confirmed. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct ConfirmedPublisher {
    nats: Nats,
    jetstream: Context,
    health: Health,
    /// Answers that wait to be confirmed, after one try.
    waiting: Arc<watch::Sender<WaitingAnswers>>,
}

/// Answers that wait.
#[derive(Clone, Copy, Debug, Default)]
struct WaitingAnswers {
    count: usize,
    /// When the first of them began to.
    since: Option<Instant>,
}

/// An answer that waits, as long as this is held.
struct WaitingAnswer<'a> {
    publisher: &'a ConfirmedPublisher,
    /// `true` if it waits no longer because it is stored; a stop gives it up.
    stored: bool,
}

impl Drop for WaitingAnswer<'_> {
    fn drop(&mut self) {
        self.publisher.count(self.stored, |waiting| waiting - 1);
    }
}

/// Why the stream will never take this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unstorable {
    /// Its headers alone are too large: they may have 64 KiB in a stream.
    Headers,
    /// All of it is too large.
    Message,
    /// Another job's answer has its message id: the jobs stream was made anew.
    Taken,
}

impl ConfirmedPublisher {
    /// On this connection.
    #[must_use]
    pub(crate) fn new(nats: Nats, health: Health) -> Self {
        Self { jetstream: jetstream::new(nats.client.clone()), nats, health, waiting: Arc::default() }
    }

    /// Returns `true` while answers wait to be confirmed.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.borrow().count > 0
    }

    fn wait(&self) -> WaitingAnswer<'_> {
        self.count(false, |waiting| waiting + 1);
        WaitingAnswer { publisher: self, stored: false }
    }

    fn count(&self, stored: bool, change: impl FnOnce(usize) -> usize) {
        self.waiting.send_modify(|waiting| {
            waiting.count = change(waiting.count);
            metrics::waiting_answers(waiting.count);
            self.health.set_answers(waiting.count == 0);
            if waiting.count > 0 {
                waiting.since.get_or_insert_with(Instant::now);
            } else if let Some(since) = waiting.since.take()
                && stored
            {
                tracing::info!(after = ?since.elapsed(), "all answers are stored");
            }
        });
    }

    /// Publishes the result of a job, if it has one. `other` is its message id if another job's result has the one in
    /// `headers`, as after the jobs stream was made anew within a second; it is used once the future has ended.
    ///
    /// # Errors
    /// The job's failure, or `result_too_large`.
    pub(crate) async fn answer(
        &self,
        subject: &str,
        headers: &HeaderMap,
        other: Option<(&str, BoxFuture<'_, ()>)>,
        answer: Answer,
    ) -> Result<(), Failure> {
        match answer {
            Answer::Tagged(mut result) => {
                result.retry_of = retry_of(headers);
                let stored = self.result(subject, headers, other, &result).await;
                stored.inspect_err(|failure| metrics::failed(Stage::Publish, failure.code))
            }
            Answer::Failed(failure) => Err(failure),
        }
    }

    /// Publishes a result and sees it confirmed.
    ///
    /// # Errors
    /// `result_too_large` where the server will never take it.
    async fn result(
        &self,
        subject: &str,
        headers: &HeaderMap,
        other: Option<(&str, BoxFuture<'_, ()>)>,
        result: &TagResult,
    ) -> Result<(), Failure> {
        let body = answer_body::result(result)?;
        let (size, tags) = (body.len(), result.tags.tags.len());
        let mut stored = self.until_confirmed(subject, headers, body.clone()).await;
        if let (Err(Unstorable::Taken), Some((id, is_sure))) = (&stored, other) {
            is_sure.await;
            let mut headers = headers.clone();
            headers.insert(NATS_MESSAGE_ID, id);
            stored = self.until_confirmed(subject, &headers, body).await;
        }
        stored.map_err(|reason| match reason {
            Unstorable::Headers | Unstorable::Message => result_too_large(tags, size),
            Unstorable::Taken => {
                let message = "another job's result has the id of this one's: the jobs stream was made anew";
                Failure::new(Code::ShuttingDown, message)
            }
        })
    }

    /// Publishes a dead letter and sees it confirmed, with as much of the job and its headers as the server takes.
    pub(crate) async fn dead_letter(
        &self,
        subject: &str,
        mut headers: HeaderMap,
        mut letter: DeadLetter,
        payload: &Bytes,
    ) {
        letter.retry_of = retry_of(&headers);
        let (code, mut waiting) = (letter.error.code, None);
        while let Err(reason) = self.until_confirmed(subject, &headers, answer_body::encode(&letter)).await {
            let omitted = matches!(letter.job, OriginalJob::Omitted { .. });
            if reason == Unstorable::Taken {
                headers.insert(NATS_MESSAGE_ID, random_id().as_str());
            } else if headers.len() > 1 && (omitted || reason == Unstorable::Headers) {
                headers = id_alone(&headers);
            } else if omitted {
                tracing::error!(subject, "the server takes no message even of this size; the dead letter waits");
                waiting.get_or_insert_with(|| self.wait());
                tokio::time::sleep(REPUBLISH.after(u64::MAX)).await;
            } else {
                letter.job = answer_body::omitted(payload);
            }
        }
        if let Some(waiting) = &mut waiting {
            waiting.stored = true;
        }
        metrics::dead_letter(code);
    }

    /// Publishes again and again, under one message id, until the stream has it.
    async fn until_confirmed(&self, subject: &str, headers: &HeaderMap, body: Bytes) -> Result<(), Unstorable> {
        if !self.fits(headers, body.len()) {
            return Err(Unstorable::Message);
        }
        let (mut tries, mut waiting): (_, Option<WaitingAnswer<'_>>) = (0, None);
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(body.clone());
            let sent = self.jetstream.send_publish(subject.to_owned(), message).await;
            let confirmed = match sent {
                Ok(confirmation) => confirmation.await,
                Err(error) => Err(error),
            };
            let error = match confirmed {
                Ok(ack) if ack.duplicate && self.is_anothers(&ack, &body).await => return Err(Unstorable::Taken),
                Ok(_) => {
                    if let Some(waiting) = &mut waiting {
                        waiting.stored = true;
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if let Some(too_large) = too_large(&error) {
                return Err(too_large);
            }
            unconfirmed(subject, &error);
            waiting.get_or_insert_with(|| self.wait());
            tries += 1;
            tokio::time::sleep(REPUBLISH.after(tries)).await;
            self.nats.up().await;
        }
    }

    /// Whether the message that was stored under this id is the answer to another job. One that is no longer there was not:
    /// it was read, as this job's answer or the other's.
    async fn is_anothers(&self, ack: &PublishAck, body: &[u8]) -> bool {
        let mut tries = 0;
        loop {
            let Ok(stream) = self.jetstream.get_stream_no_info(&ack.stream).await else { return false };
            match stream.get_raw_message(ack.sequence).await {
                Ok(stored) => return answer_body::job_of(&stored.payload) != answer_body::job_of(body),
                Err(error) => {
                    tracing::debug!(%error, "a duplicate of an answer can't be looked at");
                    tries += 1;
                    if error.kind() == RawMessageErrorKind::NoMessageFound || tries == LOOKS {
                        return false;
                    }
                    tokio::time::sleep(REPUBLISH.after(tries)).await;
                }
            }
        }
    }

    /// Returns `true` if the server takes messages of this size.
    #[must_use]
    pub(crate) fn fits(&self, headers: &HeaderMap, body: usize) -> bool {
        wire_size(headers, body) <= self.nats.client.server_info().max_payload
    }
}

fn unconfirmed(subject: &str, error: &PublishError) {
    if error.kind() == PublishErrorKind::StreamNotFound {
        if rate_limited::is_new("no stream takes an answer", None) {
            tracing::error!(
                subject,
                "no stream takes this subject; the answer waits until one does (restart the worker to have it made)"
            );
        }
    } else if reply(error).is_some_and(is_full) {
        if rate_limited::is_new("an answer finds no room", None) {
            tracing::error!(subject, %error, "the stream of this subject has no room; the answer waits until it has (nats stream edit, or purge)");
        }
    } else if rate_limited::is_new("an answer is not confirmed", None) {
        tracing::warn!(subject, %error, "an answer is not confirmed; publishing it again");
    }
}

/// Part of a message that is over the server's limit; `None` for errors that may pass and are retried.
fn too_large(error: &PublishError) -> Option<Unstorable> {
    match reply(error).map(jetstream::Error::error_code) {
        Some(ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => Some(Unstorable::Headers),
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => Some(Unstorable::Message),
        _ => (error.kind() == PublishErrorKind::MaxPayloadExceeded).then_some(Unstorable::Message),
    }
}
