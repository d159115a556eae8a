//! Arguments, telemetry, settings, run, exit code; nothing else.

use std::process::ExitCode;

use tagmill::cli::Cli;
use tagmill::command;
use tagmill::pipeline::decode::isolated;
use tagmill::telemetry::{self, LogFormat};

fn main() -> ExitCode {
    // Before anything else: a worker starts it for quarantined jobs, and it needs nothing of the rest.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == isolated::ARGUMENT) {
        return isolated::child::run();
    }
    keep_to_itself();
    let cli = Cli::read();
    let format = cli.log_format();
    telemetry::start(format, cli.log_level());
    match command::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit_code = error.exit_code();
            match format {
                LogFormat::Json if tracing::enabled!(tracing::Level::ERROR) => tracing::error!(exit_code, "{error}"),
                _ => telemetry::say(format_args!("tagmill: {error}")),
            }
            ExitCode::from(exit_code)
        }
    }
}

/// ONNX Runtime tells its maker of the machine and of each session, unless this variable is set by the time it is loaded.
#[expect(unsafe_code, reason = "there is no other way to set a variable")]
fn keep_to_itself() {
    // SAFETY: no other thread runs yet that could read the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}
