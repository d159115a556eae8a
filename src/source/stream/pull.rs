//! Pulls jobs from the stream: exactly as many as there are slots for, in chunks, several requests under way.
//!
//! A request lives for a second. To stop, no new one is made, and what the last ones still bring goes straight back.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Message;
use async_nats::jetstream::{self, AckKind, consumer};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::acks::{HAND_BACK, Tracked};
use super::answer::{History, OpenMessage, StreamReply};
use super::limit::{Acquired, Acquirer, InFlightLimit, Slot};
use super::topology::Gone;
use super::{Stream, event};
use crate::delivery::Delivery;
use crate::delivery::answers::Answers;
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::nats::headers;
use crate::pipeline::accept::{Incoming, Request};
use crate::pipeline::concurrency::Estimator;
use crate::store::Store;
use crate::store::outage::any_readable;
use crate::telemetry::labels::{Source, Stage};
use crate::telemetry::{metrics, rate_limited};

/// How long the server keeps a request for jobs.
const REQUEST: Duration = HAND_BACK;

/// How long to wait before asking again a server that refused.
const REFUSED: Duration = Duration::from_secs(1);

/// Deliveries without a word from which on a message is quarantined: each may have been a worker that its job ended. One
/// alone is more often a machine that went away.
const QUARANTINE_FROM: u64 = 2;

/// Pulls jobs into the pipeline until stopped.
///
/// # Errors
/// If the stream or its consumer was deleted, or made anew.
pub(crate) async fn run(
    stream: Arc<Stream>,
    stores: Vec<Store>,
    to_accept: Sender<Incoming>,
    estimator: Arc<Estimator>,
    answers: Answers,
    stop: CancellationToken,
) -> Result<(), Gone> {
    let mut limit = InFlightLimit::new(stream.settings.in_flight, estimator);
    let slots = limit.acquirer();
    let nats = stream.nats.clone();
    // It outlives this: the jobs that are held are answered after the stop.
    let mut gone = tokio::spawn(Arc::clone(&stream).until_gone());
    let puller = Puller { stream, slots: slots.clone(), to_accept, answers, events: watch::Sender::new(0), stop };
    let (puller, mut requests) = (Arc::new(puller), JoinSet::new());
    let ended = loop {
        let chunk = limit.chunk();
        let next = async {
            nats.up().await;
            // While no store can be read from, jobs are better off in the stream.
            any_readable(&stores).await;
            // The jobs of events that are here already come first.
            let _ = puller.events.subscribe().wait_for(|open| *open == 0).await;
            slots.acquire(chunk).await
        };
        tokio::select! {
            biased;
            () = puller.stop.cancelled() => break Ok(()),
            gone = &mut gone => break Err(gone.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))),
            Some(_) = requests.join_next(), if !requests.is_empty() => {}
            () = limit.adapt() => {}
            slots = next => drop(requests.spawn(Arc::clone(&puller).request(slots))),
        }
    };
    while requests.join_next().await.is_some() {}
    ended
}

struct Puller {
    stream: Arc<Stream>,
    slots: Acquirer,
    to_accept: Sender<Incoming>,
    answers: Answers,
    /// Events some of whose records wait for a slot.
    events: watch::Sender<usize>,
    stop: CancellationToken,
}

