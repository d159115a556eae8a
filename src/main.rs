//! Arguments, telemetry, settings, run, exit code; nothing else.

use std::process::ExitCode;

use tagmill::cli::Cli;
use tagmill::{command, telemetry};

fn main() -> ExitCode {
    let cli = Cli::read();
    telemetry::start(cli.log_format());
    match command::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tagmill: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
