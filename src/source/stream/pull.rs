//! Takes jobs from the queue: exactly as many as there is room for, asked for in chunks, several requests under way.
//!
//! A request lives for a second. To stop, no new one is made, and what the last ones still bring goes straight back.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::acks::HAND_BACK;
use super::answer::{Held, StreamReply};
use super::limit::{InFlightLimit, acquire_some};
use super::topology::Topology;
use super::{Stream, event, quarantine};
use crate::delivery::Delivery;
use crate::delivery::answers::Answers;
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::pipeline::accept::{Incoming, Request};
use crate::pipeline::concurrency::Estimator;
use crate::pipeline::gate::Gate;
use crate::store::Store;
use crate::telemetry::labels::Source;
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;
use crate::telemetry::rate_limited;

/// How long the server keeps a request for jobs.
const REQUEST: Duration = HAND_BACK;

/// How long to wait before asking again a server that refused.
const REFUSED: Duration = Duration::from_secs(1);

/// How often in a row the server must say that the queue is gone before that is believed.
const GONE: u32 = 3;

/// The delivery from which on a job runs alone: the ones before may have taken their workers down.
const QUARANTINE_FROM: u64 = 3;

/// Why no more jobs can be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    /// The queue is not there any more.
    #[error("the stream {stream} is gone, or its consumer {consumer}: {reason}; start again to have them made")]
    Gone {
        /// The consumer.
        consumer: String,
        /// The stream.
        stream: String,
        /// What the server says.
        reason: String,
    },
    /// Nobody runs quarantined any more.
    #[error("the task that runs quarantined ended")]
    Quarantine,
}

/// Pulls jobs into `gate` until stopped.
///
/// # Errors
/// Where the stream or its consumer was deleted, or a part of the source died.
pub(crate) async fn run(
    stream: Arc<Stream>,
    stores: Vec<Store>,
    gate: Gate,
    estimator: Arc<Estimator>,
    answers: Answers,
    stop: CancellationToken,
) -> Result<(), Closed> {
    let mut places = InFlightLimit::new(stream.settings.in_flight, estimator);
    let room = Arc::clone(&places.free);
    // Every quarantined holds a place.
    let (quarantined, waiting) = mpsc::channel(places.most);
    let publisher = stream.publisher.clone();
    let mut alone = tokio::spawn(quarantine::run(gate.clone(), stores.clone(), publisher, waiting, stop.clone()));
    let puller = Arc::new(Puller { stream, gate, answers, quarantined, stop });
    let mut requests: JoinSet<Result<(), Closed>> = JoinSet::new();
    let ended = loop {
        let chunk = places.chunk();
        let next = async {
            puller.stream.nats.up().await;
            for store in &stores {
                // While a store is in trouble, jobs are better off in the queue.
                let _ = store.well().await;
            }
            acquire_some(&room, chunk).await
        };
        tokio::select! {
            biased;
            () = puller.stop.cancelled() => break Ok(()),
            Some(Ok(Err(gone))) = requests.join_next(), if !requests.is_empty() => break Err(gone),
            // It would end with this loop, not before.
            _ = &mut alone => return Err(Closed::Quarantine),
            () = places.adapt() => {}
            permits = next => match permits {
                Ok(permits) => { requests.spawn(Arc::clone(&puller).request(permits)); }
                Err(_) => break Ok(()),
            },
        }
    };
    while requests.join_next().await.is_some() {}
    drop(puller);
    let _ = alone.await;
    ended
}

struct Puller {
    stream: Arc<Stream>,
    gate: Gate,
    answers: Answers,
    quarantined: mpsc::Sender<Vec<Incoming>>,
    stop: CancellationToken,
}

impl Puller {
    /// Asks for as many jobs as there are permits; what does not come gives its permits back.
    async fn request(self: Arc<Self>, mut permits: OwnedSemaphorePermit) -> Result<(), Closed> {
        let consumer = &self.stream.topology.consumer;
        let batch = consumer.batch().max_messages(permits.num_permits()).expires(REQUEST);
        let mut jobs = match batch.messages().await {
            Ok(jobs) => jobs,
            Err(error) => return self.refused(error).await,
        };
        let renewed = self.stream.nats.renewed();
        tokio::pin!(renewed);
        loop {
            let next = tokio::select! {
                // A job that is here is taken before anything else is looked at.
                biased;
                next = jobs.next() => next,
                // The server has forgotten this request.
                () = &mut renewed => return Ok(()),
            };
            match next {
                Some(Ok(message)) => {
                    let Some(permit) = permits.split(1) else { return Ok(()) };
                    self.claim(message, permit).await;
                }
                Some(Err(error)) => return self.refused(error).await,
                None => return Ok(()),
            }
        }
    }

