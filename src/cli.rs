//! What can be said on the command line, and in the environment.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

pub(crate) mod bench;
pub(crate) mod dead;
pub(crate) mod generate;
mod hints;
pub(crate) mod http;
pub(crate) mod init;
pub(crate) mod models;
pub(crate) mod queue;
pub(crate) mod select;
pub(crate) mod submit;
pub(crate) mod tag;
pub(crate) mod variables;

use std::num::{IntErrorKind, ParseIntError};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::model::catalog::Alias;
use crate::model::threshold::Threshold;
use crate::pipeline::tag::device::Device;
use crate::telemetry::LogFormat;
use bench::BenchArgs;
use dead::DeadCommand;
use generate::{CompletionsArgs, ManArgs};
use http::{HttpArgs, ServeArgs};
use init::InitArgs;
use models::ModelsCommand;
use queue::{NatsArgs, QueueArgs};
use submit::SubmitArgs;
use tag::TagArgs;

/// What is shown below the commands. Paragraphs are one line each, so that they wrap as wide as the terminal is.
const EXAMPLES: &str = "\
Examples:
  tagmill tag --models models photos
      tags of a folder's images, here and now
  tagmill init
      make the queue
  tagmill worker --models models --store s3://images
      work on it
  tagmill submit --follow s3://images/2026
      fill it, and see what comes out
  tagmill dead list
      what could not be tagged, and why

Every flag has an environment variable, which the --help of its command names; on the command line it wins.

Other variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ALLOW_HTTP for buckets; \
NATS_URL; ORT_DYLIB_PATH, the library of ONNX Runtime; RUST_LOG, such as debug; NO_COLOR.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or settings.";

/// What is shown below the options of `worker`.
const WORKER_EXAMPLES: &str = "\
Examples:
  Images of a bucket on a server of one's own (jobs name keys):
    export AWS_ENDPOINT_URL=https://s3.example.com
    tagmill worker --models models --store s3://images
  On a GPU, in larger batches, and only the jobs of the shop:
    tagmill worker --models models --store s3://images \\
        --device cuda --batch-size 32 --filter 'shop.>'
  A job, which the stream acknowledges, and a request that is answered at once:
    nats request tagmill.jobs '{\"image\":\"cat.jpg\"}'
    nats request tagmill.tag '{\"image\":\"cat.jpg\"}'

SIGTERM and SIGINT stop it: it takes no more jobs, finishes what it has within --drain-timeout, and hands back the rest; \
the second stops it at once. SIGHUP has it look at the models again.";

/// Tags images as a stream: jobs from NATS, images from S3, tags from a WD14-style model.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work on the queue: take jobs from NATS, publish tags to NATS.
    Worker(Box<WorkerArgs>),
    /// Tag images right here, without a queue: files, folders, or a bucket.
    Tag(Box<TagArgs>),
    /// Measure this machine with a model and images, and say which flags suit it.
    Bench(Box<BenchArgs>),
    /// Tag what HTTP requests bring: the API of a worker and its page, without a broker.
    Serve(Box<ServeArgs>),
    /// Publish a job for every image of folders, buckets, lists or standard input.
    Submit(Box<SubmitArgs>),
    /// Make the streams and the consumer that are missing, so that jobs can be published before a worker runs.
    Init(Box<InitArgs>),
    /// Look through dead letters: list them, send their jobs back into the queue, or drop them.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Look at the models there are, and download others.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Print shell completions.
    Completions(CompletionsArgs),
    /// Print a manual page, or write those of all commands.
    Man(ManArgs),
}

impl Cli {
    /// What to log where nothing is said: of what measures, only what is wrong, for models are loaded again and again.
    #[must_use]
    pub const fn log_level(&self) -> LevelFilter {
        let measures = matches!(self.command, Command::Bench(_) | Command::Models(ModelsCommand::Optimize(_)));
        if measures { LevelFilter::WARN } else { LevelFilter::INFO }
    }

    /// How to log.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Worker(args) => args.log.format,
            Command::Tag(args) => args.log.format,
            Command::Bench(args) => args.log.format,
            Command::Serve(args) => args.log.format,
            Command::Submit(args) => args.log.format,
            Command::Init(args) => args.log.format,
            Command::Completions(_) | Command::Man(_) => LogFormat::default(),
            Command::Models(ModelsCommand::List(args)) => args.log.format,
            Command::Models(ModelsCommand::Check(args)) => args.models.log.format,
            Command::Models(ModelsCommand::Pull(args)) => args.log.format,
            Command::Models(ModelsCommand::Optimize(args)) => args.log.format,
            Command::Dead(DeadCommand::List(args)) => args.log.format,
            Command::Dead(DeadCommand::Retry(args) | DeadCommand::Drop(args)) => args.log.format,
        }
    }
}

