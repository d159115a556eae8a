//! What operators see: logs, metrics, health, and the HTTP server that shows the last two.

pub(crate) mod health;
pub mod labels;
pub(crate) mod metrics;
pub(crate) mod rate_limited;
pub(crate) mod server;
pub(crate) mod span;

use std::fmt;
use std::io::{IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

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

/// A line on standard error, for whoever started the program. Where nobody reads it any more it is lost, and nothing else.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(stderr(), "{text}");
}

/// Starts logging. The level is this, or what the standard variable `RUST_LOG` says, which leaves libraries alone that it
/// does not name.
pub fn start(format: LogFormat, level: LevelFilter) {
    let own = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, wrong) = filter(&own, level);
    // A log that nobody reads any more ends; the program does not.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(has_colours()).with_target(false).init(),
        // One span alone: a job's has all fields, and a list would repeat them.
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
    for directive in wrong {
        tracing::warn!(directive, "RUST_LOG has what is no level, and no name with one, such as ort=debug");
    }
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
