//! What operators see: logs, metrics, health, and the HTTP server that shows the last two.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod seldom;
pub(crate) mod server;

use std::fmt;
use std::io::{IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;

/// How logs are written, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// Whether who reads the log sees colours, and wants them (no-color.org).
fn has_colours() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What libraries say is about themselves; a server's errors reach the log through the event callback.
const LEVELS: &str = "info,ort=warn,async_nats=off,object_store=warn";

/// A line on standard error, for whoever started the program. Where nobody reads it any more it is lost, and nothing else.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(stderr(), "{text}");
}

/// Starts logging, and keeps ONNX Runtime from a log of its own: it tells its maker of the
/// machine and of each session, unless this variable is set by the time it is loaded. To be called before there are other
/// threads.
///
/// The level is `info`, or what the standard variable `RUST_LOG` says, which leaves libraries alone that it does not name.
#[expect(unsafe_code, reason = "there is no other way to set a variable")]
pub fn start(format: LogFormat) {
    // SAFETY: no other thread runs that could read the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    let levels = std::env::var("RUST_LOG").map_or_else(|_| LEVELS.to_owned(), |own| format!("{LEVELS},{own}"));
    // A log that nobody reads any more ends; the program does not.
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(levels))
        .with_writer(stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(has_colours()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
