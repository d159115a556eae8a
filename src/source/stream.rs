//! The work queue: jobs are pulled from JetStream, and every one ends as a result, a dead letter, or back in the queue.
//!
//! * [`filter`]: which of the jobs are this worker's.
//! * [`topology`]: the streams, made where missing, and `consumer`, which the workers of one filter share.
//! * [`pull`]: takes as many jobs as there is room for (`limit`), and stops cleanly.
//! * [`acks`]: what this worker holds, kept alive by progress acknowledgements.
//! * `event`: what a bucket publishes of its new objects, each a job of its own.
//! * [`answer`]: result, dead letter or retry; then the acknowledgement.

mod acks;
mod answer;
mod consumer;
mod event;
pub(crate) mod evidence;
pub(crate) mod filter;
mod limit;
pub(crate) mod pull;
mod required;
mod streak;
pub(crate) mod topology;
mod unusable;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use tokio::sync::{Notify, watch};

use crate::nats::Nats;
use crate::nats::publisher::ConfirmedPublisher;
use crate::nats::subjects::Subjects;
use crate::store::suffix::Suffixes;
use crate::telemetry::metrics;
use acks::AckTracker;
use evidence::Evidence;
use filter::Filter;
use streak::RejectStreak;
use topology::{Gone, IdentityCheck, Topology};
use unusable::Unusable;

/// Interval between checks of the identity of the stream.
const CHECK: Duration = Duration::from_secs(3);

/// The same after it was missing.
const RECHECK: Duration = Duration::from_millis(600);

/// How long a stop waits to know whether the stream is still the same.
const SETTLED: Duration = Duration::from_secs(2);

/// How often in a row the server must report the stream missing.
const MISSING: u32 = 3;

/// How long the servers of a cluster may take to find each other and choose a leader.
const FORMING: Duration = Duration::from_secs(30);

/// Settings of streams and consumers that are created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Created {
    /// Copies of each stream, in a cluster.
    pub replicas: usize,
    /// Size of the stream of jobs; `None` is no limit.
    pub jobs_max_bytes: Option<i64>,
    /// Size of the stream of results.
    pub results_max_bytes: Option<i64>,
    /// Size of the stream of dead letters.
    pub dead_max_bytes: Option<i64>,
    /// Jobs delivered and not acknowledged yet, of all workers.
    pub max_ack_pending: i64,
}

/// How the queue is used.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Prefix of subjects.
    pub subjects: Subjects,
    /// Settings of the streams and the consumer, where they are created.
    pub created: Created,
    /// Failures of a job after which the error is final.
    pub max_attempts: u64,
    /// Subjects of the jobs that are taken, where not all are.
    pub filter: Option<Filter>,
    /// Of the keys in S3 event notifications that are taken.
    pub event_suffixes: Suffixes,
    /// Jobs held at once, at least.
    pub in_flight: usize,
    /// This worker's name.
    pub worker: Arc<str>,
}

/// Counts of the checks of the identity of the stream: those requested, and those that found it the one that was opened.
#[derive(Clone, Copy, Debug, Default)]
struct IdentityChecks {
    requested: u64,
    done: u64,
}

/// An open work queue.
pub(crate) struct Stream {
    settings: Settings,
    nats: Nats,
    publisher: ConfirmedPublisher,
    topology: Topology,
    acks: Arc<AckTracker>,
    streak: RejectStreak,
    evidence: Arc<Evidence>,
    /// Checks of the identity of the stream: no job is acknowledged while one is open.
    checks: watch::Sender<IdentityChecks>,
    /// Has the stream looked at before it is time.
    check_soon: Notify,
}

impl Stream {
    /// Finds or makes the streams and the consumer.
    ///
    /// # Errors
    /// If the server has no JetStream, or what there is can't be used.
    pub(crate) async fn open(
        settings: Settings,
        nats: Nats,
        publisher: ConfirmedPublisher,
    ) -> Result<Arc<Self>, Unusable> {
        let jetstream = async_nats::jetstream::new(nats.client.clone());
        let topology = open(&jetstream, &settings).await?;
        if is_old(&nats.client.server_info().version) {
            let version = nats.client.server_info().version;
            tracing::warn!(
                version,
                "this NATS server may keep jobs for ever that were being processed when it was killed: use 2.10 or later"
            );
        }
        let client = nats.client.clone();
        let evidence =
            Evidence::open(client.clone(), &settings.subjects, settings.created.replicas, &topology.identity).await;
        let evidence = Arc::new(evidence);
        let acks = Arc::new(AckTracker::new(client, Arc::clone(&evidence)));
        let (streak, checks, check_soon) = (RejectStreak::default(), watch::Sender::default(), Notify::new());
        Ok(Arc::new(Self { settings, nats, publisher, topology, acks, streak, evidence, checks, check_soon }))
    }

