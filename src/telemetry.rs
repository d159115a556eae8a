//! Logs, metrics, health, and the HTTP server that serves the last two.

pub(crate) mod health;
pub mod labels;
pub(crate) mod metrics;
pub(crate) mod rate_limited;
pub(crate) mod server;
pub(crate) mod span;

use std::backtrace::Backtrace;
use std::fmt;
use std::io::{IsTerminal, Stderr, Write};
use std::panic::PanicHookInfo;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use crate::text::{is_obeyed, plain};

/// Standard error, for this file alone.
#[expect(clippy::disallowed_methods, reason = "the one place for lines on standard error")]
fn stderr() -> Stderr {
    std::io::stderr()
}

/// Writes events of the text log, each as one line whatever names it has: a newline in one would forge the next line, and an
/// escape sequence would be obeyed by the terminal that shows the log.
#[derive(Clone)]
struct OneLineEach {
    log: NonBlocking,
    /// `true` if the lines have colours of their own; escapes in names are escaped before they come here.
    colours: bool,
}

impl MakeWriter<'_> for OneLineEach {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for OneLineEach {
    /// Writes an event, which comes whole.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = plain_event(text.strip_suffix('\n').unwrap_or(&text), self.colours);
        self.log.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.log.flush()
    }
}

fn plain_event(text: &str, colours: bool) -> String {
    let is_obeyed = |letter: char| is_obeyed(letter) && !(colours && letter == '\u{1b}');
    text.chars().fold(String::with_capacity(text.len() + 16), |mut line, letter| {
        if is_obeyed(letter) {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
        line
    })
}

/// Format of logs on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// Returns `true` if standard error is a terminal.
pub(crate) fn has_terminal() -> bool {
    stderr().is_terminal()
}

/// Returns `true` if the log is read on a terminal and colours are not disabled (no-color.org).
fn has_colours() -> bool {
    has_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Default levels of libraries. A NATS server's errors reach the log through the event callback, and ONNX Runtime's are
/// returned by its calls: a batch that exceeds the device's memory is no error but is run in parts.
const LIBRARIES: [&str; 6] =
    ["ort=off", "async_nats=off", "object_store=warn", "hyper_util=warn", "reqwest=warn", "rustls=warn"];

/// Maximum log lines that wait to be written. Lines above it are dropped and counted.
const LINES: usize = 8192;

/// Time limit for writing a line to the person who started the program.
const SAID: Duration = Duration::from_secs(1);

/// Counter of dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Log writer on a thread of its own. On drop, it writes the remaining lines, for a second at most.
#[must_use]
pub struct Log {
    _writer: WorkerGuard,
}

/// Number of log lines dropped because nobody read the log.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Writes a line to standard error for the person who started the program. A thread of its own writes it, and the call waits
/// a second at most, so that an unread line is lost without stopping the program.
pub fn say(text: impl fmt::Display) {
    let line = format!("{}\n", plain(&text.to_string()));
    let (done, written) = mpsc::channel();
    let write = move || {
        let _ = stderr().write_all(line.as_bytes());
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = written.recv_timeout(SAID);
    }
}

/// A question on standard error, which is answered on the same line.
pub(crate) fn ask(question: &str) {
    let mut out = stderr();
    let _ = write!(out, "{} [y/N] ", plain(question)).and_then(|()| out.flush());
}

/// Logs a panic instead of writing it to standard error directly.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, place) = (thread.name().unwrap_or("unnamed"), panic.location().map(ToString::to_string));
    let reason = panic.payload_as_str().unwrap_or("(no message)");
    tracing::error!(thread, place, reason, backtrace = %Backtrace::capture(), "a thread panicked");
}

/// Starts logging at `level`, or as the standard variable `RUST_LOG` requests; libraries that it does not name keep their
/// defaults. An unread log does not stop the program: its lines are dropped.
pub fn start(format: LogFormat, level: LevelFilter) -> Log {
    let own = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, wrong) = filter(&own, level);
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).lossy(true).finish(stderr());
    let _ = DROPPED.set(writer.error_counter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let colours = has_colours();
            log.with_ansi(colours).with_target(false).with_writer(OneLineEach { log: writer, colours }).init();
        }
        // One span alone: a job's has all fields, and a list would repeat them.
        LogFormat::Json => log.with_writer(writer).json().flatten_event(true).with_span_list(false).init(),
    }
    for directive in wrong {
        tracing::warn!(directive, "RUST_LOG has what is no level, and no name with one, such as ort=debug");
    }
    std::panic::set_hook(Box::new(log_panic));
    Log { _writer: guard }
}

/// Filter of the log, and the invalid parts of `RUST_LOG`.
fn filter(own: &str, otherwise: LevelFilter) -> (EnvFilter, Vec<&str>) {
    let parts: Vec<&str> = own.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let level = parts.iter().rev().find_map(|part| part.parse::<LevelFilter>().ok()).unwrap_or(otherwise);
    // A level below warnings also applies to libraries.
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
    fn an_event_is_one_line_and_has_no_escapes_but_colours() {
        assert_eq!(plain_event("a\nb\u{1b}[2J\u{202e}", false), "a\\nb\\u{1b}[2J\\u{202e}");
        assert_eq!(plain_event("\u{1b}[31mred\u{1b}[0m\r\n", true), "\u{1b}[31mred\u{1b}[0m\\r\\n");
    }

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
