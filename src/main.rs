//! Entry point: arguments, telemetry, settings, run, exit code.

use std::process::ExitCode;

use tagmill::cli::Cli;
use tagmill::command;
use tagmill::pipeline::decode::isolated;
use tagmill::telemetry::{self, LogFormat};

fn main() -> ExitCode {
    // First of all: a worker starts this process for quarantined jobs, and it needs nothing of the rest.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == isolated::ARGUMENT) {
        return isolated::child::run();
    }
    set_library_defaults();
    let cli = Cli::read();
    let format = cli.log_format();
    let log = telemetry::start(format, cli.log_level());
    let ended = command::run(cli.command);
    let Err(error) = ended else { return ExitCode::SUCCESS };
    let exit_code = error.exit_code();
    match format {
        LogFormat::Json if tracing::enabled!(tracing::Level::ERROR) => tracing::error!(exit_code, "{error}"),
        _ => {
            // Flush the log first, so that the reason comes last.
            drop(log);
            telemetry::say(format_args!("tagmill: {error}"));
        }
    }
    ExitCode::from(exit_code)
}

/// Sets variables that libraries read when they are loaded. By default, ONNX Runtime reports the machine and each session to
/// its maker, and CUDA numbers devices by speed instead of bus order, which NVML uses.
#[expect(unsafe_code, reason = "there is no other way to set a variable")]
fn set_library_defaults() {
    let order = "CUDA_DEVICE_ORDER";
    // SAFETY: no other thread runs yet that could read the environment meanwhile.
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
        if std::env::var_os(order).is_none() {
            std::env::set_var(order, "PCI_BUS_ID");
        }
    }
}