impl Puller {
    /// Asks for as many jobs as there are slots; what does not come gives its slots back.
    async fn request(self: Arc<Self>, mut slots: Acquired) {
        let consumer = &self.stream.topology.consumer;
        let (count, expires) = bounded(slots.count(), &consumer.cached_info().config);
        let batch = consumer.batch().max_messages(count).expires(expires);
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
                () = &mut renewed => return,
            };
            match next {
                Some(Ok(message)) => {
                    let Some(slot) = slots.take() else { return };
                    self.claim(message, slot).await;
                }
                Some(Err(error)) => return self.refused(error).await,
                None => return,
            }
        }
    }

    /// A request failed. It is tried again in a moment; whether the queue is gone is found out elsewhere.
    async fn refused(&self, error: impl fmt::Display) {
        // Several are under way, and all fail of one cause.
        if rate_limited::is_new("a request for jobs failed", None) {
            tracing::warn!(%error, "a request for jobs failed; asking again");
        } else {
            tracing::debug!(%error, "a request for jobs failed; asking again");
        }
        self.stream.check_identity_soon();
        let _ = self.stop.run_until_cancelled(tokio::time::sleep(REFUSED)).await;
    }

    async fn claim(self: &Arc<Self>, message: jetstream::Message, slot: Slot) {
        let (Ok(info), Some(reply)) = (message.info(), message.reply.clone()) else {
            tracing::error!(subject = %message.subject, "a message without delivery information; it is left alone");
            return;
        };
        if info.stream != self.stream.topology.identity.stream {
            tracing::error!(subject = %message.subject, "a message of another stream; it is left alone");
            return;
        }
        let (sequence, number) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1));
        let queued = SystemTime::from(info.published).elapsed().unwrap_or_default();
        let acks = &self.stream.acks;
        match acks.track(sequence, info.published, number, reply) {
            Tracked::New => {}
            Tracked::Redelivered => return,
            // It comes again after the ack wait, to a worker that knows the new stream.
            Tracked::Foreign => return self.stream.check_identity_soon(),
        }
        if self.stop.is_cancelled() {
            acks.ack(sequence, AckKind::Nak(Some(HAND_BACK))).await;
            return;
        }
        let delivered = Delivered { message: message.message, sequence, number, queued, slot };
        if number == 1 {
            return self.open(delivered, 0).await;
        }
        metrics::redelivered();
        // The other jobs of the request are claimed meanwhile.
        tokio::spawn(Arc::clone(self).open_redelivered(delivered));
    }

    /// Opens a message that was delivered before, once the evidence is read. After a stop it goes back with all that is held.
    async fn open_redelivered(self: Arc<Self>, delivered: Delivered) {
        let Delivered { sequence, number, .. } = delivered;
        let read = self.stream.evidence.deliveries(sequence);
        let Some(deliveries) = self.stop.run_until_cancelled(read).await else { return };
        let unexplained = deliveries.unexplained_before(number);
        self.stream.acks.set_unexplained(sequence, unexplained);
        self.open(delivered, unexplained).await;
    }

    /// Admits the jobs of a message, `unexplained` of whose deliveries ended without a word.
    async fn open(
        self: &Arc<Self>,
        Delivered { message, sequence, number, queued, slot }: Delivered,
        unexplained: u64,
    ) {
        let mut jobs = self.jobs(&message).into_iter();
        let history = History { number, is_quarantined: unexplained >= QUARANTINE_FROM };
        let held = OpenMessage::new(Arc::clone(&self.stream), message, sequence, history, jobs.len());
        let Some(first) = jobs.next() else {
            tracing::debug!(sequence, "an S3 event of no new image");
            self.stream.acks.ack(sequence, AckKind::Ack).await;
            return;
        };
        let job = Arrived { held: Arc::clone(&held), queued, slot };
        self.admit(first, job).await;
        if jobs.len() > 0 {
            // What else this request brings must be claimed meanwhile.
            tokio::spawn(Arc::clone(self).records(jobs, held, queued));
        }
    }

    /// Admits the further records of an event, each as soon as there is a slot. After a stop the message goes back with what
    /// is left of it.
    async fn records(self: Arc<Self>, jobs: std::vec::IntoIter<Payload>, held: Arc<OpenMessage>, queued: Duration) {
        let _open = OpenEvent::new(&self.events);
        for job in jobs {
            let Some(mut acquired) = self.stop.run_until_cancelled(self.slots.acquire(1)).await else { return };
            if let Some(slot) = acquired.take() {
                self.admit(job, Arrived { held: Arc::clone(&held), queued, slot }).await;
            }
        }
    }

    async fn admit(&self, Payload { record, bytes, wrong }: Payload, Arrived { held, queued, slot }: Arrived) {
        let History { number, is_quarantined } = held.history();
        let reply = StreamReply::new(held, bytes.clone(), record, slot);
        // One that is refused unread may have an id of its own nevertheless.
        let own = || Job::id_in(&bytes).filter(|_| wrong.is_some() && record.is_none());
        let id = own().unwrap_or_else(|| reply.default_id());
        let delivery = Delivery::new(id, Source::Stream, number, Box::new(reply), self.answers.clone());
        let delivery = if is_quarantined { delivery.quarantined() } else { delivery };
        match wrong {
            Some(wrong) => refuse(delivery, wrong),
            // Refused only where the pipeline is gone: the delivery inside hands its job back.
            None => drop(self.to_accept.send(Incoming { request: Request::Message(bytes), queued, delivery }).await),
        }
    }

    /// Checks that the job can be answered under its own subject.
    ///
    /// # Errors
    /// `bad_job`; its dead letter has the subject of all.
    fn check_subject(&self, subject: &str) -> Result<(), Failure> {
        if self.stream.settings.subjects.is_answerable(subject) {
            return Ok(());
        }
        let message = "the subject of the message can't be that of an answer: it is too long, or has blanks, control \
                       characters, wildcards, empty parts or what is not UTF-8";
        Err(Failure::new(Code::BadJob, message))
    }

    /// The jobs a message brings: itself, or the records of an event.
    fn jobs(&self, message: &Message) -> Vec<Payload> {
        let payload = &message.payload;
        let itself = |wrong| vec![Payload { record: None, bytes: payload.clone(), wrong }];
        if let Err(wrong) = headers::check(message).and_then(|()| self.check_subject(&message.subject)) {
            return itself(Some(wrong));
        }
        match event::records(payload, &self.stream.settings.event_suffixes) {
            None => itself(None),
            Some(Err(wrong)) => itself(Some(wrong)),
            Some(Ok(records)) => {
                let job = |record: event::Record| Payload {
                    record: Some(record.number),
                    bytes: record.payload,
                    wrong: record.wrong,
                };
                records.into_iter().map(job).collect()
            }
        }
    }
}

