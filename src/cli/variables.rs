//! Errors of parsing name the variable that a wrong value came from: clap's own name its flag alone.

use std::env;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use super::{Cli, hints};

impl Cli {
    /// Reads the command line and the environment; where they can't be used, says why and ends the process.
    #[must_use]
    pub fn read() -> Self {
        parse().unwrap_or_else(|error| hints::with_hint(blamed(error)).exit())
    }
}

/// Flags whose values may have a comma: on the command line a value is a value, and only a variable is a list.
const PLAIN: [&str; 9] = [
    "store",
    "alias",
    "cors-origin",
    "exclude-tag",
    "exclude-category",
    "replace-tag",
    "replace-category",
    "prepend-tag",
    "first-tag",
];

fn parse() -> Result<Cli, Error> {
    let mut command = with_whole_values(Cli::command());
    let matches = command.try_get_matches_from_mut(env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn with_whole_values(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let plain =
            arg.get_long().is_some_and(|flag| PLAIN.contains(&flag) && is_on_command_line(&format!("--{flag}")));
        if plain { arg.value_delimiter(None::<char>) } else { arg }
    });
    command.mut_subcommands(with_whole_values)
}

/// What a setting was given as: its flag, or the variable.
pub(crate) fn given(flag: &str) -> String {
    let (flag, variable) = (format!("--{flag}"), format!("TAGMILL_{}", flag.to_uppercase().replace('-', "_")));
    if is_on_command_line(&flag) || env::var_os(&variable).is_none() { flag } else { variable }
}

fn is_on_command_line(flag: &str) -> bool {
    env::args_os().any(|given| given.to_string_lossy().split('=').next() == Some(flag))
}

fn blamed(mut error: Error) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    if let Some(variable) = find(&Cli::command(), &|arg| variable(arg, argument?, value?)) {
        let tip = format!("the value is that of the variable {variable}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// The first that is found of an argument, in the subcommands too.
fn find(command: &Command, of: &dyn Fn(&Arg) -> Option<String>) -> Option<String> {
    let own = command.get_arguments().find_map(of);
    own.or_else(|| command.get_subcommands().find_map(|command| find(command, of)))
}

/// The variable of an argument, where the error speaks of this argument, as usage names it, and the value is the variable's.
fn variable(arg: &Arg, argument: &str, value: &str) -> Option<String> {
    let (flag, variable) = (format!("--{}", arg.get_long()?), arg.get_env()?);
    if argument.split([' ', '=']).next() != Some(&flag) {
        return None;
    }
    let is_its = !is_on_command_line(&flag) && env::var(variable).ok()?.split(',').any(|part| part == value);
    is_its.then(|| variable.to_string_lossy().into_owned())
}
