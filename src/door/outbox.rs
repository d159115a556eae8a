//! What doors publish: results and dead letters, again and again until their streams have confirmed them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{HeaderMap, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::delivery::Answer;
use crate::failure::{Code, ErrorBody, Failure};
use crate::job::LONGEST_ID;
use crate::nats::{Nats, is_full, reply};
use crate::tags::{Base64, DeadLetter, OriginalJob, TagResult};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{self, Stage};
use crate::telemetry::seldom;

/// A client's id for its job, where the job itself has none.
pub(crate) const ID_HEADER: &str = "Tagmill-Id";

/// The first and the longest wait before an unconfirmed answer is published again.
const REPUBLISH: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Publishes answers. A clone is another way out of the same box.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    nats: Nats,
    jetstream: Context,
    health: Health,
    /// Answers that wait to be confirmed, after one try.
    waiting: Arc<watch::Sender<Backlog>>,
}

/// Answers that wait.
#[derive(Clone, Copy, Debug, Default)]
struct Backlog {
    count: usize,
    /// When the first of them began to.
    since: Option<Instant>,
}

/// An answer that waits, as long as this is held.
struct Waiting<'a>(&'a Outbox);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count(|waiting| waiting - 1);
    }
}

/// The server will never take this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TooLarge {
    /// For its headers alone, which may have 64 KiB in a stream.
    Headers,
    /// For all of it.
    Message,
}

impl Outbox {
    /// On this connection.
    #[must_use]
    pub(crate) fn new(nats: Nats, health: Health) -> Self {
        Self { jetstream: jetstream::new(nats.client.clone()), nats, health, waiting: Arc::default() }
    }

    /// Ends when answers wait to be confirmed, or none does.
    pub(crate) async fn until_some_wait(&self, some: bool) {
        // It fails only where the sender is gone, which is held here.
        let _ = self.waiting.subscribe().wait_for(|waiting| (waiting.count > 0) == some).await;
    }

    fn wait(&self) -> Waiting<'_> {
        self.count(|waiting| waiting + 1);
        Waiting(self)
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        self.waiting.send_modify(|waiting| {
            waiting.count = change(waiting.count);
            metrics::waiting_answers(waiting.count);
            self.health.set_answers(waiting.count == 0);
            if waiting.count > 0 {
                waiting.since.get_or_insert_with(Instant::now);
            } else if let Some(since) = waiting.since.take() {
                tracing::info!(after = ?since.elapsed(), "all answers are stored");
            }
        });
    }

    /// Publishes the result that a job came to, if it did.
    ///
    /// # Errors
    /// The failure it came to instead, or `result_too_large`.
    pub(crate) async fn answer(&self, subject: &str, headers: &HeaderMap, answer: Answer) -> Result<(), Failure> {
        match answer {
            Answer::Tagged(result) => {
                let stored = self.result(subject, headers, &result).await;
                stored.inspect_err(|failure| metrics::failed(Stage::Publish, failure.code))
            }
            Answer::Failed(failure) => Err(failure),
        }
    }

    /// Publishes a result and sees it confirmed.
    ///
    /// # Errors
    /// `result_too_large` where the server will never take it.
    async fn result(&self, subject: &str, headers: &HeaderMap, result: &TagResult) -> Result<(), Failure> {
        let body = written_result(result)?;
        let (size, tags) = (body.len(), result.tags.tags.len());
        self.until_confirmed(subject, headers, body).await.map_err(|_| result_too_large(tags, size))
    }

    /// Publishes a dead letter and sees it confirmed, with as much of the job and its headers as the server takes.
    pub(crate) async fn letter(&self, subject: &str, mut headers: HeaderMap, mut letter: DeadLetter, payload: &Bytes) {
        let (code, mut waiting) = (letter.error.code, None);
        while let Err(too_large) = self.until_confirmed(subject, &headers, written(&letter)).await {
            let omitted = matches!(letter.job, OriginalJob::Omitted { .. });
            if headers.len() > 1 && (omitted || too_large == TooLarge::Headers) {
                headers = id_alone(&headers);
            } else if omitted {
                tracing::error!(subject, "the server takes no message even of this size; the dead letter waits");
                waiting.get_or_insert_with(|| self.wait());
                tokio::time::sleep(REPUBLISH.after(u64::MAX)).await;
            } else {
                let (job_bytes, job_sha256) = (payload.len(), hex::encode(Sha256::digest(payload)));
                letter.job = OriginalJob::Omitted { job: (), job_bytes, job_sha256 };
            }
        }
        metrics::dead_letter(code);
    }

    /// Publishes again and again, under one message id, until the stream has it.
    async fn until_confirmed(&self, subject: &str, headers: &HeaderMap, body: Bytes) -> Result<(), TooLarge> {
        if !self.fits(headers, body.len()) {
            return Err(TooLarge::Message);
        }
        let (mut tries, mut waiting) = (0, None);
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(body.clone());
            let sent = self.jetstream.send_publish(subject.to_owned(), message).await;
            let confirmed = match sent {
                Ok(confirmation) => confirmation.await,
                Err(error) => Err(error),
            };
            let Err(error) = confirmed else { return Ok(()) };
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

    /// Whether the server takes messages of this size.
    #[must_use]
    pub(crate) fn fits(&self, headers: &HeaderMap, body: usize) -> bool {
        wire_size(headers, body) <= self.nats.client.server_info().max_payload
    }
}

