//! `tagmill completions` and `tagmill man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// What is shown below the options of `completions`.
const COMPLETIONS: &str = "\
Examples:
  tagmill completions bash > /etc/bash_completion.d/tagmill
  tagmill completions zsh > ~/.zfunc/_tagmill
  tagmill completions fish > ~/.config/fish/completions/tagmill.fish";

/// What is shown below the options of `man`.
const MAN: &str = "\
Examples:
  tagmill man worker | man -l -
  tagmill man --dir /usr/local/share/man/man1";

/// `tagmill completions`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// `tagmill man`.
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub struct ManArgs {
    /// The command whose page is printed, such as `worker` or `dead retry` [default: tagmill itself].
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub command: Vec<String>,
    /// Write the pages of all commands to this folder instead.
    #[arg(long, value_name = "DIR", env = "TAGMILL_DIR")]
    pub(crate) dir: Option<PathBuf>,
}
