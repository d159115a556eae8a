//! Requests over NATS: every worker is an instance of the NATS micro service `tagmill`, and each request on its subject is answered
//! by one of them.
//!
//! * [`service`]: what `nats micro` asks of an instance, and its statistics.
//! * [`answer`]: the reply; or a result or dead letter, where nobody waits for one.
//! * [`timeout`]: how long the caller waits.

pub(crate) mod answer;
pub(crate) mod service;
pub(crate) mod timeout;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::SelectAll;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::limit::RequestLimit;
use crate::delivery::answers::Answers;
use crate::delivery::{Answer, Delivery};
use crate::failure::{Code, Failure};
use crate::job::random_id;
use crate::memory::Pool;
use crate::nats::Nats;
use crate::nats::headers::{self, id_in};
use crate::nats::publisher::ConfirmedPublisher;
use crate::nats::subjects::Subjects;
use crate::pipeline::accept::{Incoming, Request};
use crate::telemetry::labels::Source;
use crate::telemetry::labels::Stage;
use crate::telemetry::span::JobIdentity;
use crate::telemetry::{metrics, rate_limited};
use answer::{NatsReply, Open};
use service::Service;

/// The queue group of every worker.
pub(crate) const GROUP: &str = "workers";

/// How long a stop waits for the server to let it go. It answers at once, unless it is away, and then it has.
const LEAVING: Duration = Duration::from_secs(2);

/// The last requests it takes: more than are under way from the server at once.
const LAST: u64 = 128;

/// How long none comes where few are asked.
const QUIET: Duration = Duration::from_millis(100);

/// Bytes that refused requests without a reply subject may take while their dead letters are being written, and what each
/// counts at least.
const REFUSED: (usize, usize) = (32 << 20, 16 << 10);

/// How requests are answered.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What subjects start with.
    pub subjects: Subjects,
    /// How long a caller waits who does not say.
    pub timeout: Duration,
    /// Room for requests.
    pub room: Pool,
    /// This worker's name.
    pub worker: Arc<str>,
}

/// This worker's instance of the service.
pub(crate) struct NatsSource {
    settings: Settings,
    nats: Nats,
    publisher: ConfirmedPublisher,
    in_flight_limit: RequestLimit,
    service: Arc<Service>,
    /// Requests not answered yet, by number. Whoever takes one out of it answers it.
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    refused: Arc<Semaphore>,
}

/// Why no more requests come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    /// The subjects can't be listened on.
    #[error("can't listen on {subject}: {source}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// Why.
        source: async_nats::SubscribeError,
    },
    /// The connection is gone for good.
    #[error("the subscription to {0} ended")]
    Ended(String),
}

impl NatsSource {
    /// An instance that takes no requests yet.
    #[must_use]
    pub(crate) fn new(
        settings: Settings,
        nats: Nats,
        in_flight_limit: RequestLimit,
        publisher: ConfirmedPublisher,
    ) -> Arc<Self> {
        let service = Arc::new(Service::new(&settings.subjects, &settings.worker));
        let (open, next, refused) = (Mutex::default(), AtomicU64::default(), Arc::new(Semaphore::new(REFUSED.0)));
        Arc::new(Self { settings, nats, publisher, in_flight_limit, service, open, next, refused })
    }

    /// Answers every request that is still open: the worker stops before they are done.
    pub(crate) async fn hand_back(&self) {
        let open: Vec<_> = self.lock().drain().map(|(_, open)| open).collect();
        if !open.is_empty() {
            tracing::info!(requests = open.len(), "giving up requests");
        }
        let stopping = Failure::new(Code::ShuttingDown, "the worker stops; ask again, and another will answer");
        let answered = open.into_iter().map(|open| {
            let id = open.id();
            let span = request_span(&id);
            self.settle(open, id, Answer::Failed(stopping.clone())).instrument(span)
        });
        if tokio::time::timeout(LEAVING, join_all(answered)).await.is_err() {
            tracing::warn!("NATS did not confirm the last answers");
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock()
    }
}

/// A worker's place in the group: requests come from now on.
pub(crate) struct Membership {
    requests: Subscriber,
    questions: SelectAll<Subscriber>,
}

/// Takes requests into the pipeline until stopped, and then what has come until the server has let this worker go.
///
/// # Errors
/// Where the connection is gone.
pub(crate) async fn run(
    source: Arc<NatsSource>,
    Membership { mut requests, questions }: Membership,
    to_accept: Sender<Incoming>,
    answers: Answers,
    stop: CancellationToken,
) -> Result<(), Closed> {
    let instance = tokio::spawn(Arc::clone(&source.service).answer(source.nats.client.clone(), questions));
    let mut taken = 0;
    let ended = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            request = requests.next() => match request {
                Some(request) => {
                    taken += 1;
                    source.take(request, &to_accept, &answers).await;
                }
                None => break Err(Closed::Ended(source.settings.subjects.requests())),
            },
        }
    };
    instance.abort();
    if ended.is_ok()
        && tokio::time::timeout(LEAVING, source.leave(requests, taken, &to_accept, &answers)).await.is_err()
    {
        tracing::warn!("NATS did not confirm that this worker has left the group");
    }
    ended
}

