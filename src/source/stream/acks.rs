//! The jobs this worker holds. One task tells the server that all of them are still being worked on; no job needs a task
//! or timer of its own.

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

/// How long a job stays with the server that a stopping worker hands back: as long as the worker's own last requests for
/// jobs live. Given back at once, it would come straight back through one of them, and each time count as an attempt.
pub(super) const HAND_BACK: Duration = Duration::from_secs(1);

/// How long jobs whose answers are being published are waited for before what is held goes back.
const ARRIVING: Duration = Duration::from_secs(2);

/// Held jobs by their sequence in the stream.
#[derive(Debug)]
pub(crate) struct AckTracker {
    client: Client,
    evidence: Arc<Evidence>,
    held: Mutex<HashMap<u64, TrackedJob>>,
}

/// How a delivery relates to the jobs that are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// It is held from now on.
    New,
    /// It is held already: the server gave it out again though it is being worked on. It is answered on the newer delivery.
    Redelivered,
    /// Another job of this sequence is held: the stream was made anew. It is not held.
    Foreign,
}

#[derive(Debug)]
struct TrackedJob {
    /// Where its acknowledgements go.
    reply: Subject,
    /// When it was published.
    published: DateTime,
    /// Number of its delivery, from 1.
    number: u64,
    /// Deliveries before it that ended without a word, as far as that is known.
    unexplained: Option<u64>,
    /// Answers to its jobs that are being published.
    answers: TaskTracker,
}

impl AckTracker {
    /// No job is held.
    #[must_use]
    pub(crate) fn new(client: Client, evidence: Arc<Evidence>) -> Self {
        Self { client, evidence, held: Mutex::default() }
    }

    /// Holds a job that was published then, whose delivery has this number and whose acknowledgements go to `reply`.
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

    /// Sets how many deliveries of a job ended without a word.
    pub(crate) fn set_unexplained(&self, sequence: u64, unexplained: u64) {
        if let Some(job) = self.held.lock().get_mut(&sequence) {
            job.unexplained = Some(unexplained);
        }
    }

    /// Leaves the deliveries of a job unexplained if it is given back: the job may be at fault.
    pub(crate) fn leave_unexplained(&self, sequence: u64) {
        if let Some(job) = self.held.lock().get_mut(&sequence) {
            job.unexplained = None;
        }
    }

    /// The same of every held job.
    pub(crate) fn leave_all_unexplained(&self) {
        self.held.lock().values_mut().for_each(|job| job.unexplained = None);
    }

    /// Marks an answer as being published: until the token is dropped the job is not handed back. `None` where it is no longer
    /// held.
    pub(crate) fn begin_answer(&self, sequence: u64) -> Option<TaskTrackerToken> {
        self.held.lock().get(&sequence).map(|job| job.answers.token())
    }

    /// Acknowledges a job in this way, if it is still held.
    pub(crate) async fn ack(&self, sequence: u64, kind: AckKind) {
        let job = self.held.lock().remove(&sequence);
        match (job, kind) {
            (Some(job), AckKind::Nak(delay)) => self.give_back(sequence, job, delay).await,
            (Some(job), kind) => self.send(job.reply, kind).await,
            (None, _) => {}
        }
    }

    /// Sends the progress of every held job, again and again.
    pub(crate) async fn keep(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held: Vec<u64> = self.held.lock().keys().copied().collect();
            for sequence in held {
                // Not of one that has ended meanwhile: after a delayed hand-back it would restart the ack wait.
                let reply = self.held.lock().get(&sequence).map(|job| job.reply.clone());
                if let Some(reply) = reply {
                    self.send(reply, AckKind::Progress).await;
                }
            }
        }
    }

    /// Gives every held job back; at once, but for those whose answers are being published, which are given a moment to
    /// arrive. One whose answer has not by then comes again after the ack wait.
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
        // Events, some of whose jobs are answered.
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

    /// Gives a job back, to be delivered again after `delay`: that explains this delivery to the next worker.
    async fn give_back(&self, sequence: u64, job: TrackedJob, delay: Option<Duration>) {
        if let Some(unexplained) = job.unexplained {
            self.evidence.give_back(sequence, Deliveries { given_back: job.number, unexplained }).await;
        }
        self.send(job.reply, AckKind::Nak(delay)).await;
    }

    async fn send(&self, reply: Subject, kind: AckKind) {
        // Waits while NATS is away and the client's buffer is full. What is lost then, the ack wait makes good.
        if let Err(error) = self.client.publish(reply, kind.into()).await {
            tracing::warn!(%error, "an acknowledgement could not be sent; the job comes again after the ack wait");
        }
    }
}