/// `tagmill worker`.
#[derive(Debug, Args)]
#[command(after_help = WORKER_EXAMPLES, mut_arg("stores", |arg| arg.required(true)))]
pub struct WorkerArgs {
    /// What to tag with.
    #[command(flatten)]
    pub(crate) tagging: TaggingArgs,
    /// Where the queue is.
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// How the queue is used.
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    /// Name of the worker in results and logs [default: the host's name, and a number].
    #[arg(long, value_name = "NAME", env = "TAGMILL_NAME", help_heading = "Queue")]
    pub(crate) name: Option<String>,
    /// How long a stop waits for jobs in hand; the rest goes back to the queue.
    #[arg(long, value_name = "DUR", default_value = "25s", value_parser = duration, env = "TAGMILL_DRAIN_TIMEOUT", help_heading = "Queue")]
    pub(crate) drain_timeout: Duration,
    /// What is served over HTTP.
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Shared by all that tag.
#[derive(Debug, Args)]
pub struct TaggingArgs {
    /// Where images may be read from: s3://bucket, s3://bucket/prefix or file:///folder. Repeatable; the first is the
    /// default. S3 settings come from the AWS_* variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...).
    #[arg(long = "store", value_name = "URL", value_delimiter = ',', value_parser = trimmed, env = "TAGMILL_STORE", help_heading = "Images")]
    pub(crate) stores: Vec<String>,
    /// Bytes an encoded image may have.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        value_parser = size,
        env = "TAGMILL_MAX_IMAGE_BYTES",
        help_heading = "Images"
    )]
    pub(crate) max_image_bytes: ByteSize,
    /// Pixels an image may have.
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u64>,
        default_value_t = 100_000_000,
        env = "TAGMILL_MAX_IMAGE_PIXELS",
        help_heading = "Images"
    )]
    pub(crate) max_image_pixels: u64,
    /// Bytes that images in flight may take, as they are stored and decoded; 64MiB at least [default: a quarter of the memory
    /// there is, at most 4GiB].
    #[arg(long, value_name = "SIZE", value_parser = size, env = "TAGMILL_MEMORY_BUDGET", help_heading = "Images")]
    pub(crate) memory_budget: Option<ByteSize>,
    /// Leave images as they are stored, whatever their EXIF orientation says.
    #[arg(long, env = "TAGMILL_IGNORE_ORIENTATION", help_heading = "Images")]
    pub(crate) ignore_orientation: bool,
    /// Threads that decode images, and as many for requests [default: one per core].
    #[arg(long, value_name = "N", value_parser = whole::<usize>, env = "TAGMILL_DECODE_THREADS", help_heading = "Images")]
    pub(crate) decode_threads: Option<usize>,

    /// Where models come from.
    #[command(flatten)]
    pub(crate) source: ModelSourceArgs,
    /// The model for jobs that name none [default: the only one there is].
    #[arg(long, value_name = "NAME", env = "TAGMILL_MODEL", help_heading = "Model")]
    pub(crate) model: Option<String>,
    /// Models kept loaded at a time; the one unused longest makes room for another.
    #[arg(long, value_name = "N", value_parser = whole::<usize>, default_value_t = 2, env = "TAGMILL_MAX_MODELS", help_heading = "Model")]
    pub(crate) max_models: usize,
    /// What to run it on: auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N. Several, separated by commas, share the work.
    #[arg(
        long = "device",
        value_name = "DEVICE",
        value_delimiter = ',',
        default_value = "auto",
        env = "TAGMILL_DEVICE",
        help_heading = "Model"
    )]
    pub(crate) devices: Vec<Device>,
    /// Bytes each model may take of each GPU's memory for what it computes with [default: what is free when it is loaded, less
    /// a sixteenth of all (512MiB if that is more), but at least half of what is free].
    #[arg(long, value_name = "SIZE", value_parser = size, env = "TAGMILL_DEVICE_MEMORY", help_heading = "Model")]
    pub(crate) device_memory: Option<ByteSize>,
    /// Where TensorRT keeps the engines it builds of models [default: the folder engines where copies of models are kept].
    #[arg(long, value_name = "DIR", env = "TAGMILL_ENGINE_CACHE", help_heading = "Model")]
    pub(crate) engine_cache: Option<PathBuf>,
    /// Images a batch has at most.
    #[arg(long, value_name = "N", value_parser = whole::<usize>, default_value_t = 8, env = "TAGMILL_BATCH_SIZE", help_heading = "Model")]
    pub(crate) batch_size: usize,
    /// How long an image waits for others to fill its batch.
    #[arg(long, value_name = "DUR", default_value = "25ms", value_parser = duration, env = "TAGMILL_WINDOW", help_heading = "Model")]
    pub(crate) window: Duration,
    /// Score over which a tag of any category is reported, where the flags below do not say otherwise [default: the model's own].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_THRESHOLD", help_heading = "Tags")]
    pub(crate) threshold: Option<Threshold>,
    /// Score over which a general tag is reported, or mcut for the largest gap between scores [default: the model's own,
    /// else 0.35].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_GENERAL_THRESHOLD", help_heading = "Tags")]
    pub(crate) general_threshold: Option<Threshold>,
    /// The same for characters [default: the model's own, else 0.85].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_CHARACTER_THRESHOLD", help_heading = "Tags")]
    pub(crate) character_threshold: Option<Threshold>,
    /// A tag never to report, by its name in the label file, or with spaces for underscores; of a rating, captions leave it
    /// out. Repeatable.
    #[arg(
        long = "exclude-tag",
        value_name = "TAG",
        value_delimiter = ',',
        value_parser = trimmed,
        env = "TAGMILL_EXCLUDE_TAG",
        help_heading = "Tags"
    )]
    pub(crate) exclude_tags: Vec<String>,
    /// A category whose tags are never reported, such as character; rating takes ratings out of captions. Repeatable.
    #[arg(
        long = "exclude-category",
        value_name = "CATEGORY",
        value_delimiter = ',',
        value_parser = trimmed,
        env = "TAGMILL_EXCLUDE_CATEGORY",
        help_heading = "Tags"
    )]
    pub(crate) exclude_categories: Vec<String>,
    /// Text of captions instead of a tag or rating, named as for --exclude-tag; an empty text leaves it out there. Repeatable.
    #[arg(
        long = "replace-tag",
        value_name = "TAG=TEXT",
        value_delimiter = ',',
        env = "TAGMILL_REPLACE_TAG",
        help_heading = "Tags"
    )]
    pub(crate) replace_tags: Vec<Replacement>,
    /// Text of captions instead of all tags of a category, once; an empty text leaves them out there, and --replace-tag goes
    /// before it. Repeatable.
    #[arg(
        long = "replace-category",
        value_name = "CATEGORY=TEXT",
        value_delimiter = ',',
        env = "TAGMILL_REPLACE_CATEGORY",
        help_heading = "Tags"
    )]
    pub(crate) replace_categories: Vec<Replacement>,
    /// Write a backslash before parentheses in captions.
    #[arg(long, env = "TAGMILL_ESCAPE_PARENTHESES", help_heading = "Tags")]
    pub(crate) escape_parentheses: bool,
    /// Threads one batch runs on, on the CPU [default: one per core].
    #[arg(long, value_name = "N", value_parser = whole::<usize>, env = "TAGMILL_INFER_THREADS", help_heading = "Model")]
    pub(crate) infer_threads: Option<usize>,
}

