//! The subjects of a prefix, its streams, and the consumer workers share. What is missing is made; what exists is left
//! alone, and refused where jobs could be lost or stay for ever.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, ConsumerError, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{Context, ErrorCode, stream};
use futures_util::TryStreamExt;

use super::Settings;
use super::part::{Part, overlap};

const ACK_WAIT: Duration = Duration::from_secs(30);
const MAX_ACK_PENDING: i64 = 20_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The subjects and stream names of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

/// Not a prefix.
#[derive(Debug, thiserror::Error)]
#[error("a prefix is letters, digits, `-` and `_`, in parts joined by dots, such as tagmill or shop.tagger")]
pub struct InvalidPrefix;

impl FromStr for Subjects {
    type Err = InvalidPrefix;

    fn from_str(prefix: &str) -> Result<Self, InvalidPrefix> {
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if prefix.split('.').all(plain) { Ok(Self { prefix: prefix.to_owned() }) } else { Err(InvalidPrefix) }
    }
}

impl fmt::Display for Subjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl Subjects {
    /// Where jobs are published.
    #[must_use]
    pub fn jobs(&self) -> String {
        format!("{}.jobs", self.prefix)
    }

    /// Where live requests are sent.
    #[must_use]
    pub fn live(&self) -> String {
        format!("{}.tag", self.prefix)
    }

    /// Where the result of a job published on `job_subject` goes.
    #[must_use]
    pub fn result_for(&self, job_subject: &str) -> String {
        self.carried("results", job_subject)
    }

    /// Where the dead letter of a job published on `job_subject` goes.
    #[must_use]
    pub fn dead_for(&self, job_subject: &str) -> String {
        self.carried("dead", job_subject)
    }

    /// What follows `jobs` is carried over.
    fn carried(&self, kind: &str, job_subject: &str) -> String {
        let rest = job_subject.strip_prefix(&self.jobs()).unwrap_or_default();
        format!("{}.{kind}{rest}", self.prefix)
    }

    /// The stream of jobs.
    #[must_use]
    pub fn jobs_stream(&self) -> String {
        self.stream("JOBS")
    }

    /// The stream of results.
    #[must_use]
    pub fn results_stream(&self) -> String {
        self.stream("RESULTS")
    }

    /// The stream of dead letters.
    #[must_use]
    pub fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    fn stream(&self, kind: &str) -> String {
        format!("{}_{kind}", self.prefix.replace('.', "_").to_uppercase())
    }

    fn config(&self, kind: &str, replicas: usize) -> Config {
        let subject = format!("{}.{}", self.prefix, kind.to_lowercase());
        Config {
            name: self.stream(kind),
            subjects: vec![format!("{subject}.>"), subject],
            storage: StorageType::File,
            num_replicas: replicas,
            ..Config::default()
        }
    }
}

/// The streams as they are.
pub struct Topology {
    /// Gives out jobs.
    pub consumer: PullConsumer,
    /// After how long the server gives a silent worker's job to another.
    pub ack_wait: Duration,
    /// Which of the jobs it gives out.
    pub part: Part,
    /// The jobs stream's name and creation time, which make a job's sequence unique for ever.
    pub identity: Identity,
    jobs: stream::Stream,
}

/// Names one life of a stream.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The stream.
    pub stream: String,
    /// When it was created, in Unix seconds.
    pub created: i64,
}

impl Identity {
    /// The message id of the answer to the job with this sequence.
    #[must_use]
    pub fn answer_id(&self, sequence: u64) -> String {
        format!("{}-{}-{sequence}", self.stream, self.created)
    }
}

/// What waits in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// Jobs not delivered to any worker yet.
    pub waiting: u64,
    /// Age of the oldest job not answered yet; zero where there is none.
    pub oldest: Duration,
}

/// Why the queue can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The server has no JetStream, or not for this account.
    #[error(
        "the NATS server has no JetStream for this account; start it with --jetstream (nats-server -js) or enable it in its configuration"
    )]
    NoJetStream,
    /// A stream can't be made or read.
    #[error("the stream {stream} can't be {action}: {reason}")]
    Stream {
        /// The stream.
        stream: String,
        /// What was tried.
        action: &'static str,
        /// What the server says.
        reason: String,
    },
    /// Two consumers would take the same jobs, which a work queue does not allow.
    #[error(
        "the consumer {consumer} can't have the jobs on {subject}: {others}, and the parts of a work queue must not overlap; have the workers take parts that don't (--filter), or remove the other consumer once its workers are gone (nats consumer rm {stream} NAME)"
    )]
    Overlap {
        /// The stream.
        stream: String,
        /// What would have been made.
        consumer: String,
        /// What it was to take.
        subject: String,
        /// Who has them.
        others: String,
    },
    /// What exists would lose jobs or keep them for ever.
    #[error(
        "{what} has {setting} {found}, which tagmill can't work with: it must be {wanted}; change it, or remove it to have it made anew"
    )]
    Setting {
        /// The stream or consumer.
        what: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
}

