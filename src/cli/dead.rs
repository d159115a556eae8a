//! `tagmill dead`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Subcommand};

use super::LogArgs;
use super::queue::NatsArgs;
use crate::failure::Code;

/// What is shown below the commands.
const EXAMPLES: &str = "\
Examples:
  tagmill dead list --code image_not_found
  tagmill dead retry 42 photos/cat.jpg
  tagmill dead retry --all --code storage_unavailable --yes
  tagmill dead drop --all --subject 'tagmill.jobs.shop.>'";

/// `tagmill dead`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum DeadCommand {
    /// Show those that are open, oldest first.
    List(Box<DeadListArgs>),
    /// Publish their jobs again on the subject they came from, and remove the letters. The new answer names the letter.
    Retry(Box<DeadChangeArgs>),
    /// Remove them for good.
    Drop(Box<DeadChangeArgs>),
}

/// `tagmill dead list`.
#[derive(Debug, Args)]
pub struct DeadListArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) filter: DeadFilter,
    /// Show also those whose job was retried and has become another dead letter since.
    #[arg(long)]
    pub(crate) all: bool,
    /// One JSON object per line instead of a table.
    #[arg(long, env = "TAGMILL_JSON")]
    pub(crate) json: bool,
    /// Where the queue is.
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `tagmill dead retry` and `tagmill dead drop`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("chosen").args(["which", "all"]).required(true)))]
pub struct DeadChangeArgs {
    /// Ids of dead letters; a number that is none's id is a sequence number.
    #[arg(value_name = "ID|SEQUENCE")]
    pub(crate) which: Vec<String>,
    /// All that the filters let through.
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Which are looked at.
    #[command(flatten)]
    pub(crate) filter: DeadFilter,
    /// Where the queue is.
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Which dead letters are looked at.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeadFilter {
    /// Only those with this code, such as image_not_found.
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(Code::ALL.map(Code::as_str)), hide_possible_values = true, env = "TAGMILL_CODE")]
    pub(crate) code: Option<String>,
    /// Only those whose job came on this subject; wildcards are allowed, such as 'tagmill.jobs.shop.>'.
    #[arg(long, value_name = "SUBJECT", env = "TAGMILL_SUBJECT")]
    pub(crate) subject: Option<String>,
}
