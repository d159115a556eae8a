//! What doors publish: results and dead letters, again and again until their streams have confirmed them.

use std::time::Duration;

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

use crate::failure::{Code, Failure};
use crate::model::hex;
use crate::nats::Nats;
use crate::tags::{Base64, DeadLetter, OriginalJob, TagResult};
use crate::telemetry::{metrics, seldom};

/// A client's id for its job, where the job itself has none.
pub const ID_HEADER: &str = "Tagmill-Id";

/// The first and the longest wait before an unconfirmed answer is published again.
const REPUBLISH: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Publishes answers.
#[derive(Clone, Debug)]
pub struct Outbox {
    nats: Nats,
    jetstream: Context,
}

/// The server will never take this message.
#[derive(Debug)]
pub struct TooLarge;

impl Outbox {
    /// On this connection.
    #[must_use]
    pub fn new(nats: Nats) -> Self {
        Self { jetstream: jetstream::new(nats.client.clone()), nats }
    }

    /// Publishes a result and sees it confirmed.
    ///
    /// # Errors
    /// `result_too_large` where the server will never take it.
    pub async fn result(&self, subject: &str, headers: &HeaderMap, result: &TagResult) -> Result<(), Failure> {
        let body = written_result(result)?;
        let (size, tags) = (body.len(), result.tags.tags.len());
        self.until_confirmed(subject, headers, body).await.map_err(|TooLarge| result_too_large(tags, size))
    }

    /// Publishes a dead letter and sees it confirmed, with as much of the job as the server takes. Where even that is too
    /// much with all of the headers, the message id must do.
    pub async fn letter(&self, subject: &str, mut headers: HeaderMap, mut letter: DeadLetter, payload: &Bytes) {
        let code = letter.error.code;
        while let Err(TooLarge) = self.until_confirmed(subject, &headers, written(&letter)).await {
            if matches!(letter.job, OriginalJob::Omitted { .. }) {
                tracing::error!(subject, "the server takes no message even of this size; the dead letter waits");
                tokio::time::sleep(REPUBLISH.1).await;
                let id = headers.get(NATS_MESSAGE_ID).cloned();
                headers = HeaderMap::new();
                if let Some(id) = id {
                    headers.insert(NATS_MESSAGE_ID, id);
                }
            }
            letter.job =
                OriginalJob::Omitted { job: (), job_bytes: payload.len(), job_sha256: hex(&Sha256::digest(payload)) };
        }
        metrics::dead_letter(code);
    }

    /// Publishes again and again, under one message id, until the stream has it.
    async fn until_confirmed(&self, subject: &str, headers: &HeaderMap, body: Bytes) -> Result<(), TooLarge> {
        if !self.fits(headers, body.len()) {
            return Err(TooLarge);
        }
        let mut delay = REPUBLISH.0;
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(body.clone());
            let sent = self.jetstream.send_publish(subject.to_owned(), message).await;
            let confirmed = match sent {
                Ok(confirmation) => confirmation.await,
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(_) => return Ok(()),
                Err(error) if is_too_large(&error) => return Err(TooLarge),
                Err(error) => unconfirmed(subject, &error),
            }
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(REPUBLISH.1);
            self.nats.up().await;
        }
    }

    /// Whether the server takes messages of this size.
    #[must_use]
    pub fn fits(&self, headers: &HeaderMap, body: usize) -> bool {
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
    } else if seldom::is_new("an answer is not confirmed", None) {
        tracing::warn!(subject, %error, "an answer is not confirmed; publishing it again");
    }
}

/// A result as it is sent.
///
/// # Errors
/// Where it can't be written as JSON.
pub fn written_result(result: &TagResult) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(result).map_err(|error| {
        Failure::new(Code::InferenceFailed, format!("the result can't be written as JSON: {error}"))
    })?;
    Ok(body.into())
}

/// The failure of a job whose result does not fit.
#[must_use]
pub fn result_too_large(tags: usize, size: usize) -> Failure {
    Failure::new(
        Code::ResultTooLarge,
        format!(
            "the result of {tags} tags has {size} bytes, over what the NATS server takes (max_payload, or max_msg_size of the stream); raise the thresholds, or the limit"
        ),
    )
}

/// What a message's headers call its job.
#[must_use]
pub fn id_in(headers: Option<&HeaderMap>) -> Option<String> {
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned());
    header(ID_HEADER).or_else(|| header(NATS_MESSAGE_ID.as_ref()))
}

/// Adds a job's headers but the server's.
pub fn carry(job: &Message, headers: &mut HeaderMap) {
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
pub fn original(payload: &Bytes) -> OriginalJob {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(job) => OriginalJob::Json { job },
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => OriginalJob::Text { job: text.to_owned() },
            Err(_) => OriginalJob::Bytes { job: Base64 { base64: STANDARD.encode(payload) } },
        },
    }
}

/// A delay that differs a little each time, so that what waits together does not come back together.
pub(super) fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.8..1.2))
}

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
}