    /// A request failed: either the queue is gone, which is an error, or it is tried again in a moment.
    async fn refused(&self, error: impl fmt::Display) -> Result<(), Closed> {
        // Several are under way, and all fail of one cause.
        if rate_limited::is_new("a request for jobs failed", None) {
            tracing::warn!(%error, "a request for jobs failed; asking again");
        } else {
            tracing::debug!(%error, "a request for jobs failed; asking again");
        }
        let mut reason = String::new();
        // A cluster between two leaders may say that there is no queue once, but not again and again.
        for _ in 0..GONE {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(REFUSED) => {}
            }
            let Some(gone) = self.stream.topology.is_gone().await else { return Ok(()) };
            reason = gone;
        }
        let Topology { part, identity, .. } = &self.stream.topology;
        Err(Closed::Gone { consumer: part.consumer.clone(), stream: identity.stream.clone(), reason })
    }

    async fn claim(&self, message: Message, permit: OwnedSemaphorePermit) {
        let (Ok(info), Some(reply)) = (message.info(), message.reply.clone()) else {
            tracing::error!(subject = %message.subject, "a message without delivery information; it is left alone");
            return;
        };
        let (sequence, attempt) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1));
        let queued = SystemTime::from(info.published).elapsed().unwrap_or_default();
        let acks = &self.stream.acks;
        if !acks.take(sequence, reply) {
            return;
        }
        if attempt > 1 {
            metrics::redelivered();
        }
        if self.stop.is_cancelled() {
            acks.end(sequence, AckKind::Nak(Some(HAND_BACK))).await;
            return;
        }
        let exhausted = attempt > self.stream.settings.max_attempts.saturating_mul(2);
        let mut jobs = Vec::new();
        for Arrived { payload, delivery, wrong } in self.arrived(message.message, (sequence, attempt), permit).await {
            match wrong {
                _ if exhausted => give_up(delivery, &payload),
                Some(wrong) => refuse(delivery, wrong),
                None => jobs.push(Incoming { request: Request::Message(payload), queued, delivery }),
            }
        }
        if attempt >= QUARANTINE_FROM && !jobs.is_empty() {
            // Refused only where nobody runs quarantined any more: the deliveries inside hand their jobs back.
            drop(self.quarantined.send(jobs).await);
            return;
        }
        for job in jobs {
            if let Err(job) = self.gate.try_admit(job).await {
                // What else this request brings must be claimed meanwhile.
                let (gate, stop) = (self.gate.clone(), self.stop.clone());
                tokio::spawn(async move { gate.admit_until(&stop, job).await.unwrap_or_else(Incoming::hand_back) });
            }
        }
    }

    /// The jobs a message brings: itself, or the records of an event. A message that brings none is done.
    async fn arrived(
        &self,
        message: async_nats::Message,
        (sequence, attempt): (u64, u64),
        place: OwnedSemaphorePermit,
    ) -> Vec<Arrived> {
        let records = event::records(&message.payload, &self.stream.settings.event_suffixes);
        let jobs: Vec<_> = match records {
            None => vec![(None, message.payload.clone(), None)],
            Some(Err(wrong)) => vec![(None, message.payload.clone(), Some(wrong))],
            Some(Ok(records)) => {
                records.into_iter().map(|record| (Some(record.number), record.payload, record.wrong)).collect()
            }
        };
        if jobs.is_empty() {
            tracing::debug!(sequence, "an S3 event of no new image");
            self.stream.acks.end(sequence, AckKind::Ack).await;
        }
        let held = Held::new(Arc::clone(&self.stream), message, (sequence, attempt), jobs.len(), place);
        let arrived = |(record, payload, wrong): (_, Bytes, _)| {
            let reply = StreamReply::new(Arc::clone(&held), payload.clone(), record);
            let id = reply.default_id();
            let delivery = Delivery::new(id, Source::Stream, attempt, Box::new(reply), self.answers.clone());
            Arrived { payload, delivery, wrong }
        };
        jobs.into_iter().map(arrived).collect()
    }
}

/// A job of a message.
struct Arrived {
    payload: Bytes,
    delivery: Delivery,
    /// Why it can't be worked on.
    wrong: Option<Failure>,
}

/// Ends a job that was delivered again and again and never answered: it must have taken its workers down.
fn give_up(mut delivery: Delivery, payload: &[u8]) {
    let attempts = delivery.attempt() - 1;
    delivery.identify(Job::id_in(payload), None);
    let exhausted = Failure::new(
        Code::AttemptsExhausted,
        format!("delivered {attempts} times and never answered: it took its workers down, or they were killed with it"),
    );
    refuse(delivery, exhausted);
}

/// Answers a job that does not enter the pipeline.
fn refuse(delivery: Delivery, failure: Failure) {
    metrics::failed(Stage::Accept, failure.code);
    delivery.refuse(failure);
}
