//! `tagmill completions` and `tagmill man`, generated from the definitions of the command line.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::CommandFactory;
use clap_mangen::Man;

use super::Failed;
use crate::cli::Cli;
use crate::cli::generate::{CompletionsArgs, ManArgs};
use crate::terminal;

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tagmill", &mut script);
    terminal::exact().write_all(&script).map_err(Failed::running)
}

pub(super) fn man(args: &ManArgs) -> Result<(), Failed> {
    if let Some(dir) = &args.dir {
        let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
        return written
            .with_context(|| format!("`{}` can't be written (--dir)", dir.display()))
            .map_err(Failed::Running);
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for name in &args.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| Failed::settings(anyhow!("there is no command `{}`", args.command.join(" "))))?;
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(Failed::running)?;
    terminal::exact().write_all(&page).map_err(Failed::running)
}
