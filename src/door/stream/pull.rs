//! Takes jobs from the queue: exactly as many as there is room for, asked for in chunks, several requests under way.
//!
//! A request lives for a second. To stop, no new one is made, and what the last ones still bring goes straight back.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer::{Held, StreamReply};
use super::claims::HAND_BACK;
use super::topology::CONSUMER;
use super::{Stream, event, suspect};
use crate::delivery::{Answer, Answers, Delivery, Door};
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::pipeline::accept::Incoming;
use crate::store::Store;
use crate::telemetry::metrics::{self, Stage};

/// How long the server keeps a request for jobs.
pub(super) const REQUEST: Duration = Duration::from_secs(1);

/// How long room for one job waits for room for more, so that a batch that is done is asked for again as one.
const COMPANY: Duration = Duration::from_millis(5);

/// How long to wait before asking again a server that refused.
const REFUSED: Duration = Duration::from_secs(1);

/// How often in a row the server must say that the queue is gone before that is believed.
const GONE: u32 = 3;

/// The delivery from which on a job runs alone: the ones before may have taken their workers down.
const SUSPECT: u64 = 3;

/// What a job takes up in this worker, until dropped.
pub enum Room {
    /// One of the places for jobs in flight.
    Shared(OwnedSemaphorePermit),
    /// All of them. What waits for the other end learns that the job was answered.
    Alone(oneshot::Sender<Infallible>),
}

/// Why no more jobs can be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The queue is not there any more.
    #[error("the consumer {CONSUMER} of {stream} is gone: {reason}; start again to have it made")]
    Gone {
        /// The stream.
        stream: String,
        /// What the server says.
        reason: String,
    },
    /// Nobody runs suspects any more.
    #[error("the task that runs suspects ended")]
    Suspects,
}

/// Pulls jobs into `entrance` until stopped.
///
/// # Errors
/// Where the stream or its consumer was deleted, or a part of the door died.
pub async fn run(
    stream: Arc<Stream>,
    stores: Vec<Store>,
    entrance: mpsc::Sender<Incoming>,
    answers: Answers,
    stop: CancellationToken,
) -> Result<(), Closed> {
    let places = stream.settings.in_flight;
    let room = Arc::new(Semaphore::new(places));
    let chunk = u32::try_from(stream.settings.chunk).unwrap_or(u32::MAX);
    let (suspects, waiting) = mpsc::channel(places);
    let entry = Entry { stream, entrance, answers };
    let mut alone = tokio::spawn(suspect::run(entry.clone(), waiting, Arc::clone(&room), places));
    let puller = Arc::new(Puller { entry, suspects, stop });
    let mut requests: JoinSet<Result<(), Closed>> = JoinSet::new();
    let ended = loop {
        let next = async {
            puller.entry.stream.nats.up().await;
            for store in &stores {
                // While a store is in trouble, jobs are better off in the queue.
                let _ = store.well().await;
            }
            places_for_some(&room, chunk).await
        };
        tokio::select! {
            biased;
            () = puller.stop.cancelled() => break Ok(()),
            Some(Ok(Err(gone))) = requests.join_next(), if !requests.is_empty() => break Err(gone),
            // It would end with this loop, not before.
            _ = &mut alone => return Err(Closed::Suspects),
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

/// Waits for room for one job, and a moment for room for as many as are asked for at once. It must not insist on more than
/// one: suspects that wait to run alone may hold all the others, and would wait for this one for ever.
async fn places_for_some(room: &Arc<Semaphore>, chunk: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
    let mut places = Arc::clone(room).acquire_owned().await?;
    let more = Arc::clone(room).acquire_many_owned(chunk - 1);
    if let Ok(more) = tokio::time::timeout(COMPANY, more).await {
        places.merge(more?);
        return Ok(places);
    }
    let free = u32::try_from(room.available_permits()).unwrap_or(u32::MAX).min(chunk - 1);
    if let Ok(more) = Arc::clone(room).try_acquire_many_owned(free) {
        places.merge(more);
    }
    Ok(places)
}

struct Puller {
    entry: Entry,
    suspects: mpsc::Sender<Suspect>,
    stop: CancellationToken,
}

/// The way into the pipeline.
#[derive(Clone)]
pub(super) struct Entry {
    stream: Arc<Stream>,
    entrance: mpsc::Sender<Incoming>,
    answers: Answers,
}

/// A job that was claimed.
pub(super) struct Claimed {
    message: async_nats::Message,
    sequence: u64,
    attempt: u64,
    queued: Duration,
}

/// A job that is to run alone, and the place it holds meanwhile.
pub(super) struct Suspect {
    pub(super) job: Claimed,
    pub(super) place: OwnedSemaphorePermit,
}

impl Puller {
    /// Asks for as many jobs as there are permits; what does not come gives its permits back.
    async fn request(self: Arc<Self>, mut permits: OwnedSemaphorePermit) -> Result<(), Closed> {
        let consumer = &self.entry.stream.topology.consumer;
        let batch = consumer.batch().max_messages(permits.num_permits()).expires(REQUEST);
        let mut jobs = match batch.messages().await {
            Ok(jobs) => jobs,
            Err(error) => return self.refused(error).await,
        };
        let renewed = self.entry.stream.nats.renewed();
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
        tracing::warn!(%error, "a request for jobs failed; asking again");
        let mut reason = String::new();
        // A cluster between two leaders may say that there is no queue once, but not again and again.
        for _ in 0..GONE {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(REFUSED) => {}
            }
            let Some(gone) = self.entry.stream.topology.is_gone().await else { return Ok(()) };
            reason = gone;
        }
        Err(Closed::Gone { stream: self.entry.stream.topology.identity.stream.clone(), reason })
    }

    async fn claim(&self, message: Message, permit: OwnedSemaphorePermit) {
        let (Ok(info), Some(reply)) = (message.info(), message.reply.clone()) else {
            tracing::error!(subject = %message.subject, "a message without delivery information; it is left alone");
            return;
        };
        let (sequence, attempt) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1));
        let queued = SystemTime::from(info.published).elapsed().unwrap_or_default();
        let claims = &self.entry.stream.claims;
        if !claims.take(sequence, reply) {
            return;
        }
        if attempt > 1 {
            metrics::redelivered();
        }
        let job = Claimed { message: message.message, sequence, attempt, queued };
        let (max_attempts, stopping) = (self.entry.stream.settings.max_attempts, self.stop.is_cancelled());
        if stopping {
            claims.end(sequence, AckKind::Nak(Some(HAND_BACK))).await;
        } else if attempt > 2 * max_attempts {
            self.entry.give_up(job, permit).await;
        } else if attempt >= SUSPECT {
            // There is room for as many as there are places, and each holds one.
            let _ = self.suspects.send(Suspect { job, place: permit }).await;
        } else {
            self.entry.admit(job, Room::Shared(permit)).await;
        }
    }
}

