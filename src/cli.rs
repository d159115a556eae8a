//! What can be said on the command line, and in the environment.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};

use crate::model::hub;
use crate::pipeline::tag::device::Device;
use crate::secret::Secret;
use crate::telemetry::LogFormat;

/// Tags images as a stream: jobs from NATS, images from S3, tags from a WD14-style model.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, propagate_version = true, arg_required_else_help = true)]
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
    /// Publish a job for every image of folders, lists or standard input.
    Submit(Box<SubmitArgs>),
    /// Look through dead letters: list them, send their jobs back into the queue, or drop them.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Look after models: download them.
    #[command(subcommand)]
    Models(ModelsCommand),
}

impl Cli {
    /// How to log.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Worker(args) => args.log.format,
            Command::Submit(args) => args.log.format,
            Command::Dead(DeadCommand::List(args)) => args.log.format,
            Command::Dead(DeadCommand::Retry(args) | DeadCommand::Drop(args)) => args.log.format,
            Command::Models(ModelsCommand::Pull(args)) => args.log.format,
        }
    }
}

/// `tagmill worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// What to tag with.
    #[command(flatten)]
    pub tagging: TaggingArgs,
    /// Where the queue is.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// How the queue is used.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// How long a stop waits for jobs in hand; the rest goes back to the queue.
    #[arg(long, value_name = "DUR", default_value = "25s", value_parser = humantime::parse_duration, env = "TAGMILL_DRAIN_TIMEOUT", help_heading = "Queue")]
    pub drain_timeout: Duration,
    /// Where to serve /metrics, /healthz and /readyz; port 0 takes a free one, which the log names.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        env = "TAGMILL_LISTEN",
        help_heading = "Telemetry"
    )]
    pub listen: SocketAddr,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Shared by all that tag.
#[derive(Debug, Args)]
pub struct TaggingArgs {
    /// Where images may be read from: s3://bucket, s3://bucket/prefix or file:///folder. Repeatable; the first is the
    /// default. S3 settings come from the AWS_* variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...).
    #[arg(
        long = "store",
        value_name = "URL",
        required = true,
        value_delimiter = ',',
        env = "TAGMILL_STORE",
        help_heading = "Images"
    )]
    pub stores: Vec<String>,
    /// Bytes an encoded image may have.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64MiB",
        env = "TAGMILL_MAX_IMAGE_BYTES",
        help_heading = "Images"
    )]
    pub max_image_bytes: ByteSize,
    /// Pixels an image may have.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000_000,
        env = "TAGMILL_MAX_IMAGE_PIXELS",
        help_heading = "Images"
    )]
    pub max_image_pixels: u64,
    /// Leave images as they are stored, whatever their EXIF orientation says.
    #[arg(long, env = "TAGMILL_IGNORE_ORIENTATION", help_heading = "Images")]
    pub ignore_orientation: bool,
    /// Threads that decode images [default: one per core].
    #[arg(long, value_name = "N", env = "TAGMILL_DECODE_THREADS", help_heading = "Images")]
    pub decode_threads: Option<usize>,

    /// The folder with the models, each a folder with model.onnx and selected_tags.csv.
    #[arg(long, value_name = "DIR", env = "TAGMILL_MODELS", help_heading = "Model")]
    pub models: PathBuf,
    /// The model to use [default: the only one there is].
    #[arg(long, value_name = "NAME", env = "TAGMILL_MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// What to run it on: auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto, env = "TAGMILL_DEVICE", help_heading = "Model")]
    pub device: Device,
    /// Images a batch has at most.
    #[arg(long, value_name = "N", default_value_t = 8, env = "TAGMILL_BATCH_SIZE", help_heading = "Model")]
    pub batch_size: usize,
    /// How long an image waits for others to fill its batch.
    #[arg(long, value_name = "DUR", default_value = "25ms", value_parser = humantime::parse_duration, env = "TAGMILL_WINDOW", help_heading = "Model")]
    pub window: Duration,
    /// Score over which a general tag is reported [default: the model's own, else 0.35].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_GENERAL_THRESHOLD", help_heading = "Model")]
    pub general_threshold: Option<f32>,
    /// Score over which a character tag is reported [default: the model's own, else 0.85].
    #[arg(long, value_name = "SCORE", env = "TAGMILL_CHARACTER_THRESHOLD", help_heading = "Model")]
    pub character_threshold: Option<f32>,
    /// Threads one batch runs on, on the CPU [default: one per core].
    #[arg(long, value_name = "N", env = "TAGMILL_INFER_THREADS", help_heading = "Model")]
    pub infer_threads: Option<usize>,
}

