//! Streams of a prefix, and the consumer that workers share. Missing ones are created. Existing ones are left alone, or
//! refused if jobs could be lost or stay for ever.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::{
    ConsumerInfoError, ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, stream};

use super::filter::ConsumerFilter;
use super::unusable::Unusable;
use super::{Settings, consumer, required};
use crate::nats::is_passing;
use crate::nats::subjects::Subjects;

const DAY: Duration = Duration::from_hours(24);

/// Opened streams and their consumer.
pub(crate) struct Topology {
    /// Consumer that delivers the jobs.
    pub consumer: PullConsumer,
    /// Time after which the server delivers a silent worker's job to another one.
    pub ack_wait: Duration,
    /// Filter of the jobs that it delivers.
    pub filter: ConsumerFilter,
    /// Name and creation time of the jobs stream, which make a job's sequence unique for ever.
    pub identity: Identity,
    jobs: stream::Stream,
}

/// Identity of a stream, which differs from that of a later stream of the same name.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Name of the stream.
    pub stream: String,
    /// Time of its creation.
    pub created: DateTime,
}

impl Identity {
    /// Message id of the answer to the job with this sequence.
    #[must_use]
    pub(crate) fn answer_id(&self, sequence: u64) -> String {
        format!("{}-{}-{sequence}", self.stream, self.created.unix_timestamp())
    }

    /// The same to the nanosecond, for a stream that was made in the same second as the one before it.
    #[must_use]
    pub(crate) fn exact_answer_id(&self, sequence: u64) -> String {
        let (seconds, nanos) = (self.created.unix_timestamp(), self.created.nanosecond());
        format!("{}-{seconds}.{nanos:09}-{sequence}", self.stream)
    }
}

/// Jobs that wait in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// Number of jobs not delivered to any worker yet.
    pub waiting: u64,
    /// Age of the oldest job not answered yet; zero if there is none.
    pub oldest: Duration,
}

/// State of the stream and its consumer.
#[derive(Debug)]
pub(crate) enum IdentityCheck {
    /// They are the ones that were opened.
    Verified(Backlog),
    /// One of them is deleted, with the server's message.
    Missing(String),
    /// The stream was deleted and created again.
    Replaced,
    /// The check failed, for this reason.
    Unknown(String),
}

/// Reason why no more jobs can be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    /// The stream or the consumer was deleted.
    #[error("the stream {stream} is gone, or its consumer {consumer}: {reason}; start again to have them made")]
    Deleted {
        /// The consumer.
        consumer: String,
        /// The stream.
        stream: String,
        /// Message of the server.
        reason: String,
    },
    /// The stream was created again: its jobs have the sequences of the old one's.
    #[error("the stream {0} was deleted and made anew; start again to work on the new one")]
    Renewed(String),
}

/// Finds or creates the streams of results and dead letters.
///
/// # Errors
/// If the server refuses them, or an existing one can't be used.
pub(super) async fn open_answers(jetstream: &Context, settings: &Settings) -> Result<[stream::Stream; 2], Unusable> {
    let (subjects, created) = (&settings.subjects, settings.created);
    let results = Config {
        max_age: 7 * DAY,
        duplicate_window: Duration::from_mins(2),
        ..config(subjects, "RESULTS", created.replicas, created.results_max_bytes)
    };
    let dead = Config { max_age: 30 * DAY, ..config(subjects, "DEAD", created.replicas, created.dead_max_bytes) };
    let results = find_or_create(jetstream, results).await?;
    required::answers(&results.cached_info().config)?;
    let dead = find_or_create(jetstream, dead).await?;
    required::answers(&dead.cached_info().config)?;
    Ok([results, dead])
}

impl Topology {
    /// Finds or creates the streams and the consumer.
    ///
    /// # Errors
    /// If the server has no JetStream, or an existing stream or consumer can't be used.
    pub(crate) async fn open(jetstream: &Context, settings: &Settings) -> Result<Self, Unusable> {
        let (subjects, created) = (&settings.subjects, settings.created);
        let jobs = Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            ..config(subjects, "JOBS", created.replicas, created.jobs_max_bytes)
        };
        let jobs = find_or_create(jetstream, jobs).await?;
        required::jobs(&jobs.cached_info().config)?;
        let answers = open_answers(jetstream, settings).await?;
        let info = jobs.cached_info();
        let identity = Identity { stream: info.config.name.clone(), created: info.created };
        let filter = ConsumerFilter::of(&subjects.jobs(), settings.filter.as_ref());
        let consumer = consumer::find_or_create(jetstream, &jobs, &filter, created.max_ack_pending).await?;
        let config = &consumer.cached_info().config;
        required::consumer(&identity.stream, &filter, config)?;
        let ack_wait = config.ack_wait;
        for stream in [&jobs].into_iter().chain(&answers) {
            // Only new streams get these settings. Those of existing ones are the operator's to change.
            let Config { name, num_replicas, max_bytes, .. } = &stream.cached_info().config;
            let other_size = *name == identity.stream && created.jobs_max_bytes.is_some_and(|size| size != *max_bytes);
            if *num_replicas < created.replicas || other_size {
                tracing::warn!(
                    stream = name,
                    replicas = num_replicas,
                    max_bytes,
                    "the stream exists with other settings than --replicas and --jobs-max-bytes say; change it with `nats stream edit`"
                );
            }
        }
        Ok(Self { consumer, ack_wait, filter, identity, jobs })
    }

    /// Checks that the stream and its consumer are still the ones that were opened, and reads their backlog.
    pub(crate) async fn check_identity(&self) -> IdentityCheck {
        let consumer = match self.consumer.get_info().await {
            Ok(info) => info,
            Err(error) if is_missing(&error) => return IdentityCheck::Missing(error.to_string()),
            Err(error) => return IdentityCheck::Unknown(error.to_string()),
        };
        let stream = match self.jobs.get_info().await {
            Ok(info) => info,
            Err(error) => return IdentityCheck::Unknown(error.to_string()),
        };
        if stream.created != self.identity.created {
            return IdentityCheck::Replaced;
        }
        let waiting = consumer.num_pending;
        let first = match waiting + consumer.num_ack_pending as u64 {
            0 => None,
            _ if self.filter.subject.is_empty() => (stream.state.messages > 0).then_some(stream.state.first_timestamp),
            // With a filter, the first of its jobs that is still in the stream.
            _ => match self.jobs.get_first_raw_message_by_subject(&self.filter.subject, 1).await {
                Ok(message) => Some(message.time),
                Err(error) => return IdentityCheck::Unknown(error.to_string()),
            },
        };
        let oldest = first.and_then(|first| SystemTime::from(first).elapsed().ok()).unwrap_or_default();
        IdentityCheck::Verified(Backlog { waiting, oldest })
    }
}

