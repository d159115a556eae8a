//! From arguments to the settings of each part, all checked before anything starts.

pub(crate) mod http;
mod nats;

use std::borrow::Cow;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use sha2::{Digest, Sha256};

use crate::cli::http::{HttpArgs, ServeArgs};
use crate::cli::init::InitArgs;
use crate::cli::queue::StreamArgs;
use crate::cli::tag::{CaptionArgs, RatingPlace};
use crate::cli::variables::given;
use crate::cli::{Replacement, TaggingArgs, WorkerArgs};
use crate::memory::{self, Budget};
use crate::model::category::{CHARACTER, GENERAL};
use crate::model::repository::Repository;
use crate::model::threshold::Thresholds;
use crate::pipeline::publish::caption;
use crate::pipeline::tag::onnx;
use crate::pipeline::{self, batch, decode, fetch, pool, publish};
use crate::source::{self, stream};
use crate::store::bucket::Bucket;
use crate::store::suffix::Suffixes;
use crate::store::{InvalidStore, Store};
use nats::filter;
pub(crate) use nats::subjects;

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// A store.
    #[error(transparent)]
    Store(#[from] InvalidStore),
    /// No place for a copy of the models.
    #[error("there is no home folder to keep a copy of the models in; say where with --models-cache")]
    NoCache,
    /// A server's address. The text is not shown: it may hold a password.
    #[error("the NATS address can't be used (--nats-url): {0}; expected nats://host:port")]
    NatsUrl(std::io::Error),
    /// A file that NATS is to be reached with.
    #[error("`{}` can't be used ({flag}): {source}", path.display())]
    NatsFile {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The prefix.
    #[error("`{prefix}` can't be a prefix (--prefix): {source}")]
    Prefix {
        /// As given.
        prefix: String,
        /// Why.
        source: crate::nats::subjects::InvalidPrefix,
    },
    /// A subject that is not one of jobs.
    #[error("`{0}` is no subject of jobs (--subject); expected {1}, or one below it, such as {1}.shop")]
    JobSubject(String, String),
    /// A filter that begins as the subjects of jobs do.
    #[error("`{0}` is what follows the subject of jobs and begins like that itself (--filter); expected {1}")]
    Filter(String, String),
    /// A worker without one has nothing to read from.
    #[error("a worker needs a --store to read images from, such as s3://bucket or file:///folder")]
    NoStore,
    /// A token that anybody would have.
    #[error("the token is empty or has characters that a header can't carry (--http-token)")]
    Token,
    /// A name of the server.
    #[error(
        "`{0}` is no name of a host (--allowed-host); expected one such as tagmill.example, without scheme and port"
    )]
    Host(String),
    /// An origin.
    #[error("`{0}` is no origin (--cors-origin); expected scheme://host[:port], or *")]
    Origin(String),
    /// A number out of range.
    #[error("{} is {value}: it must be {expected}", given(flag))]
    Range {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: Cow<'static, str>,
    },
}

/// Settings of all that tag what others send.
pub(crate) struct Tagging {
    /// Where images may be read from.
    pub stores: Vec<Store>,
    /// The model for jobs that name none.
    pub model: Option<String>,
    /// Of the stages.
    pub pipeline: pipeline::Settings,
    /// Bytes images in flight may take.
    pub memory_budget: u64,
    /// Interactive images in flight at once.
    pub interactive_in_flight: usize,
    /// What is served over HTTP.
    pub http: source::http::Settings,
    /// How long a stop waits.
    pub drain_timeout: Duration,
    /// This worker's name.
    pub name: Arc<str>,
}

/// Settings of `tagmill worker`.
pub(crate) struct Worker {
    /// What it shares with others that tag.
    pub tagging: Tagging,
    /// Where the queue is.
    pub nats: crate::nats::Settings,
    /// How it is used.
    pub stream: stream::Settings,
    /// How requests are answered.
    pub requests: source::nats::Settings,
}

