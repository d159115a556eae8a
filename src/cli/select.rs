//! Selection of the files of folders and buckets.

use std::str::FromStr;

use clap::Args;
use globset::{GlobBuilder, GlobMatcher};

/// Selection of the files of folders and buckets.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct SelectArgs {
    /// Only names that match this pattern, and of folders and buckets those instead of images alone: * and ? stand for
    /// anything, / too, {jpg,png} for either. A name is a path below its folder, a whole key, or what a list says.
    #[arg(long = "match", value_name = "GLOB", env = "TAGMILL_MATCH")]
    pub(crate) only: Option<Pattern>,
    /// Leave out names that match this pattern, such as '*.gif' or 'drafts': of files and folders, by their path below the
    /// folder that is given or their last part, and of whole keys. Repeatable.
    #[arg(long, value_name = "GLOB", value_delimiter = ',', env = "TAGMILL_EXCLUDE")]
    pub(crate) exclude: Vec<Pattern>,
    /// Leave out the folders in a folder.
    #[arg(long, env = "TAGMILL_NO_RECURSIVE")]
    pub(crate) no_recursive: bool,
    /// Name each file and folder that is passed over, and why, on standard error.
    #[arg(long, env = "TAGMILL_VERBOSE")]
    pub(crate) verbose: bool,
}

/// Selection by name.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(pub GlobMatcher);

impl FromStr for Pattern {
    type Err = globset::Error;

    fn from_str(text: &str) -> Result<Self, globset::Error> {
        // A backslash makes the character after it an ordinary one, on every system.
        Ok(Self(GlobBuilder::new(text).backslash_escape(true).build()?.compile_matcher()))
    }
}
