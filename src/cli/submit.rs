//! `tagmill submit`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::value::RawValue;

use super::LogArgs;
use super::queue::NatsArgs;
use super::select::SelectArgs;

/// `tagmill submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A folder, an image, s3://bucket or s3://bucket/prefix (S3 settings come from the AWS_* variables), or a list: a file
    /// of any other kind, or - for standard input, with a path, a key, a location or a job (JSON) on each line. Of folders,
    /// images are taken, by suffix or content; of buckets, what has an image's suffix.
    #[arg(value_name = "SOURCE", required = true)]
    pub(crate) sources: Vec<String>,
    /// Jobs to publish at most, those of an earlier run of the same checkpoint counted.
    #[arg(long, value_name = "N", value_parser = super::whole::<u64>, env = "TAGMILL_LIMIT")]
    pub(crate) limit: Option<u64>,
    /// The model to use, where a job in a list names none itself.
    #[arg(long, value_name = "NAME", env = "TAGMILL_MODEL")]
    pub(crate) model: Option<String>,
    /// What comes back in every answer, where a job in a list brings none itself.
    #[arg(long, value_name = "JSON", env = "TAGMILL_META")]
    pub(crate) meta: Option<Meta>,
    /// Where to publish: the subject of jobs, or one below it such as tagmill.jobs.shop, so that the workers of that part of
    /// the queue take them. A run that is followed goes below this.
    #[arg(long, value_name = "SUBJECT", env = "TAGMILL_SUBJECT")]
    pub(crate) subject: Option<String>,
    /// Where to note which jobs are published, and which answers shown. With the same file, sources and flags, a later run
    /// publishes the others alone: what an interrupted run has left, and what is new or changed since, by name and version
    /// (size and time, or ETag). Answers are shown once.
    #[arg(long, value_name = "FILE", env = "TAGMILL_CHECKPOINT")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Wait until every job is answered, and show the answers.
    #[arg(long, env = "TAGMILL_FOLLOW")]
    pub(crate) follow: bool,
    /// Leave out jobs whose id has a result in the file of --output.
    #[arg(long, requires = "output", env = "TAGMILL_SKIP_EXISTING")]
    pub(crate) skip_existing: bool,
    /// Show answers as they are, one JSON object per line, instead of a table.
    #[arg(long, env = "TAGMILL_JSON", requires = "follow", conflicts_with = "output")]
    pub(crate) json: bool,
    /// Add them to this file instead. Answers that it has already, as where an earlier run is gone on with, are left out.
    #[arg(long, value_name = "FILE", env = "TAGMILL_OUTPUT", requires = "follow")]
    pub(crate) output: Option<PathBuf>,
    /// Selection of files.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// Where the queue is.
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Any JSON, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Meta(pub Box<RawValue>);

impl FromStr for Meta {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}