impl TryFrom<WorkerArgs> for Worker {
    type Error = Invalid;

    fn try_from(args: WorkerArgs) -> Result<Self, Invalid> {
        let WorkerArgs { tagging, nats, queue, name, drain_timeout, http, log: _ } = args;
        if tagging.stores.iter().all(String::is_empty) {
            return Err(Invalid::NoStore);
        }
        more_than_nothing("live-timeout", queue.live_timeout.is_zero())?;
        more_than_nothing("max-attempts", queue.max_attempts == 0)?;
        let tagging = Tagging::new(tagging, http, drain_timeout, name)?;
        let stream = stream::Settings {
            filter: filter(queue.filter, &nats.prefix)?,
            subjects: subjects(&nats.prefix)?,
            created: created(&queue.streams)?,
            max_attempts: queue.max_attempts,
            event_suffixes: queue.event_suffixes.map_or_else(Suffixes::all, Suffixes::new),
            in_flight: in_flight(&tagging.pipeline),
            worker: Arc::clone(&tagging.name),
        };
        let requests = source::nats::Settings {
            subjects: stream.subjects.clone(),
            timeout: queue.live_timeout,
            room: tagging.http.bodies.clone(),
            worker: Arc::clone(&tagging.name),
        };
        Ok(Self { nats: nats.try_into()?, tagging, stream, requests })
    }
}

/// Settings of the streams and the consumer that are created.
fn created(args: &StreamArgs) -> Result<stream::Created, Invalid> {
    let bytes = |flag, size: Option<ByteSize>| {
        more_than_nothing(flag, size.is_some_and(|size| size.as_u64() == 0))?;
        Ok::<_, Invalid>(size.map(|size| i64::try_from(size.as_u64()).unwrap_or(i64::MAX)))
    };
    more_than_nothing("max-ack-pending", args.max_ack_pending == 0)?;
    Ok(stream::Created {
        replicas: within("replicas", args.replicas, 1..=5)?,
        jobs_max_bytes: bytes("jobs-max-bytes", args.jobs_max_bytes)?,
        results_max_bytes: bytes("results-max-bytes", args.results_max_bytes)?,
        dead_max_bytes: bytes("dead-max-bytes", args.dead_max_bytes)?,
        max_ack_pending: args.max_ack_pending.into(),
    })
}

/// The parts of the queue that `tagmill init` makes the consumers of: all of it, or one for each filter.
///
/// # Errors
/// If an argument can't be used.
pub(crate) fn streams(args: &InitArgs) -> Result<Vec<stream::Settings>, Invalid> {
    let (prefix, created) = (&args.nats.prefix, created(&args.streams)?);
    let filters: Vec<_> = args.filters.iter().cloned().map(Some).collect();
    let filters = if filters.is_empty() { vec![None] } else { filters };
    let part = |wanted| -> Result<stream::Settings, Invalid> {
        Ok(stream::Settings {
            subjects: subjects(prefix)?,
            created,
            max_attempts: 1,
            filter: filter(wanted, prefix)?,
            event_suffixes: Suffixes::all(),
            in_flight: 0,
            worker: "".into(),
        })
    };
    filters.into_iter().map(part).collect()
}

impl TryFrom<ServeArgs> for Tagging {
    type Error = Invalid;

    fn try_from(args: ServeArgs) -> Result<Self, Invalid> {
        Self::new(args.tagging, args.http, args.drain_timeout, None)
    }
}

