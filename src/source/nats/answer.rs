//! What becomes of a request over NATS: its caller is answered; where there is none, the result or dead letter is published as a job
//! of the queue has it.

use std::sync::Arc;
use std::time::Instant;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{HeaderMap, HeaderValue, Message, Subject};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::NatsSource;
use crate::delivery::{Answer, Reply};
use crate::failure::{Code, ErrorBody, Failure};
use crate::job::random_id;
use crate::memory::Reservation;
use crate::nats::answer_body::{self, dead_letter, result_too_large};
use crate::nats::headers::carry;
use crate::tags::TagResult;
use crate::telemetry::labels::Outcome;
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;
use crate::telemetry::rate_limited::warn_limited;

/// What went wrong with a service's request, in words.
const SERVICE_ERROR: &str = "Nats-Service-Error";
/// The same as a code.
const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// A request that nobody has answered yet.
pub(super) struct Open {
    pub(super) message: Message,
    /// What it is called where its payload does not say.
    pub(super) id: String,
    /// When it came.
    pub(super) began: Instant,
    /// Room for it.
    pub(super) _room: Option<Reservation>,
}

impl Open {
    /// What it is called.
    pub(super) fn id(&self) -> String {
        crate::job::Job::id_in(&self.message.payload).unwrap_or_else(|| self.id.clone())
    }
}

/// The caller's side of one request.
pub(crate) struct NatsReply {
    source: Arc<NatsSource>,
    number: u64,
    deadline: Option<Instant>,
    /// A place for another request, once this is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

/// A failure as the caller gets it.
#[derive(Serialize)]
struct Failed<'a> {
    id: &'a str,
    error: ErrorBody,
}

impl NatsReply {
    pub(super) const fn new(
        source: Arc<NatsSource>,
        number: u64,
        deadline: Option<Instant>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { source, number, deadline, _place: place }
    }
}

impl Reply for NatsReply {
    fn answer(self: Box<Self>, id: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        async move {
            let open = self.source.lock().remove(&self.number);
            match open {
                Some(open) => self.source.settle(open, id, answer).await,
                // It was told that the worker stops.
                None => Outcome::Rejected,
            }
        }
        .boxed()
    }

    fn is_wanted(&self) -> bool {
        self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }
}

impl NatsSource {
    pub(super) async fn settle(&self, open: Open, id: String, answer: Answer) -> Outcome {
        let Open { message, began, .. } = open;
        let failure = match (&message.reply, answer) {
            (Some(caller), Answer::Tagged(result)) => self.reply(caller, &message, &id, &result).await,
            (Some(caller), Answer::Failed(failure)) => self.reply_failed(caller, &message, &id, failure).await,
            (None, answer) => self.publish(&message, id, answer).await.err(),
        };
        self.service.count(began.elapsed(), failure.as_ref());
        if failure.is_some() { Outcome::Rejected } else { Outcome::Tagged }
    }

    /// Tells the caller the result, or that it is too large to be told.
    async fn reply(&self, caller: &Subject, message: &Message, id: &str, result: &TagResult) -> Option<Failure> {
        let mut headers = HeaderMap::new();
        carry(message, &mut headers);
        let body = answer_body::result(result).and_then(|body| {
            let fits = self.publisher.fits(&headers, body.len());
            if fits { Ok(body) } else { Err(result_too_large(result.tags.tags.len(), body.len())) }
        });
        match body {
            Ok(body) => {
                self.send(caller, headers, body).await;
                None
            }
            Err(failure) => {
                metrics::failed(Stage::Publish, failure.code);
                self.reply_failed(caller, message, id, failure).await
            }
        }
    }

    async fn reply_failed(&self, caller: &Subject, message: &Message, id: &str, failure: Failure) -> Option<Failure> {
        if matches!(failure.code, Code::StorageUnavailable | Code::StorageDenied) {
            warn_limited!("the image of a request can't be read", failure.code, error = %failure);
        } else {
            tracing::debug!(code = %failure.code, error = %failure, "a request failed");
        }
        let failure = failure.for_callers();
        let error = ErrorBody::from(&failure);
        let mut headers = error_headers(&error);
        carry(message, &mut headers);
        // Nothing in it can fail to be written: all of it is text.
        let body = Bytes::from(serde_json::to_vec(&Failed { id, error: error.clone() }).unwrap_or_default());
        if !self.publisher.fits(&headers, body.len()) {
            headers = error_headers(&error);
        }
        self.send(caller, headers, body).await;
        Some(failure)
    }

    async fn send(&self, caller: &Subject, headers: HeaderMap, body: Bytes) {
        let client = &self.nats.client;
        let sent = if headers.is_empty() {
            client.publish(caller.clone(), body).await
        } else {
            client.publish_with_headers(caller.clone(), headers, body).await
        };
        // As where the caller is gone: it asks again, or does not care.
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer to a request could not be sent");
        }
    }

    /// Nobody waits, so nothing may be lost: the answer goes where those to the queue's jobs go, and is confirmed.
    async fn publish(&self, message: &Message, id: String, answer: Answer) -> Result<(), Failure> {
        let subjects = &self.settings.subjects;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, random_id().as_str());
        carry(message, &mut headers);
        let Err(failure) = self.publisher.answer(&subjects.result_for(&message.subject), &headers, None, answer).await
        else {
            return Ok(());
        };
        warn_limited!("a request that nobody waits for becomes a dead letter", failure.code, error = %failure);
        let letter = dead_letter(id, &message.subject, &message.payload, (&failure, 1), &self.settings.worker);
        self.publisher.dead_letter(&subjects.dead_for(&message.subject), headers, letter, &message.payload).await;
        Err(failure)
    }
}

fn error_headers(error: &ErrorBody) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A header is one line.
    let line = error.message.replace(['\r', '\n'], " ");
    headers.insert(SERVICE_ERROR, HeaderValue::from(line));
    headers.insert(SERVICE_ERROR_CODE, error.code.as_str());
    headers
}
