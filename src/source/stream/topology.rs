//! The streams of a prefix, and the consumer workers share. What is missing is made; what exists is left alone, and refused
//! where jobs could be lost or stay for ever.

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

/// The streams as they are.
pub(crate) struct Topology {
    /// Gives out jobs.
    pub consumer: PullConsumer,
    /// After how long the server gives a silent worker's job to another.
    pub ack_wait: Duration,
    /// Which of the jobs it gives out.
    pub filter: ConsumerFilter,
    /// The jobs stream's name and creation time, which make a job's sequence unique for ever.
    pub identity: Identity,
    jobs: stream::Stream,
}

/// Names one life of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The stream.
    pub stream: String,
    /// When it was created.
    pub created: DateTime,
}

impl Identity {
    /// The message id of the answer to the job with this sequence.
    #[must_use]
    pub(crate) fn answer_id(&self, sequence: u64) -> String {
        format!("{}-{}-{sequence}", self.stream, self.created.unix_timestamp())
    }
}

/// What waits in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// Jobs not delivered to any worker yet.
    pub waiting: u64,
    /// Age of the oldest job not answered yet; zero where there is none.
    pub oldest: Duration,
}

/// The state of the stream and its consumer.
#[derive(Debug)]
pub(crate) enum IdentityCheck {
    /// They are the ones that were opened.
    Verified(Backlog),
    /// One of them is deleted, for this reason.
    Missing(String),
    /// The stream was deleted and made anew.
    Replaced,
    /// The server did not say.
    Unknown(String),
}

/// Why no more jobs can be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    /// The stream or the consumer was deleted.
    #[error("the stream {stream} is gone, or its consumer {consumer}: {reason}; start again to have them made")]
    Deleted {
        /// The consumer.
        consumer: String,
        /// The stream.
        stream: String,
        /// What the server says.
        reason: String,
    },
    /// Jobs of the new stream have the sequences of the old one's.
    #[error("the stream {0} was deleted and made anew; start again to work on the new one")]
    Renewed(String),
}

/// Finds or makes the streams of results and dead letters.
///
/// # Errors
/// If the server refuses them, or what there is can't be used.
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
    /// Finds or makes the streams and the consumer.
    ///
    /// # Errors
    /// Where the server has no JetStream, or what there is can't be used.
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
            // Set where streams are made; those that exist are the operator's to change.
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

    /// Asks the server whether the stream and its consumer are still the ones that were opened, and what waits in them.
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
            // With a filter, the first of its jobs that is still there.
            _ => match self.jobs.get_first_raw_message_by_subject(&self.filter.subject, 1).await {
                Ok(message) => Some(message.time),
                Err(error) => return IdentityCheck::Unknown(error.to_string()),
            },
        };
        let oldest = first.and_then(|first| SystemTime::from(first).elapsed().ok()).unwrap_or_default();
        IdentityCheck::Verified(Backlog { waiting, oldest })
    }
}

/// Returns `true` if the server is certain that there is no such consumer, or no such stream.
fn is_missing(error: &ConsumerInfoError) -> bool {
    match error.kind() {
        ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => true,
        ConsumerInfoErrorKind::JetStream(reply) => {
            [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND].contains(&reply.error_code())
        }
        _ => false,
    }
}

/// Settings that all streams have in common. One with a maximum size refuses messages when it is full, and drops none.
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
            // Nobody answers JetStream's own subjects: there is none. Or somebody does, and takes too long.
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
            // Another worker was quicker.
            CreateStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                jetstream.get_stream(&config.name).await.map_err(|error| failed("read", &error))
            }
            _ => Err(failed(created, &error)),
        },
    }
}

/// Returns `true` if an account's limits on the size of streams are in the way.
fn is_about_size(code: ErrorCode) -> bool {
    [
        ErrorCode::STREAM_MAX_BYTES_REQUIRED,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ]
    .contains(&code)
}

/// The flag that sets the size of a stream.
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