/// Where the queue is.
#[derive(Debug, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Servers, separated by commas [default: the variable NATS_URL, else nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "TAGMILL_NATS_URL", hide_env_values = true)]
    pub nats_url: Vec<Secret>,
    /// A credentials file.
    #[arg(long, value_name = "FILE", env = "TAGMILL_NATS_CREDS", conflicts_with_all = ["nats_user", "nats_token"])]
    pub nats_creds: Option<PathBuf>,
    /// A user's name.
    #[arg(
        long,
        value_name = "NAME",
        env = "TAGMILL_NATS_USER",
        requires = "nats_password",
        conflicts_with = "nats_token"
    )]
    pub nats_user: Option<String>,
    /// The user's password.
    #[arg(long, value_name = "SECRET", env = "TAGMILL_NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<Secret>,
    /// A token.
    #[arg(long, value_name = "SECRET", env = "TAGMILL_NATS_TOKEN", hide_env_values = true)]
    pub nats_token: Option<Secret>,
    /// Certificates to trust besides the system's, in PEM.
    #[arg(long, value_name = "FILE", env = "TAGMILL_NATS_CA")]
    pub nats_ca: Option<PathBuf>,
    /// What subjects start with; stream names too, in upper case.
    #[arg(long, default_value = "tagmill", env = "TAGMILL_PREFIX")]
    pub prefix: String,
}

/// How the queue is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue")]
pub struct QueueArgs {
    /// Copies of each stream that is created, in a cluster.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5), env = "TAGMILL_REPLICAS")]
    pub replicas: u8,
    /// Bytes the jobs stream holds where it is created; publishing to a full stream is refused [default: no limit].
    #[arg(long, value_name = "SIZE", env = "TAGMILL_JOBS_MAX_BYTES")]
    pub jobs_max_bytes: Option<ByteSize>,
    /// Deliveries of a job after which an error is final.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..), env = "TAGMILL_MAX_ATTEMPTS")]
    pub max_attempts: u64,
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
    pub format: LogFormat,
}

/// `tagmill submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Folders or image files, or - for standard input: one location or job (JSON) per line.
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,
    /// Wait until every job is answered, and show the answers.
    #[arg(long, env = "TAGMILL_FOLLOW")]
    pub follow: bool,
    /// Where the queue is.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `tagmill dead`.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Show them, oldest first.
    List(Box<DeadListArgs>),
    /// Publish their jobs again on the subject they came from, and remove the letters.
    Retry(Box<DeadChangeArgs>),
    /// Remove them for good.
    Drop(Box<DeadChangeArgs>),
}

/// `tagmill dead list`.
#[derive(Debug, Args)]
pub struct DeadListArgs {
    /// Which.
    #[command(flatten)]
    pub filter: DeadFilter,
    /// One JSON object per line instead of a table.
    #[arg(long, env = "TAGMILL_JSON")]
    pub json: bool,
    /// Where the queue is.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `tagmill dead retry` and `tagmill dead drop`.
#[derive(Debug, Args)]
pub struct DeadChangeArgs {
    /// Ids or sequence numbers of dead letters.
    #[arg(value_name = "ID|SEQUENCE", required_unless_present = "all", conflicts_with = "all")]
    pub which: Vec<String>,
    /// All that the filters let through.
    #[arg(long)]
    pub all: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Which are looked at.
    #[command(flatten)]
    pub filter: DeadFilter,
    /// Where the queue is.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Which dead letters are looked at.
#[derive(Debug, Args)]
pub struct DeadFilter {
    /// Only those with this code, such as image_not_found.
    #[arg(long, value_name = "CODE", env = "TAGMILL_CODE")]
    pub code: Option<String>,
    /// Only those whose job came on this subject; wildcards are allowed, such as 'tagmill.jobs.shop.>'.
    #[arg(long, value_name = "SUBJECT", env = "TAGMILL_SUBJECT")]
    pub subject: Option<String>,
}

/// `tagmill models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Download a model from the Hugging Face hub. What is there already stays, and what was cut off goes on.
    ///
    /// Takes the ONNX file, its weights, label files (*.csv, *.json, *.txt) and tagmill.toml. The hub is where the variable
    /// HF_ENDPOINT says; HF_TOKEN lets in where a login is needed; with HF_HUB_OFFLINE=1 it only looks whether all is there.
    Pull(Box<ModelsPullArgs>),
}

/// `tagmill models pull`.
#[derive(Debug, Args)]
pub struct ModelsPullArgs {
    /// The repository, such as SmilingWolf/wd-vit-tagger-v3.
    #[arg(value_name = "OWNER/NAME")]
    pub repository: hub::Repository,
    /// The folder with the models.
    #[arg(long, value_name = "DIR", default_value = "models", env = "TAGMILL_MODELS")]
    pub models: PathBuf,
    /// What the model is called here [default: the repository's last part].
    #[arg(long, env = "TAGMILL_NAME")]
    pub name: Option<hub::FolderName>,
    /// A branch, tag or commit.
    #[arg(long, default_value = "main", env = "TAGMILL_REVISION")]
    pub revision: hub::Revision,
    /// The ONNX file to take, as the repository names it [default: model.onnx, else the only one there is].
    #[arg(long, env = "TAGMILL_FILE")]
    pub file: Option<String>,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}