impl NatsSource {
    /// Joins the group.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub(crate) async fn join(&self) -> Result<Membership, Closed> {
        let (client, subject) = (&self.nats.client, self.settings.subjects.requests());
        let failed = |source| Closed::Subscribe { subject: subject.clone(), source };
        let questions = service::subscribe(client, self.service.id()).await.map_err(failed)?;
        let requests = client.queue_subscribe(subject.clone(), GROUP.to_owned()).await.map_err(failed)?;
        Ok(Membership { requests, questions })
    }

    /// Leaves the group, `taken` requests after it joined, and takes what the server sends until it knows.
    ///
    /// The client lets go of a subscription that it drains when it next looks at its connection, which is before the server
    /// has answered where there is much to do: what comes in between is lost. So the server is asked to end it after a few
    /// more requests, which both sides count; only where these do not come, and little is under way, it is drained.
    async fn leave(
        self: &Arc<Self>,
        mut requests: Subscriber,
        taken: u64,
        to_accept: &Sender<Incoming>,
        answers: &Answers,
    ) {
        let _ = requests.unsubscribe_after(taken + LAST).await;
        let few = async {
            while let Ok(request) = tokio::time::timeout(QUIET, requests.next()).await {
                match request {
                    Some(request) => self.take(request, to_accept, answers).await,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(LEAVING / 2, few).await;
        if requests.drain().await.is_ok() {
            while let Some(request) = requests.next().await {
                self.take(request, to_accept, answers).await;
            }
        }
    }

    /// Brings a request in, or says at once why not.
    async fn take(self: &Arc<Self>, message: Message, to_accept: &Sender<Incoming>, answers: &Answers) {
        if let Some(reply) = message.reply.as_ref().filter(|reply| !self.settings.subjects.is_inbox(reply)) {
            return refuse_reply(reply);
        }
        let id = id_in(message.headers.as_ref()).unwrap_or_else(random_id);
        let place = self.in_flight_limit.try_acquire();
        // Twice: what it says of its image is read out of it.
        let room = self.settings.room.try_reserve(2 * message.payload.len() as u64);
        let timeout = headers::check(&message).and_then(|()| timeout::of(&message, self.settings.timeout));
        let refused = match (place.as_ref().zip(room.as_ref()), &timeout) {
            (_, Err(bad)) => Some(bad.clone()),
            (None, _) => Some(Failure::new(
                Code::Overloaded,
                "the worker has as many requests as it may, or no room for one like this; ask again, or start more workers",
            )),
            _ => None,
        };
        let deadline = timeout.ok().flatten().and_then(|timeout| Instant::now().checked_add(timeout));
        let payload = message.payload.clone();
        let open = Open { message, id: id.clone(), began: Instant::now(), _room: room };
        if let Some(refused) = refused {
            return self.refuse(open, refused, answers);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, open);
        let reply = NatsReply::new(Arc::clone(self), number, deadline, place);
        let delivery = Delivery::new(id, Source::Nats, 1, Box::new(reply), answers.clone());
        let request = Incoming { request: Request::Message(payload), queued: Duration::ZERO, delivery };
        // Refused only where the pipeline is gone: the delivery inside answers.
        drop(to_accept.send(request).await);
    }

    fn refuse(self: &Arc<Self>, open: Open, refused: Failure, answers: &Answers) {
        metrics::failed(Stage::Accept, refused.code);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = open.id();
        // What nobody waits for becomes a dead letter, which takes its time; the callers of other requests must not wait.
        let place = if open.message.reply.is_none() {
            let bytes = u32::try_from(open.message.length.max(REFUSED.1)).unwrap_or(u32::MAX);
            let Ok(place) = Arc::clone(&self.refused).try_acquire_many_owned(bytes) else {
                request_span(&id).in_scope(|| {
                    tracing::error!(code = %refused.code, error = %refused, "a request that nobody waits for is dropped: there are too many to be refused");
                });
                return;
            };
            Some(place)
        } else {
            None
        };
        self.lock().insert(number, open);
        let reply = NatsReply::new(Arc::clone(self), number, None, place);
        let delivery = Delivery::new(id, Source::Nats, 1, Box::new(reply), answers.clone());
        delivery.refuse(refused);
    }
}

/// Counts a request whose answer would go elsewhere than to its caller. It is not worked on.
fn refuse_reply(reply: &str) {
    metrics::failed(Stage::Accept, Code::BadJob);
    if rate_limited::is_new("a reply subject is refused", None) {
        tracing::warn!(reply, "a request is not answered: its reply subject is no inbox");
    }
}

/// The span of a request that has no delivery.
fn request_span(id: &str) -> Span {
    JobIdentity { id, attempt: 1, model: None, source: Source::Nats, request_id: None }.span()
}
