//! Arguments, telemetry, settings, run, exit code; nothing else.

use std::process::ExitCode;

use tagmill::cli::Cli;
use tagmill::telemetry::LogFormat;
use tagmill::{command, telemetry};

fn main() -> ExitCode {
    let cli = Cli::read();
    let format = cli.log_format();
    telemetry::start(format);
    match command::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            match format {
                LogFormat::Text => telemetry::say(format_args!("tagmill: {error}")),
                LogFormat::Json => tracing::error!(code, "{error}"),
            }
            ExitCode::from(code)
        }
    }
}
