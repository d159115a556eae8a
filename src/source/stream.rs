//! The work queue: jobs are pulled from JetStream, and every one ends as a result, a dead letter, or back in the queue.
//!
//! * [`part`]: which of the jobs are this worker's.
//! * [`topology`]: the streams, made where missing, and `consumer`: what the workers of a part share.
//! * [`pull`]: takes as many jobs as there is room for (`places`), and stops cleanly.
//! * `quarantined`: a job that came too often runs alone.
//! * [`acks`]: what this worker holds, kept alive by progress acknowledgements.
//! * `event`: what a bucket publishes of its new objects, each a job of its own.
//! * [`answer`]: result, dead letter or retry; then the acknowledgement.

mod acks;
mod answer;
mod consumer;
mod event;
mod limit;
pub(crate) mod part;
pub(crate) mod pull;
mod quarantine;
mod streak;
mod topology;
mod unusable;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;

use crate::nats::Nats;
use crate::nats::publisher::ConfirmedPublisher;
use crate::nats::subjects::Subjects;
use crate::store::suffix::Suffixes;
use acks::AckTracker;
use part::Filter;
use streak::RejectStreak;
use topology::Topology;
use unusable::Unusable;

/// How long the servers of a cluster may take to find each other and choose a leader.
const FORMING: Duration = Duration::from_secs(30);

/// How the queue is used.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What subjects start with.
    pub subjects: Subjects,
    /// Copies of each stream created, in a cluster.
    pub replicas: usize,
    /// Bytes the jobs stream holds, where it is created.
    pub jobs_max_bytes: Option<i64>,
    /// Deliveries after which an error is final.
    pub max_attempts: u64,
    /// The part of the queue that is worked on, where not all of it.
    pub filter: Option<Filter>,
    /// Of the keys in S3 event notifications that are taken.
    pub event_suffixes: Suffixes,
    /// Jobs held at once, at least.
    pub in_flight: usize,
    /// This worker's name.
    pub worker: Arc<str>,
}

/// An open work queue.
pub(crate) struct Stream {
    settings: Settings,
    nats: Nats,
    publisher: ConfirmedPublisher,
    topology: Topology,
    acks: Arc<AckTracker>,
    streak: RejectStreak,
}

impl Stream {
    /// Finds or makes the streams and the consumer.
    ///
    /// # Errors
    /// Where the server has no JetStream, or what there is can't be used.
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
                "this NATS server may keep jobs for ever that were in work when it was killed: use 2.10 or later"
            );
        }
        let acks = Arc::new(AckTracker::new(nats.client.clone()));
        Ok(Arc::new(Self { settings, nats, publisher, topology, acks, streak: RejectStreak::default() }))
    }

    /// Keeps what is held alive: a third of the consumer's ack wait passes between two signs of life.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        let every = (self.topology.ack_wait / 3).max(Duration::from_millis(10));
        self.acks.keep(every).await;
    }

    /// Gives back everything held, at once, for other workers to take.
    pub(crate) async fn hand_back(&self) {
        self.acks.hand_back_all().await;
    }

    /// Everything said has reached the server, if it can be reached at all.
    pub(crate) async fn flush(&self) {
        if tokio::time::timeout(Duration::from_secs(2), self.nats.client.flush()).await.is_err() {
            tracing::warn!("NATS did not confirm the last acknowledgements; the jobs come again after the ack wait");
        }
    }

    /// Tells the metrics what waits in the stream, for as long as the process lives.
    pub(crate) async fn watch_backlog(self: Arc<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.nats.up().await;
            match self.topology.backlog().await {
                Ok(backlog) => crate::telemetry::metrics::backlog(backlog.waiting, backlog.oldest),
                Err(error) => tracing::debug!(%error, "the backlog can't be read"),
            }
        }
    }
}

/// Whether a server is older than 2.10.
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
