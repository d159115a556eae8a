//! `tagmill tag`.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::select::SelectArgs;
use super::{LogArgs, TaggingArgs};

/// What is shown below the options.
const EXAMPLES: &str = "\
Examples:
  Tags of two images, one JSON line each:
    tagmill tag --models models cat.jpg dog.png
  Captions for training beside every image of a folder, characters first:
    tagmill tag --models models --sidecar txt --character-first \\
        --prepend-tag 'my style' photos
  The images of a bucket, from where an interrupted run stopped:
    tagmill tag --models models --output tags.jsonl --skip-existing \\
        s3://images/2026

Exit codes: 0 all tagged, 1 some failed or interrupted, 2 wrong usage or settings.";

/// What `--store` is where images are named on the command line.
pub(super) const STORE: &str = "Where names are looked for that are no path here: s3://bucket, s3://bucket/prefix or \
                                file:///folder. Only the first counts";

/// `tagmill tag`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("stores", |arg| arg.help(STORE)), mut_arg("max_models", |arg| arg.hide(true)))]
pub struct TagArgs {
    /// Image files, folders (with the folders in them), s3://bucket, s3://bucket/prefix or s3://bucket/image.jpg.
    #[arg(value_name = "PATH|LOCATION", required = true)]
    pub(crate) sources: Vec<OsString>,
    /// Write one JSON line per image to this file, instead of to standard output. One that is not empty is gone on with
    /// (--skip-existing) or refused.
    #[arg(long, value_name = "FILE", env = "TAGMILL_OUTPUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Write beside each image instead: name.txt or name.caption with the tags in one line, or name.json with the result.
    /// With --output as well, both are written. One that is there is replaced, but with --append or --skip-existing. Of
    /// images whose names differ in the suffix alone, one is tagged and the others fail.
    #[arg(long, value_name = "KIND", value_enum, env = "TAGMILL_SIDECAR", help_heading = "Output")]
    pub(crate) sidecar: Option<Sidecar>,
    /// Leave out images that have their sidecar, or their result in the file of --output, which is then added to: so an
    /// interrupted run goes on. Those that failed are tried again. In --output an image is known by its path as it is given: photos and ./photos are two.
    #[arg(long, env = "TAGMILL_SKIP_EXISTING", help_heading = "Output")]
    pub(crate) skip_existing: bool,
    /// Add to the tags that a sidecar txt or caption has already, instead of writing it anew.
    #[arg(
        long,
        env = "TAGMILL_APPEND",
        requires = "sidecar",
        conflicts_with = "skip_existing",
        help_heading = "Output"
    )]
    pub(crate) append: bool,
    /// Which files are taken.
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// How captions are written.
    #[command(flatten)]
    pub(crate) caption: CaptionArgs,
    /// What to tag with.
    #[command(flatten)]
    pub(crate) tagging: TaggingArgs,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// How captions are written, as training tools want them.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Tags")]
pub(crate) struct CaptionArgs {
    /// Leave underscores in captions as they are.
    #[arg(long, env = "TAGMILL_UNDERSCORES")]
    pub(crate) underscores: bool,
    /// Put characters before all other tags in captions.
    #[arg(long = "character-first", env = "TAGMILL_CHARACTER_FIRST")]
    pub(crate) characters_first: bool,
    /// What every caption begins with. Repeatable.
    #[arg(long = "prepend-tag", value_name = "TEXT", value_delimiter = ',', env = "TAGMILL_PREPEND_TAG")]
    pub(crate) prepend_tags: Vec<String>,
}

/// What is written beside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sidecar {
    /// Tags, comma separated.
    Txt,
    /// The result, as JSON.
    Json,
    /// Tags, comma separated, in a file that ends in .caption.
    Caption,
}

impl Sidecar {
    /// What its file's name ends in.
    #[must_use]
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Caption => "caption",
        }
    }
}
