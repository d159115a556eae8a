//! Consumer that the workers of one filter share: found, or created if no other consumer has its jobs.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{Context, ErrorCode, stream};
use futures_util::TryStreamExt;
use serde::Deserialize;

use super::filter::{ConsumerFilter, overlap};
use super::unusable::Unusable;
use crate::nats::is_passing;

const ACK_WAIT: Duration = Duration::from_secs(30);
/// Maximum open pull requests of all workers. Each worker has three.
const MAX_WAITING: i64 = 10_000;

/// An account, as far as it matters here.
#[derive(Deserialize)]
struct Account {
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    max_ack_pending: i64,
}

/// Finds or makes the consumer of a filter.
///
/// # Errors
/// If another consumer has some of its jobs, or the server refuses it.
pub(super) async fn find_or_create(
    jetstream: &Context,
    jobs: &stream::Stream,
    filter: &ConsumerFilter,
    max_ack_pending: i64,
) -> Result<PullConsumer, Unusable> {
    let stream = &jobs.cached_info().config.name;
    let failed = |error: &ConsumerError| Unusable::Stream {
        stream: stream.clone(),
        action: "given its consumer",
        reason: error.to_string(),
        passing: may_pass(error),
    };
    match jobs.get_consumer::<pull::Config>(&filter.consumer).await {
        Ok(consumer) => return Ok(consumer),
        Err(error) => {
            // The error does not distinguish a missing consumer from an unreachable server. Its creation does.
            tracing::debug!(%error, "no consumer yet");
        }
    }
    // Not every server notices that `*.eu` and `shop.>` have jobs in common.
    let overlap = |others: Vec<String>| Unusable::Overlap {
        stream: stream.clone(),
        consumer: filter.consumer.clone(),
        subject: filter.shown(),
        others: if others.is_empty() { "another takes some of them".to_owned() } else { others.join(", ") },
    };
    let others_have = others(jobs, filter).await;
    if !others_have.is_empty() {
        return Err(overlap(others_have));
    }
    let config = pull::Config {
        durable_name: Some(filter.consumer.clone()),
        filter_subject: filter.subject.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending,
        max_waiting: MAX_WAITING,
        ..pull::Config::default()
    };
    let created = match jobs.create_consumer(config.clone()).await {
        Err(error) if is_over_limit(&error) => {
            // The library's own type has fields that older servers do not send.
            let account = jetstream.request::<_, _, Account>("INFO", &()).await;
            let allowed = account.map_or(max_ack_pending, |account| account.limits.max_ack_pending);
            tracing::warn!(
                allowed,
                wanted = max_ack_pending,
                "the account allows fewer jobs in flight (--max-ack-pending)"
            );
            jobs.create_consumer(pull::Config { max_ack_pending: allowed, ..config }).await
        }
        created => created,
    };
    match created {
        Ok(consumer) => Ok(consumer),
        Err(error) if is_overlap(&error) => Err(overlap(others(jobs, filter).await)),
        // Most likely a push consumer has that name. The server's message is the best one available.
        Err(error) if matches!(error.kind(), ConsumerErrorKind::JetStream(_)) => {
            jobs.get_consumer(&filter.consumer).await.map_err(|_| failed(&error))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Returns `true` if another attempt may succeed.
fn may_pass(error: &ConsumerError) -> bool {
    match error.kind() {
        ConsumerErrorKind::TimedOut => true,
        ConsumerErrorKind::JetStream(reply) => is_passing(&reply),
        _ => false,
    }
}

/// Returns `true` if the account allows fewer jobs in flight.
fn is_over_limit(error: &ConsumerError) -> bool {
    let excess = ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS;
    matches!(error.kind(), ConsumerErrorKind::JetStream(reply) if reply.error_code() == excess)
}

/// Returns `true` if the server refuses a consumer because another one has some of the same jobs.
fn is_overlap(error: &ConsumerError) -> bool {
    let refused = [ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED, ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE];
    matches!(error.kind(), ConsumerErrorKind::JetStream(reply) if refused.contains(&reply.error_code()))
}

/// Descriptions of other consumers of the same jobs.
async fn others(jobs: &stream::Stream, filter: &ConsumerFilter) -> Vec<String> {
    let consumers: Vec<_> = jobs.consumers().try_collect().await.unwrap_or_default();
    let others = consumers.into_iter().filter(|other| other.name != filter.consumer).filter_map(|other| {
        let mut filters = other.config.filter_subjects;
        filters.extend(Some(other.config.filter_subject).filter(|filter| !filter.is_empty()));
        let overlaps = filters.is_empty() || filters.iter().any(|theirs| overlap(theirs, &filter.subject));
        let taken = if filters.is_empty() { "all jobs".to_owned() } else { format!("those on {}", filters.join(", ")) };
        overlaps.then(|| format!("the consumer {} takes {taken}", other.name))
    });
    others.collect()
}
