//! `tagmill serve`, and what is served over HTTP wherever it is.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::{LogArgs, TaggingArgs};

/// `tagmill serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// What to tag with.
    #[command(flatten)]
    pub(crate) tagging: TaggingArgs,
    /// What is served.
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    /// How long a stop waits for requests in hand.
    #[arg(long, value_name = "DUR", default_value = "25s", value_parser = super::duration, env = "TAGMILL_DRAIN_TIMEOUT", help_heading = "HTTP")]
    pub(crate) drain_timeout: Duration,
    /// How to log.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What is served over HTTP, and to whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// Where to serve the API, its page, /metrics, /healthz and /readyz; port 0 takes a free one, which the log names.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address, env = "TAGMILL_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// What requests must bring as `Authorization: Bearer ...`, but those for the page, /metrics and health [default:
    /// nothing].
    #[arg(long, value_name = "SECRET", env = "TAGMILL_HTTP_TOKEN", hide_env_values = true)]
    pub(crate) http_token: Option<SecretString>,
    /// Further name of this server in requests, besides addresses and localhost. Repeatable.
    #[arg(long = "allowed-host", value_name = "NAME", value_delimiter = ',', value_parser = super::trimmed, env = "TAGMILL_ALLOWED_HOST")]
    pub(crate) allowed_hosts: Vec<String>,
    /// An origin whose pages may use the API, such as http://localhost:3000, or * for any. Repeatable.
    #[arg(long = "cors-origin", value_name = "ORIGIN", value_delimiter = ',', value_parser = super::trimmed, env = "TAGMILL_CORS_ORIGIN")]
    pub(crate) cors_origins: Vec<String>,
    /// How long an image of a request may take once there is a place for it.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = super::duration, env = "TAGMILL_HTTP_TIMEOUT")]
    pub(crate) http_timeout: Duration,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected address:port, such as 0.0.0.0:8080 for every address of this machine")
}
