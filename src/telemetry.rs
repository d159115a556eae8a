//! What operators see: logs, metrics, health, and the HTTP server that shows the last two.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod seldom;
pub(crate) mod server;

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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

/// Starts logging. The level is `info`, or what the standard variable `RUST_LOG` says.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    // What libraries say at `info` is about themselves; the server's errors reach the log through the event callback.
    let filter = filter.from_env_lossy();
    let quiet = ["ort=warn", "async_nats=error", "object_store=warn"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok());
    let filter =
        if std::env::var_os("RUST_LOG").is_none() { quiet.fold(filter, EnvFilter::add_directive) } else { filter };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => log.with_ansi(has_colours()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