/// Where models come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelSourceArgs {
    /// The folder with the models, or s3://bucket/prefix: each is a folder in it with an ONNX file, a label file, and a
    /// tagmill.toml where it differs from the WD taggers. SIGHUP has a worker look at it again.
    #[arg(long, value_name = "DIR", default_value = "models", env = "TAGMILL_MODELS")]
    pub(crate) models: String,
    /// Where copies of models from a bucket are kept [default: ~/.cache/tagmill].
    #[arg(long, value_name = "DIR", env = "TAGMILL_MODELS_CACHE")]
    pub(crate) models_cache: Option<PathBuf>,
    /// A further name for a model. Repeatable.
    #[arg(long = "alias", value_name = "NAME=MODEL", value_delimiter = ',', env = "TAGMILL_ALIAS")]
    pub(crate) aliases: Vec<Alias>,
}

/// The longest time that can be asked for: what is longer may be past the end of the machine's clock.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// A time such as `25ms` or `1m 30s`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let longest = "expected 365days at most";
    let duration = humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::NumberOverflow => longest,
        _ => "expected a time with its unit, such as 25ms, 5s or 1m 30s",
    })?;
    if duration > LONGEST { Err(longest) } else { Ok(duration) }
}

/// Text of captions instead of a tag, or of a category.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    /// As in the label file.
    pub(crate) name: String,
    /// Text that is written.
    pub(crate) by: String,
}

impl FromStr for Replacement {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A tag may have an equals sign in it, such as =_=; what replaces it may not.
        let (name, by) = text.rsplit_once('=').ok_or("expected NAME=TEXT")?;
        let (name, by) = (name.trim(), by.trim());
        if name.is_empty() {
            return Err("expected NAME=TEXT");
        }
        Ok(Self { name: name.to_owned(), by: by.to_owned() })
    }
}

/// How to log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// How to write the log, on standard error.
    #[arg(
        id = "log-format",
        long = "log-format",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        env = "TAGMILL_LOG_FORMAT",
        help_heading = "Telemetry"
    )]
    pub(crate) format: LogFormat,
}

/// A value of a list: in a variable there may be blanks around it.
#[expect(clippy::unnecessary_wraps, reason = "the signature clap asks for")]
fn trimmed(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
}

fn whole<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, &'static str> {
    text.trim().parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "the number is too large",
        _ => "expected a whole number, such as 2",
    })
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "expected a number of bytes, such as 512MiB or 4GiB")
}
