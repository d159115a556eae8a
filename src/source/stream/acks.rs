//! Jobs that this worker holds. One task reports progress on all of them to the server, so no job needs a task or timer of
//! its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::AckKind;
use async_nats::{Client, Subject};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::evidence::{Deliveries, Evidence};

/// Delay of jobs that a stopping worker hands back: the lifetime of the worker's own last pull requests. Without the delay,
/// a job would come back through one of them, and each time count as an attempt.
pub(super) const HAND_BACK: Duration = Duration::from_secs(1);

/// Time that a hand-back waits for answers that are being published.
const ARRIVING: Duration = Duration::from_secs(2);

/// Held jobs by their sequence in the stream.
#[derive(Debug)]
pub(crate) struct AckTracker {
    client: Client,
    evidence: Arc<Evidence>,
    held: Mutex<HashMap<u64, TrackedJob>>,
}

/// Relation of a delivery to the tracked jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// The job is held from now on.
    New,
    /// The job is held already: the server redelivered it during the work on it. The newer delivery is acknowledged.
    Redelivered,
    /// Another job of this sequence is held, because the stream was created again. This one is not held.
    Foreign,
}

#[derive(Debug)]
struct TrackedJob {
    /// Subject of its acknowledgements.
    reply: Subject,
    /// Time of its publication.
    published: DateTime,
    /// Number of its delivery, from 1.
    number: u64,
    /// Number of earlier deliveries that ended unexplained, if known.
    unexplained: Option<u64>,
    /// Answers to its jobs that are being published.
    answers: TaskTracker,
}

impl AckTracker {
    /// Creates a tracker that holds no job.
    #[must_use]
    pub(crate) fn new(client: Client, evidence: Arc<Evidence>) -> Self {
        Self { client, evidence, held: Mutex::default() }
    }

    /// Holds a job. Its delivery has this number, and its acknowledgements go to `reply`.
    pub(crate) fn track(&self, sequence: u64, published: DateTime, number: u64, reply: Subject) -> Tracked {
        match self.held.lock().entry(sequence) {
            Entry::Occupied(mut held) if held.get().published == published => {
                let held = held.get_mut();
                (held.reply, held.number) = (reply, number);
                Tracked::Redelivered
            }
            Entry::Occupied(_) => Tracked::Foreign,
            Entry::Vacant(free) => {
                let unexplained = (number == 1).then_some(0);
                free.insert(TrackedJob { reply, published, number, unexplained, answers: TaskTracker::new() });
                Tracked::New
            }
        }
    }

    /// Sets the number of a job's earlier deliveries that ended unexplained.
    pub(crate) fn set_unexplained(&self, sequence: u64, unexplained: u64) {
        if let Some(job) = self.held.lock().get_mut(&sequence) {
            job.unexplained = Some(unexplained);
        }
    }

    /// Leaves a job's deliveries unexplained if it is given back, because the job may be at fault.
    pub(crate) fn leave_unexplained(&self, sequence: u64) {
        if let Some(job) = self.held.lock().get_mut(&sequence) {
            job.unexplained = None;
        }
    }

    /// Leaves the deliveries of every held job unexplained if it is given back.
    pub(crate) fn leave_all_unexplained(&self) {
        self.held.lock().values_mut().for_each(|job| job.unexplained = None);
    }

    /// Marks an answer as being published. Until the token is dropped, the job is not handed back. Returns `None` if the
    /// job is no longer held.
    pub(crate) fn begin_answer(&self, sequence: u64) -> Option<TaskTrackerToken> {
        self.held.lock().get(&sequence).map(|job| job.answers.token())
    }

    /// Acknowledges a job, if it is still held.
    pub(crate) async fn ack(&self, sequence: u64, kind: AckKind) {
        let job = self.held.lock().remove(&sequence);
        match (job, kind) {
            (Some(job), AckKind::Nak(delay)) => self.give_back(sequence, job, delay).await,
            (Some(job), kind) => self.send(job.reply, kind).await,
            (None, _) => {}
        }
    }

    /// Reports progress of every held job once per period, without end.
    pub(crate) async fn keep(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held: Vec<u64> = self.held.lock().keys().copied().collect();
            for sequence in held {
                // A job that has ended meanwhile gets no progress: after a delayed hand-back, it would restart the ack wait.
                let reply = self.held.lock().get(&sequence).map(|job| job.reply.clone());
                if let Some(reply) = reply {
                    self.send(reply, AckKind::Progress).await;
                }
            }
        }
    }

    /// Gives every held job back at once, except jobs whose answers are being published: it waits a moment for these. A job
    /// whose answer is not confirmed by then is redelivered after the ack wait.
    pub(crate) async fn hand_back_all(&self) {
        self.hand_back_unanswered().await;
        let answers: Vec<_> = self.held.lock().values().map(|job| job.answers.clone()).collect();
        let arrived = join_all(answers.iter().map(|answers| {
            answers.close();
            answers.wait()
        }));
        if tokio::time::timeout(ARRIVING, arrived).await.is_err() {
            tracing::warn!("NATS did not confirm the last answers; their jobs come again after the ack wait");
        }
        // Events with only some of their jobs answered.
        self.hand_back_unanswered().await;
    }

    async fn hand_back_unanswered(&self) {
        let held: Vec<_> = self.held.lock().extract_if(|_, job| job.answers.is_empty()).collect();
        if !held.is_empty() {
            tracing::info!(jobs = held.len(), "handing back jobs");
        }
        for (sequence, job) in held {
            self.give_back(sequence, job, Some(HAND_BACK)).await;
        }
    }

    /// Gives a job back, to be delivered again after `delay`. A record explains this delivery to the next worker.
    async fn give_back(&self, sequence: u64, job: TrackedJob, delay: Option<Duration>) {
        if let Some(unexplained) = job.unexplained {
            self.evidence.give_back(sequence, Deliveries { given_back: job.number, unexplained }).await;
        }
        self.send(job.reply, AckKind::Nak(delay)).await;
    }

    async fn send(&self, reply: Subject, kind: AckKind) {
        // Waits while NATS is away and the client's buffer is full. The ack wait makes up for a lost acknowledgement.
        if let Err(error) = self.client.publish(reply, kind.into()).await {
            tracing::warn!(%error, "an acknowledgement could not be sent; the job comes again after the ack wait");
        }
    }
}