    /// Keeps what is held alive: a third of the consumer's ack wait passes between two signs of life.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        let every = (self.topology.ack_wait / 3).max(Duration::from_millis(10));
        self.acks.keep(every).await;
    }

    /// Gives back everything held, at once, for other workers to take; but nothing of a stream that was made anew, where the
    /// same sequences are jobs of other workers.
    pub(crate) async fn hand_back(&self) {
        if tokio::time::timeout(SETTLED, self.verified()).await.is_err() {
            tracing::warn!("the stream may be another by now; the jobs held come again after the ack wait");
            return;
        }
        self.acks.hand_back_all().await;
    }

    /// Leaves every delivery of what is held unexplained: this worker is broken, and one of its jobs may be at fault.
    pub(crate) fn leave_unexplained(&self) {
        self.acks.leave_all_unexplained();
    }

    /// Waits until the acknowledgements have reached the server, 2 s at most.
    pub(crate) async fn flush(&self) {
        if tokio::time::timeout(Duration::from_secs(2), self.nats.client.flush()).await.is_err() {
            tracing::warn!("NATS did not confirm the last acknowledgements; the jobs come again after the ack wait");
        }
    }

    /// Looks at the stream again and again: reports what waits in it, and ends once it is gone or another one.
    ///
    /// A cluster between two leaders may report a missing stream once, but not again and again.
    pub(super) async fn until_gone(self: Arc<Self>) -> Gone {
        let mut missing = 0;
        // The first at once.
        self.check_soon.notify_one();
        loop {
            if missing == 0 {
                let _ = tokio::time::timeout(CHECK, self.check_soon.notified()).await;
            } else {
                tokio::time::sleep(RECHECK).await;
            }
            self.nats.up().await;
            let stream = &self.topology.identity.stream;
            let requested = self.checks.borrow().requested;
            match self.topology.check_identity().await {
                IdentityCheck::Verified(backlog) => {
                    missing = 0;
                    // But not one that was requested while the server was being asked.
                    self.checks.send_modify(|checks| checks.done = requested);
                    metrics::backlog(backlog.waiting, backlog.oldest);
                    if self.publisher.is_waiting() {
                        self.reopen_answers().await;
                    }
                }
                IdentityCheck::Missing(reason) => {
                    missing += 1;
                    self.request_check();
                    if missing == MISSING {
                        let consumer = self.topology.filter.consumer.clone();
                        return Gone::Deleted { consumer, stream: stream.clone(), reason };
                    }
                }
                IdentityCheck::Replaced => {
                    self.request_check();
                    return Gone::Renewed(stream.clone());
                }
                IdentityCheck::Unknown(reason) => tracing::debug!(reason, "the stream can't be looked at"),
            }
        }
    }

    /// Makes the streams of answers anew if they were deleted: answers wait, which may be the reason.
    async fn reopen_answers(&self) {
        let jetstream = async_nats::jetstream::new(self.nats.client.clone());
        match tokio::time::timeout(CHECK, topology::open_answers(&jetstream, &self.settings)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot open the streams of answers"),
            Err(_) => tracing::debug!("the streams of answers were not opened in time"),
        }
    }

    /// Has the identity of the stream checked soon: it may have been made anew.
    fn check_identity_soon(&self) {
        self.request_check();
        self.check_soon.notify_one();
    }

    fn request_check(&self) {
        self.checks.send_modify(|checks| checks.requested += 1);
    }

    /// Ends when the stream is known to be the one that was opened.
    async fn verified(&self) {
        // It fails only where the sender is gone, which is held here.
        let _ = self.checks.subscribe().wait_for(|checks| checks.done == checks.requested).await;
    }
}

/// Finds or makes the streams and the consumer, and takes no job; returns the consumer's name.
///
/// # Errors
/// As [`Stream::open`].
pub(crate) async fn init(nats: &Nats, settings: &Settings) -> Result<String, Unusable> {
    let jetstream = async_nats::jetstream::new(nats.client.clone());
    let Topology { identity, filter, .. } = open(&jetstream, settings).await?;
    Evidence::open(nats.client.clone(), &settings.subjects, settings.created.replicas, &identity).await;
    Ok(filter.consumer)
}

/// Returns `true` if a server is older than 2.10.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u64>().ok());
    (numbers.next(), numbers.next()) < (Some(2), Some(10))
}

/// Finds or makes the streams and the consumer, as soon as the servers of a cluster have found each other.
async fn open(jetstream: &Context, settings: &Settings) -> Result<Topology, Unusable> {
    let (began, mut said) = (Instant::now(), false);
    loop {
        match Topology::open(jetstream, settings).await {
            Err(error @ Unusable::Stream { passing: true, .. }) if began.elapsed() < FORMING => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "JetStream does not answer or can't place the stream yet; trying again");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_old_by_number() {
        assert!(is_old("2.9.10") && is_old("1.4.0") && is_old(""));
        assert!(!is_old("2.10.0") && !is_old("2.15.1-beta") && !is_old("3.0.0"));
    }
}
