//! `tagmill init`.

use clap::Args;

use super::LogArgs;
use super::queue::{NatsArgs, StreamArgs};
use crate::source::stream::filter::Filter;

/// Text below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill init
  On a cluster of three servers, for workers of two parts of the queue:
    tagmill init --nats-url nats://n1:4222,nats://n2:4222 --replicas 3 \\
        --filter 'shop.>' --filter 'blog.>'

It can be run again at any time: what exists is left as it is.

Exit codes: 0 all is there, 1 something can't be made or used, 2 wrong usage or settings.";

/// `tagmill init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// Make the consumer of workers with this --filter, instead of that of workers without one. Repeatable.
    #[arg(
        long = "filter",
        value_name = "SUBJECT",
        value_delimiter = ',',
        env = "TAGMILL_FILTER",
        help_heading = "Queue"
    )]
    pub(crate) filters: Vec<Filter>,
    /// Settings of streams that are created.
    #[command(flatten)]
    pub(crate) streams: StreamArgs,
    /// Address of the queue.
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// Format of the log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