impl Entry {
    /// Sends a message's jobs into the pipeline.
    pub(super) async fn admit(&self, job: Claimed, room: Room) {
        let queued = job.queued;
        for Arrived { payload, delivery, wrong } in self.arrived(job, room).await {
            match wrong {
                None => {
                    // Refused only where the pipeline is gone: the delivery inside hands its job back.
                    drop(self.entrance.send(Incoming { payload, queued, delivery }).await);
                }
                Some(wrong) => refuse(delivery, wrong),
            }
        }
    }

    /// Ends a job that was delivered again and again and never answered: it must have taken its workers down.
    async fn give_up(&self, job: Claimed, permit: OwnedSemaphorePermit) {
        let attempts = job.attempt - 1;
        let exhausted = Failure::new(
            Code::AttemptsExhausted,
            format!(
                "delivered {attempts} times and never answered: it took its workers down, or they were killed with it"
            ),
        );
        for Arrived { payload, mut delivery, .. } in self.arrived(job, Room::Shared(permit)).await {
            if let Some(id) = Job::id_in(&payload) {
                delivery.id = id;
            }
            refuse(delivery, exhausted.clone());
        }
    }

    /// The jobs a message brings: itself, or the records of an event. A message that brings none is done.
    async fn arrived(&self, job: Claimed, room: Room) -> Vec<Arrived> {
        let Claimed { message, sequence, attempt, .. } = job;
        let records = event::records(&message.payload, &self.stream.settings.event_suffixes);
        let whole = || (None, message.payload.clone(), None);
        let jobs: Vec<_> = match records {
            None => vec![whole()],
            Some(records) => {
                records.into_iter().map(|record| (Some(record.number), record.payload, record.wrong)).collect()
            }
        };
        if jobs.is_empty() {
            tracing::debug!(sequence, "an S3 event of no new image");
            self.stream.claims.end(sequence, AckKind::Ack).await;
        }
        let held = Held::new(Arc::clone(&self.stream), message, (sequence, attempt), jobs.len(), room);
        let arrived = |(record, payload, wrong): (_, Bytes, _)| {
            let reply = StreamReply::new(Arc::clone(&held), payload.clone(), record);
            let id = reply.default_id();
            let delivery = Delivery::new(id, Door::Stream, attempt, Box::new(reply), self.answers.clone());
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

/// Answers a job that does not enter the pipeline.
fn refuse(delivery: Delivery, failure: Failure) {
    metrics::failed(Stage::Accept, failure.code);
    tokio::spawn(delivery.answer(Answer::Failed(failure)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn does_not_wait_for_places_that_suspects_hold_while_they_wait_for_the_rest() {
        let room = Arc::new(Semaphore::new(24));
        let _suspects = Arc::clone(&room).acquire_many_owned(20).await.expect("open");
        let places = tokio::time::timeout(Duration::from_secs(30), places_for_some(&room, 8)).await;
        assert_eq!(places.expect("in time").expect("open").num_permits(), 4);
        assert_eq!(places_for_some(&room, 4).await.expect("open").num_permits(), 4);
    }
}