impl Tagging {
    fn new(args: TaggingArgs, http: HttpArgs, drain_timeout: Duration, name: Option<String>) -> Result<Self, Invalid> {
        let name: Arc<str> = name.unwrap_or_else(worker_name).into();
        let memory_budget = memory_budget(&args)?;
        let budget = Budget::new(memory_budget);
        let pipeline = stages(&args, &budget, &name)?;
        let interactive_in_flight = interactive_in_flight(pipeline.pool.batch.limit);
        let http = http::settings(http, &pipeline.fetch, &budget)?;
        let stores =
            args.stores.iter().filter(|url| !url.is_empty()).map(|url| url.parse()).collect::<Result<_, _>>()?;
        let model = args.model;
        Ok(Self { stores, model, pipeline, memory_budget, interactive_in_flight, http, drain_timeout, name })
    }
}

/// Settings of `tagmill tag`.
#[derive(Clone)]
pub(crate) struct Local {
    /// The model, where there are several.
    pub model: Option<String>,
    /// Of the stages.
    pub pipeline: pipeline::Settings,
    /// Images on their way at once.
    pub in_flight: usize,
}

impl Local {
    /// From the arguments shared by all that tag, and those on captions.
    ///
    /// # Errors
    /// Where one can't be used.
    pub(crate) fn new(tagging: &TaggingArgs, caption: CaptionArgs, name: Option<String>) -> Result<Self, Invalid> {
        let budget = Budget::new(memory_budget(tagging)?);
        let mut pipeline = stages(tagging, &budget, &name.unwrap_or_else(worker_name).into())?;
        pipeline.publish.caption = caption::Settings {
            underscores: caption.underscores,
            characters_first: caption.characters_first,
            prepend: caption.prepend_tags,
            first: caption.first_tags.iter().map(|tag| caption::spaced(tag)).collect(),
            rating: caption.rating_tag.map(|place| match place {
                RatingPlace::First => caption::Place::First,
                RatingPlace::Last => caption::Place::Last,
            }),
            expand_characters: caption.expand_characters,
            max_tags: caption.max_tags,
            separator: caption.separator,
            ..pipeline.publish.caption
        };
        // Enough to hide how far away a bucket is.
        let in_flight = in_flight(&pipeline).max(32);
        Ok(Self { model: tagging.model.clone(), pipeline, in_flight })
    }
}

fn memory_budget(args: &TaggingArgs) -> Result<u64, Invalid> {
    let bytes = args.memory_budget.map_or_else(Budget::default_bytes, |size| size.as_u64());
    if bytes < memory::LEAST {
        let value = bytes.to_string();
        return Err(Invalid::Range { flag: "memory-budget", value, expected: "at least 64MiB".into() });
    }
    Ok(bytes)
}

fn stages(args: &TaggingArgs, budget: &Budget, worker: &Arc<str>) -> Result<pipeline::Settings, Invalid> {
    more_than_nothing("max-image-bytes", args.max_image_bytes.as_u64() == 0)?;
    more_than_nothing("max-image-pixels", args.max_image_pixels == 0)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let onnx = onnx(args, cores)?;
    let pool = pool::Settings {
        repository: models(&args.source.models, args.source.models_cache.as_deref())?,
        aliases: args.source.aliases.clone(),
        batch: batch::Settings { limit: onnx.batch, window: args.window },
        onnx,
        max_models: at_least_one("max-models", args.max_models)?,
    };
    let caption = caption::Settings {
        exclude: args.exclude_tags.iter().filter(|tag| !tag.is_empty()).map(|tag| caption::spaced(tag)).collect(),
        exclude_categories: args.exclude_categories.iter().cloned().collect(),
        replace: args.replace_tags.iter().map(|Replacement { name, by }| (caption::spaced(name), by.clone())).collect(),
        replace_categories: args.replace_categories.iter().map(|one| (one.name.clone(), one.by.clone())).collect(),
        escape_parentheses: args.escape_parentheses,
        ..caption::Settings::default()
    };
    Ok(pipeline::Settings {
        fetch: fetch::Settings { max_image_bytes: args.max_image_bytes.as_u64(), memory: budget.encoded.clone() },
        decode: decode::Settings {
            threads: at_least_one("decode-threads", args.decode_threads.unwrap_or(cores))?,
            picture: decode::picture::Settings {
                max_pixels: args.max_image_pixels,
                ignore_orientation: args.ignore_orientation,
            },
            memory: budget.decoded.clone(),
        },
        pool,
        publish: publish::Settings { worker: Arc::clone(worker), caption },
    })
}

