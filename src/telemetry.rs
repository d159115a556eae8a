//! What operators see: logs, metrics, health, and the HTTP server that shows the last two.

pub(crate) mod health;
pub mod labels;
pub(crate) mod metrics;
pub(crate) mod rate_limited;
pub(crate) mod server;
pub(crate) mod span;

use std::backtrace::Backtrace;
use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::panic::PanicHookInfo;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

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

/// What libraries say is about themselves; a server's errors reach the log through the event callback, and ONNX Runtime's come
/// back from its calls: a batch that does not fit the device's memory is no error, but is run in parts.
const LIBRARIES: [&str; 6] =
    ["ort=off", "async_nats=off", "object_store=warn", "hyper_util=warn", "reqwest=warn", "rustls=warn"];

/// Lines of the log that wait to be written; what comes when there are more is dropped and counted.
const LINES: usize = 8192;

/// How long a line for the person who started the program may take to be written.
const SAID: Duration = Duration::from_secs(1);

/// Counts lines that were dropped.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes the log, on a thread of its own; dropped, it writes what is left, for as long as that takes no more than a second.
#[must_use]
pub struct Log {
    _writer: WorkerGuard,
}

/// Lines of the log that were dropped because nobody read it.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// A line on standard error, for whoever started the program. Where nobody reads it it is lost, and nothing else: it is written
/// on a thread of its own, for a second at most.
pub fn say(text: impl fmt::Display) {
    let line = format!("{text}\n");
    let (done, written) = mpsc::channel();
    let write = move || {
        let _ = stderr().write_all(line.as_bytes());
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = written.recv_timeout(SAID);
    }
}

/// Logs a panic, where the program goes on or ends with the log.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, place) = (thread.name().unwrap_or("unnamed"), panic.location().map(ToString::to_string));
    let reason = panic.payload_as_str().unwrap_or("(no message)");
    tracing::error!(thread, place, reason, backtrace = %Backtrace::capture(), "a thread panicked");
}

/// Starts logging. The level is this, or what the standard variable `RUST_LOG` says, which leaves libraries alone that it
/// does not name. A log that nobody reads stops nothing: its lines are dropped.
pub fn start(format: LogFormat, level: LevelFilter) -> Log {
    let own = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, wrong) = filter(&own, level);
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).lossy(true).finish(stderr());
    let _ = DROPPED.set(writer.error_counter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(has_colours()).with_target(false).init(),
        // One span alone: a job's has all fields, and a list would repeat them.
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
    for directive in wrong {
        tracing::warn!(directive, "RUST_LOG has what is no level, and no name with one, such as ort=debug");
    }
    std::panic::set_hook(Box::new(log_panic));
    Log { _writer: guard }
}

/// What is logged, and what there is that says nothing of it.
fn filter(own: &str, otherwise: LevelFilter) -> (EnvFilter, Vec<&str>) {
    let parts: Vec<&str> = own.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let level = parts.iter().rev().find_map(|part| part.parse::<LevelFilter>().ok()).unwrap_or(otherwise);
    // Who wants less than warnings wants them of libraries neither.
    let libraries = LIBRARIES
        .iter()
        .filter(|quiet| level >= LevelFilter::WARN || (level > LevelFilter::OFF && quiet.ends_with("=off")));
    let (mut filter, mut wrong) = (EnvFilter::default().add_directive(level.into()), Vec::new());
    for part in libraries.chain(parts.iter().filter(|part| part.parse::<LevelFilter>().is_err())) {
        match part.parse::<Directive>() {
            Ok(directive) => filter = filter.add_directive(directive),
            Err(_) => wrong.push(*part),
        }
    }
    (filter, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let shown = |own| filter(own, LevelFilter::INFO).0.to_string();
        assert!(shown("").ends_with(",info") && shown("").contains("ort=off"));
        assert!(shown("debug").ends_with(",debug") && shown("debug").contains("hyper_util=warn"));
        assert!(shown("warn,ort=info").contains("ort=info") && !shown("warn,ort=info").contains("ort=off"));
        assert_eq!((shown("off").as_str(), shown("error").as_str()), ("off", "async_nats=off,ort=off,error"));
        assert!(shown("info,debug").ends_with(",debug"), "the last counts");
        assert_eq!(filter("info,a=b=c", LevelFilter::INFO).1, ["a=b=c"]);
    }
}
