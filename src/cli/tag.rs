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
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct TagArgs {
    /// Image files, folders (with the folders in them), s3://bucket, s3://bucket/prefix or s3://bucket/image.jpg.
    #[arg(value_name = "PATH|LOCATION", required = true)]
    pub(crate) sources: Vec<OsString>,
    /// Write one JSON line per image to this file, instead of to standard output; or where its name ends in .csv, a row for
    /// each tag and rating: image, tag, category, score. A file that is not empty is added to (--skip-existing) or refused.
    #[arg(long, value_name = "FILE", env = "TAGMILL_OUTPUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Write beside each image instead: name.txt or name.caption with the tags in one line, or name.json with the result.
    /// With --output as well, both are written. A sidecar that exists is left as it is, and counted, unless --overwrite or
    /// --append is given. Of images whose names differ in the suffix alone, one is tagged and the others fail, unless
    /// --sidecar-name is full.
    #[arg(long, value_name = "KIND", value_enum, env = "TAGMILL_SIDECAR", help_heading = "Output")]
    pub(crate) sidecar: Option<Sidecar>,
    /// Extension of sidecars, instead of txt, caption or json.
    #[arg(
        long,
        value_name = "EXTENSION",
        env = "TAGMILL_SIDECAR_EXTENSION",
        requires = "sidecar",
        help_heading = "Output"
    )]
    pub(crate) sidecar_extension: Option<String>,
    /// Name sidecars after the image up to its last dot (a.txt for a.jpg), or after all of it (a.jpg.txt).
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        default_value_t,
        env = "TAGMILL_SIDECAR_NAME",
        help_heading = "Output"
    )]
    pub(crate) sidecar_name: SidecarName,
    /// Add to the file of --output, and leave out images that have their result there and their sidecar, where one is
    /// wanted: so an interrupted run is resumed. An image that lacks one of the two gets that one alone. Those that failed
    /// are tried again.
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
    /// Replace sidecars that exist, also those that were edited by hand, and the file of --frequencies.
    #[arg(
        long,
        env = "TAGMILL_OVERWRITE",
        conflicts_with_all = ["skip_existing", "append"],
        help_heading = "Output"
    )]
    pub(crate) overwrite: bool,
    /// Write to this file how many images have each tag: TSV with tag, category and images, the most frequent first. Images
    /// that are left out are not counted.
    #[arg(long, value_name = "FILE", env = "TAGMILL_FREQUENCIES", help_heading = "Output")]
    pub(crate) frequencies: Option<PathBuf>,
    /// Write no file: show on standard output what would be written.
    #[arg(long, env = "TAGMILL_DRY_RUN", help_heading = "Output")]
    pub(crate) dry_run: bool,
    /// Name of the worker in results [default: the host's name, and a number].
    #[arg(long, value_name = "NAME", env = "TAGMILL_NAME", help_heading = "Output")]
    pub(crate) name: Option<String>,
    /// Selection of files.
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
    #[arg(long = "prepend-tag", value_name = "TEXT", value_delimiter = ',', value_parser = super::trimmed, env = "TAGMILL_PREPEND_TAG")]
    pub(crate) prepend_tags: Vec<String>,
    /// A tag that goes before the others in captions where an image has it. Repeatable.
    #[arg(long = "first-tag", value_name = "TAG", value_delimiter = ',', value_parser = super::trimmed, env = "TAGMILL_FIRST_TAG")]
    pub(crate) first_tags: Vec<String>,
    /// Put the rating with the highest score into captions, before or after the tags.
    #[arg(long, value_name = "PLACE", value_enum, env = "TAGMILL_RATING_TAG")]
    pub(crate) rating_tag: Option<RatingPlace>,
    /// Split characters that are named with their series in captions: 'saber (fate)' becomes 'saber, fate'.
    #[arg(long, env = "TAGMILL_EXPAND_CHARACTERS")]
    pub(crate) expand_characters: bool,
    /// Tags that a caption has at most, those with the highest scores; prepended ones and the rating are not counted.
    #[arg(long, value_name = "N", value_parser = super::whole::<usize>, env = "TAGMILL_MAX_TAGS")]
    pub(crate) max_tags: Option<usize>,
    /// Separator of the tags of a caption [default: a comma and a blank].
    #[arg(long, value_name = "TEXT", env = "TAGMILL_SEPARATOR")]
    pub(crate) separator: Option<String>,
}

/// Position of a rating in a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RatingPlace {
    /// Before all tags but those of --prepend-tag and --first-tag.
    First,
    /// After all tags.
    Last,
}

/// Part of an image's name in its sidecar's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SidecarName {
    /// Up to the last dot.
    #[default]
    Stem,
    /// All of it.
    Full,
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
