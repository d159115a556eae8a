//! `tagmill bench`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::select::SelectArgs;
use super::{LogArgs, TaggingArgs};

/// What is shown below the options.
const EXAMPLES: &str = "\
Examples:
  What this machine does with a model and pictures of yours:
    tagmill bench --models models photos
  The same on a bucket and a GPU, for a script to read:
    tagmill bench --models models --device cuda --batch-sizes 8,16,32,64 --json s3://images/2026

Exit codes: 0 done, 1 something failed, 2 wrong usage or settings.";

/// `tagmill bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("stores", |arg| arg.help(super::tag::STORE)))]
pub struct BenchArgs {
    /// Images to measure with: files, folders, s3://bucket or s3://bucket/prefix. A few dozen that are like yours will do;
    /// the first 256 are used.
    #[arg(value_name = "PATH|LOCATION", required = true)]
    pub(crate) sources: Vec<OsString>,
    /// Batch sizes to try.
    #[arg(long, value_name = "N,N,...", value_parser = super::whole::<usize>, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32], env = "TAGMILL_BATCH_SIZES", help_heading = "Measuring")]
    pub(crate) batch_sizes: Vec<usize>,
    /// How long each measurement takes.
    #[arg(long = "time", value_name = "DUR", default_value = "5s", value_parser = super::duration, env = "TAGMILL_TIME", help_heading = "Measuring")]
    pub(crate) time: Duration,
    /// Write JSON instead of tables.
    #[arg(long, env = "TAGMILL_JSON", help_heading = "Measuring")]
    pub(crate) json: bool,
    /// Selection of files.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// What to tag with.
    #[command(flatten)]
    pub(crate) tagging: TaggingArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