fn onnx(args: &TaggingArgs, cores: usize) -> Result<onnx::Settings, Invalid> {
    let cached = || engines(args.source.models_cache.as_deref());
    Ok(onnx::Settings {
        devices: args.devices.clone(),
        threads: at_least_one("infer-threads", args.infer_threads.unwrap_or(cores))?,
        batch: at_least_one("batch-size", args.batch_size)?,
        thresholds: Thresholds::default()
            .with(GENERAL, args.general_threshold)
            .with(CHARACTER, args.character_threshold)
            .with_all(args.threshold),
        device_memory: args.device_memory.map(|size| size.as_u64()),
        engines: args.engine_cache.clone().or_else(cached),
    })
}

/// Jobs held at once, where storage is near: for every device one batch runs and one is next, and one more is on its way; no
/// less than keeps every decoder busy. What would wait longer waits better in the queue, where any worker can take it.
fn in_flight(pipeline: &pipeline::Settings) -> usize {
    let pool = &pipeline.pool;
    let (batch, devices) = (pool.batch.limit, pool.onnx.devices.len());
    ((2 * devices + 1) * batch).max(pipeline.decode.threads + batch)
}

/// Interactive images in flight at once: more would wait for longer than a caller does.
const fn interactive_in_flight(batch: usize) -> usize {
    32 * batch
}

/// Where models come from: a folder, or a bucket and where its copy is kept.
///
/// # Errors
/// Where it is a bucket that can't be, or there is no place for its copy.
pub(crate) fn models(url: &str, folder: Option<&FilePath>) -> Result<Repository, Invalid> {
    if !url.starts_with("s3://") {
        return Ok(Repository::Folder(url.strip_prefix("file://").unwrap_or(url).into()));
    }
    let root = cache(folder).ok_or(Invalid::NoCache)?;
    // A folder of its own for each bucket and prefix, wherever they are served.
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
    let hash = Sha256::digest(format!("{endpoint} {}", url.trim_end_matches('/')));
    let cache = root.join(format!("models-{}", &hex::encode(hash)[..16]));
    Ok(Repository::Bucket { bucket: Bucket::of_models(url.trim_end_matches('/'))?, cache })
}

/// Where TensorRT's engines are kept.
pub(crate) fn engines(folder: Option<&FilePath>) -> Option<PathBuf> {
    cache(folder).map(|cache| cache.join("engines"))
}

/// Where is kept what can be had again.
fn cache(folder: Option<&FilePath>) -> Option<PathBuf> {
    let home = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    folder.map(PathBuf::from).or_else(|| Some(home()?.join("tagmill")))
}

/// A limit of nothing would let nothing through.
pub(crate) fn more_than_nothing(flag: &'static str, is_nothing: bool) -> Result<(), Invalid> {
    if is_nothing {
        Err(Invalid::Range { flag, value: "0".to_owned(), expected: "more than that".into() })
    } else {
        Ok(())
    }
}

/// A number from 1 to 65536.
pub(crate) fn at_least_one(flag: &'static str, value: usize) -> Result<usize, Invalid> {
    within(flag, value, 1..=65_536)
}

fn within(flag: &'static str, value: usize, allowed: RangeInclusive<usize>) -> Result<usize, Invalid> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let expected = format!("from {} to {}", allowed.start(), allowed.end());
    Err(Invalid::Range { flag, value: value.to_string(), expected: expected.into() })
}

/// The host's name, and something that tells the workers of one host apart.
fn worker_name() -> String {
    format!("{}-{:04x}", gethostname::gethostname().to_string_lossy(), rand::random::<u16>())
}