impl Topology {
    /// Finds or makes the streams and the consumer.
    ///
    /// # Errors
    /// Where the server has no JetStream, or what there is can't be used.
    pub async fn open(jetstream: &Context, settings: &Settings) -> Result<Self, Unusable> {
        let (subjects, replicas) = (&settings.subjects, settings.replicas);
        let jobs = Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: settings.jobs_max_bytes.unwrap_or(-1),
            ..subjects.config("JOBS", replicas)
        };
        let results = Config {
            max_age: 7 * DAY,
            duplicate_window: Duration::from_secs(120),
            ..subjects.config("RESULTS", replicas)
        };
        let dead = Config { max_age: 30 * DAY, ..subjects.config("DEAD", replicas) };
        let jobs = find_or_create(jetstream, jobs).await?;
        for config in [results, dead] {
            find_or_create(jetstream, config).await?;
        }
        let info = jobs.cached_info();
        require(&info.config.name, "retention", &info.config.retention, &RetentionPolicy::WorkQueue, "workqueue")?;
        let identity = Identity { stream: info.config.name.clone(), created: info.created.unix_timestamp() };
        let part = Part::of(&subjects.jobs(), settings.filter.as_ref());
        let consumer = consumer(&jobs, &part).await?;
        let config = &consumer.cached_info().config;
        let name = format!("the consumer {} of {}", part.consumer, identity.stream);
        if part.subject != config.filter_subject {
            let found = if config.filter_subject.is_empty() { "(all)" } else { &config.filter_subject };
            let wanted = "that of --filter, and unset without one";
            return Err(wrong(&name, "filter", found, wanted));
        }
        require(&name, "ack policy", &config.ack_policy, &AckPolicy::Explicit, "explicit")?;
        if config.max_deliver > 0 {
            return Err(wrong(&name, "max_deliver", config.max_deliver, "unset: workers count deliveries themselves"));
        }
        let ack_wait = config.ack_wait;
        Ok(Self { consumer, ack_wait, part, identity, jobs })
    }

    /// Why there is no consumer any more, where the server is certain that there is none.
    pub async fn is_gone(&self) -> Option<String> {
        let error = self.consumer.get_info().await.err()?;
        let certain = match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => true,
            ConsumerInfoErrorKind::JetStream(reply) => {
                [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND].contains(&reply.error_code())
            }
            _ => false,
        };
        certain.then(|| error.to_string())
    }

    /// What waits in the stream.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn backlog(&self) -> Result<Backlog, async_nats::Error> {
        let info = self.consumer.get_info().await?;
        let (waiting, unanswered) = (info.num_pending, info.num_pending + info.num_ack_pending as u64);
        let first = match unanswered {
            0 => None,
            _ if self.part.subject.is_empty() => {
                let state = self.jobs.get_info().await?.state;
                (state.messages > 0).then_some(state.first_timestamp)
            }
            // Of a part, the first that is still there.
            _ => Some(self.jobs.get_first_raw_message_by_subject(&self.part.subject, 1).await?.time),
        };
        let oldest = first.and_then(|first| SystemTime::from(first).elapsed().ok()).unwrap_or_default();
        Ok(Backlog { waiting, oldest })
    }
}

async fn find_or_create(jetstream: &Context, config: Config) -> Result<stream::Stream, Unusable> {
    let name = config.name.clone();
    let failed = |action, reason: &dyn fmt::Display| Unusable::Stream {
        stream: name.clone(),
        action,
        reason: reason.to_string(),
    };
    match jetstream.get_stream(&config.name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            GetStreamErrorKind::JetStream(reply) if is_disabled(reply.error_code()) => {
                return Err(Unusable::NoJetStream);
            }
            // Nobody answers JetStream's own subjects: there is none.
            GetStreamErrorKind::Request => return Err(no_answer(&error).unwrap_or_else(|| failed("read", &error))),
            _ => return Err(failed("read", &error)),
        },
    }
    tracing::info!(stream = config.name, "creating the stream");
    match jetstream.create_stream(config.clone()).await {
        Ok(stream) => Ok(stream),
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStreamUnavailable => Err(Unusable::NoJetStream),
            // Another worker was quicker.
            CreateStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                jetstream.get_stream(&config.name).await.map_err(|error| failed("read", &error))
            }
            _ => Err(failed("created", &error)),
        },
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