/// Returns `true` if the error means that the consumer or the stream does not exist.
fn is_missing(error: &ConsumerInfoError) -> bool {
    match error.kind() {
        ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => true,
        ConsumerInfoErrorKind::JetStream(reply) => {
            [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND].contains(&reply.error_code())
        }
        _ => false,
    }
}

/// Settings common to all streams. A stream with a maximum size refuses messages when it is full, and drops none.
fn config(subjects: &Subjects, kind: &str, replicas: usize, max_bytes: Option<i64>) -> Config {
    let subject = format!("{subjects}.{}", kind.to_lowercase());
    Config {
        name: subjects.stream(kind),
        subjects: vec![format!("{subject}.>"), subject],
        storage: StorageType::File,
        num_replicas: replicas,
        max_bytes: max_bytes.unwrap_or(-1),
        discard: if max_bytes.is_some() { DiscardPolicy::New } else { DiscardPolicy::Old },
        ..Config::default()
    }
}

async fn find_or_create(jetstream: &Context, config: Config) -> Result<stream::Stream, Unusable> {
    let name = config.name.clone();
    let refused = |action, reason: &dyn fmt::Display, passing| Unusable::Stream {
        stream: name.clone(),
        action,
        reason: reason.to_string(),
        passing,
    };
    let failed = |action, reason: &dyn fmt::Display| refused(action, reason, false);
    match jetstream.get_stream(&config.name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            GetStreamErrorKind::JetStream(reply) if is_disabled(reply.error_code()) => {
                return Err(Unusable::NoJetStream);
            }
            GetStreamErrorKind::JetStream(reply) if is_passing(&reply) => return Err(refused("read", &error, true)),
            // Without a responder on JetStream's own subjects there is no JetStream. Otherwise the response takes too long.
            GetStreamErrorKind::Request => {
                return Err(no_answer(&error).unwrap_or_else(|| refused("read", &error, true)));
            }
            _ => return Err(failed("read", &error)),
        },
    }
    tracing::info!(stream = config.name, "creating the stream");
    let created = if config.num_replicas > 1 { "created in several copies (--replicas)" } else { "created" };
    match jetstream.create_stream(config.clone()).await {
        Ok(stream) => Ok(stream),
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStreamUnavailable => Err(Unusable::NoJetStream),
            CreateStreamErrorKind::JetStream(reply) if is_about_size(reply.error_code()) => {
                Err(Unusable::Size { stream: name.clone(), flag: size_flag(&name), reason: error.to_string() })
            }
            CreateStreamErrorKind::TimedOut => Err(refused(created, &error, true)),
            CreateStreamErrorKind::JetStream(reply) if is_passing(&reply) => Err(refused(created, &error, true)),
            // Another worker created it first.
            CreateStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                jetstream.get_stream(&config.name).await.map_err(|error| failed("read", &error))
            }
            _ => Err(failed(created, &error)),
        },
    }
}

/// Returns `true` if an account's limits on the size of streams are the reason.
fn is_about_size(code: ErrorCode) -> bool {
    [
        ErrorCode::STREAM_MAX_BYTES_REQUIRED,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ]
    .contains(&code)
}

/// Flag that sets the size of a stream.
fn size_flag(stream: &str) -> &'static str {
    match stream.rsplit('_').next() {
        Some("JOBS") => "--jobs-max-bytes",
        Some("RESULTS") => "--results-max-bytes",
        _ => "--dead-max-bytes",
    }
}

fn is_disabled(code: ErrorCode) -> bool {
    code == ErrorCode::JETSTREAM_NOT_ENABLED || code == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
}

fn no_answer(error: &(dyn std::error::Error + 'static)) -> Option<Unusable> {
    use async_nats::jetstream::context::{RequestError, RequestErrorKind};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<RequestError>().is_some_and(|error| error.kind() == RequestErrorKind::NoResponders) {
            return Some(Unusable::NoJetStream);
        }
        cause = error.source();
    }
    None
}