fn unconfirmed(subject: &str, error: &PublishError) {
    if error.kind() == PublishErrorKind::StreamNotFound {
        if seldom::is_new("no stream takes an answer", None) {
            tracing::error!(
                subject,
                "no stream takes this subject; the answer waits until one does (restart the worker to have it made)"
            );
        }
    } else if reply(error).is_some_and(is_full) {
        if seldom::is_new("an answer finds no room", None) {
            tracing::error!(subject, %error, "the stream of this subject has no room; the answer waits until it has (nats stream edit, or purge)");
        }
    } else if seldom::is_new("an answer is not confirmed", None) {
        tracing::warn!(subject, %error, "an answer is not confirmed; publishing it again");
    }
}

/// A result as it is sent.
///
/// # Errors
/// Where it can't be written as JSON.
pub(crate) fn written_result(result: &TagResult) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(result).map_err(|error| {
        Failure::new(Code::InferenceFailed, format!("the result can't be written as JSON: {error}"))
    })?;
    Ok(body.into())
}

/// The failure of a job whose result does not fit.
#[must_use]
pub(crate) fn result_too_large(tags: usize, size: usize) -> Failure {
    Failure::new(
        Code::ResultTooLarge,
        format!(
            "the result of {tags} tags has {size} bytes, with its headers over what the NATS server takes (max_payload, max_msg_size of the stream, 64 KiB of headers); raise the thresholds or the limit, or send fewer headers"
        ),
    )
}

/// What a message's headers call its job; as in its payload, a name is neither empty nor long.
#[must_use]
pub(crate) fn id_in(headers: Option<&HeaderMap>) -> Option<String> {
    let header = |name: &str| {
        let value = headers.and_then(|headers| headers.get(name))?.as_str();
        (1..=LONGEST_ID).contains(&value.len()).then(|| value.to_owned())
    };
    header(ID_HEADER).or_else(|| header(NATS_MESSAGE_ID.as_ref()))
}

/// Adds a job's headers but the server's.
pub(crate) fn carry(job: &Message, headers: &mut HeaderMap) {
    for (name, values) in job.headers.iter().flat_map(HeaderMap::iter) {
        let name_text: &str = name.as_ref();
        let servers = name_text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"));
        for value in values.iter().filter(|_| !servers) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// A job's payload as a dead letter keeps it.
#[must_use]
pub(crate) fn original(payload: &Bytes) -> OriginalJob {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(job) => OriginalJob::Json { job },
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => OriginalJob::Text { job: text.to_owned() },
            Err(_) => OriginalJob::Bytes { job: Base64 { base64: STANDARD.encode(payload) } },
        },
    }
}

/// What becomes of a job that failed at this attempt.
pub(super) fn dead_letter(
    id: String,
    subject: &str,
    payload: &Bytes,
    (failure, attempts): (&Failure, u64),
    worker: &str,
) -> DeadLetter {
    DeadLetter {
        id,
        subject: subject.to_owned(),
        job: original(payload),
        error: ErrorBody::from(failure),
        attempts,
        worker: worker.to_owned(),
        at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    }
}

/// Whether a message is refused for its size. Whatever else the server says may be mended: it is waited for.
fn too_large(error: &PublishError) -> Option<TooLarge> {
    match reply(error).map(jetstream::Error::error_code) {
        Some(ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => Some(TooLarge::Headers),
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => Some(TooLarge::Message),
        _ => (error.kind() == PublishErrorKind::MaxPayloadExceeded).then_some(TooLarge::Message),
    }
}

/// Of a message's headers, what tells it from others.
fn id_alone(headers: &HeaderMap) -> HeaderMap {
    let mut alone = HeaderMap::new();
    if let Some(id) = headers.get(NATS_MESSAGE_ID) {
        alone.insert(NATS_MESSAGE_ID, id.clone());
    }
    alone
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_a_job_as_a_payload_does() {
        let named = |id: &str, message: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID_HEADER, id);
            headers.insert(NATS_MESSAGE_ID, message);
            id_in(Some(&headers))
        };
        let (longest, long) = ("x".repeat(LONGEST_ID), "x".repeat(LONGEST_ID + 1));
        assert_eq!(named("mine", "upload").as_deref(), Some("mine"));
        assert_eq!(named(&longest, "upload"), Some(longest.clone()));
        assert_eq!(named(&long, "upload").as_deref(), Some("upload"));
        assert_eq!(named("", &long), None);
        assert_eq!(id_in(None), None);
    }

    #[test]
    fn the_original_job_is_kept_as_it_was() {
        let json =
            |payload: &'static [u8]| serde_json::to_string(&original(&Bytes::from_static(payload))).expect("JSON");
        assert_eq!(json(br#"{"image": "a",  "n":1.0}"#), r#"{"job":{"image": "a",  "n":1.0}}"#);
        assert_eq!(json(b"not json"), r#"{"job":"not json"}"#);
        assert_eq!(json(b"\xff\x00"), r#"{"job":{"base64":"/wA="}}"#);
    }
}