async fn consumer(jobs: &stream::Stream, part: &Part) -> Result<PullConsumer, Unusable> {
    let stream = &jobs.cached_info().config.name;
    let failed = |reason: &dyn fmt::Display| Unusable::Stream {
        stream: stream.clone(),
        action: "given its consumer",
        reason: reason.to_string(),
    };
    match jobs.get_consumer::<pull::Config>(&part.consumer).await {
        Ok(consumer) => return Ok(consumer),
        Err(error) => {
            // The error does not say whether it is missing or unreachable: making it does.
            tracing::debug!(%error, "no consumer yet");
        }
    }
    // Not every server notices that `*.eu` and `shop.>` have jobs in common.
    let overlap = |others: Vec<String>| Unusable::Overlap {
        stream: stream.clone(),
        consumer: part.consumer.clone(),
        subject: part.shown(),
        others: if others.is_empty() { "another takes some of them".to_owned() } else { others.join(", ") },
    };
    let others_have = others(jobs, part).await;
    if !others_have.is_empty() {
        return Err(overlap(others_have));
    }
    let config = pull::Config {
        durable_name: Some(part.consumer.clone()),
        filter_subject: part.subject.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    match jobs.create_consumer(config).await {
        Ok(consumer) => Ok(consumer),
        Err(error) if is_overlap(&error) => Err(overlap(others(jobs, part).await)),
        // A push consumer of that name, most likely; the server's words are the best there are.
        Err(error) if matches!(error.kind(), ConsumerErrorKind::JetStream(_)) => {
            jobs.get_consumer(&part.consumer).await.map_err(|_| failed(&error))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Whether the server refuses a consumer because another takes some of the same jobs.
fn is_overlap(error: &ConsumerError) -> bool {
    let refused = [ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED, ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE];
    matches!(error.kind(), ConsumerErrorKind::JetStream(reply) if refused.contains(&reply.error_code()))
}

/// Who else takes jobs of this part, in words.
async fn others(jobs: &stream::Stream, part: &Part) -> Vec<String> {
    let consumers: Vec<_> = jobs.consumers().try_collect().await.unwrap_or_default();
    let others = consumers.into_iter().filter(|other| other.name != part.consumer).filter_map(|other| {
        let mut filters = other.config.filter_subjects;
        filters.extend(Some(other.config.filter_subject).filter(|filter| !filter.is_empty()));
        let overlaps = filters.is_empty() || filters.iter().any(|filter| overlap(filter, &part.subject));
        let taken = if filters.is_empty() { "all jobs".to_owned() } else { format!("those on {}", filters.join(", ")) };
        overlaps.then(|| format!("the consumer {} takes {taken}", other.name))
    });
    others.collect()
}

fn require<T: PartialEq + fmt::Debug>(
    what: &str,
    setting: &'static str,
    found: &T,
    wanted: &T,
    shown: &'static str,
) -> Result<(), Unusable> {
    if found == wanted { Ok(()) } else { Err(wrong(what, setting, format!("{found:?}").to_lowercase(), shown)) }
}

fn wrong(what: &str, setting: &'static str, found: impl fmt::Display, wanted: &'static str) -> Unusable {
    Unusable::Setting { what: what.to_owned(), setting, found: found.to_string(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_jobs_is_carried_over() {
        let subjects: Subjects = "shop.tagger".parse().expect("a prefix");
        assert_eq!(subjects.jobs(), "shop.tagger.jobs");
        assert_eq!(subjects.result_for("shop.tagger.jobs"), "shop.tagger.results");
        assert_eq!(subjects.result_for("shop.tagger.jobs.a.b"), "shop.tagger.results.a.b");
        assert_eq!(subjects.dead_for("shop.tagger.jobs.a"), "shop.tagger.dead.a");
        assert_eq!(subjects.stream("JOBS"), "SHOP_TAGGER_JOBS");
    }

    #[test]
    fn a_prefix_is_a_plain_subject() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a.>", "*", "ä"] {
            assert!(text.parse::<Subjects>().is_err(), "{text}");
        }
    }
}