/// A message that is tracked.
struct Delivered {
    message: Message,
    sequence: u64,
    /// Number of this delivery, from 1.
    number: u64,
    /// Time it waited in the stream.
    queued: Duration,
    slot: Slot,
}

/// A job of a message.
struct Payload {
    /// Its number, of an event's record.
    record: Option<usize>,
    bytes: Bytes,
    /// Why it can't be worked on.
    wrong: Option<Failure>,
}

/// The message that a job came with, and its slot.
struct Arrived {
    held: Arc<OpenMessage>,
    queued: Duration,
    slot: Slot,
}

/// Jobs and time of a request, within what the consumer allows: the server refuses a request for more.
fn bounded(slots: usize, config: &consumer::Config) -> (usize, Duration) {
    let most = usize::try_from(config.max_batch).ok().filter(|most| *most > 0);
    let longest = Some(config.max_expires).filter(|longest| !longest.is_zero());
    (most.map_or(slots, |most| slots.min(most)), longest.map_or(REQUEST, |longest| REQUEST.min(longest)))
}

/// Counts an event as open, until dropped.
struct OpenEvent<'a>(&'a watch::Sender<usize>);

impl<'a> OpenEvent<'a> {
    fn new(events: &'a watch::Sender<usize>) -> Self {
        events.send_modify(|open| *open += 1);
        Self(events)
    }
}

impl Drop for OpenEvent<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Answers a job that does not enter the pipeline.
fn refuse(delivery: Delivery, failure: Failure) {
    metrics::failed(Stage::Accept, failure.code);
    delivery.refuse(failure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_within_what_the_consumer_allows() {
        let config = consumer::Config::default();
        assert_eq!(bounded(100, &config), (100, REQUEST));
        let limits = consumer::Config { max_batch: 10, max_expires: Duration::from_millis(300), ..config };
        assert_eq!(bounded(100, &limits), (10, Duration::from_millis(300)));
        assert_eq!(bounded(4, &limits).0, 4);
    }
}
