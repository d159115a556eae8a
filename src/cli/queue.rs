//! Where the queue is, and how it is used.
#![expect(clippy::doc_markdown, reason = "comments on arguments are their help text, for terminals")]

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use secrecy::SecretString;

use crate::source::stream::filter::Filter;

/// Where the queue is.
#[derive(Debug, Args)]
#[command(next_help_heading = "NATS")]
pub(crate) struct NatsArgs {
    /// Servers, separated by commas [default: the variable NATS_URL, else nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "TAGMILL_NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Vec<SecretString>,
    /// A credentials file.
    #[arg(long, value_name = "FILE", env = "TAGMILL_NATS_CREDS", conflicts_with_all = ["nats_user", "nats_token"])]
    pub(crate) nats_creds: Option<PathBuf>,
    /// A user's name.
    #[arg(
        long,
        value_name = "NAME",
        env = "TAGMILL_NATS_USER",
        requires = "nats_password",
        conflicts_with = "nats_token"
    )]
    pub(crate) nats_user: Option<String>,
    /// The user's password.
    #[arg(long, value_name = "SECRET", env = "TAGMILL_NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub(crate) nats_password: Option<SecretString>,
    /// A token.
    #[arg(long, value_name = "SECRET", env = "TAGMILL_NATS_TOKEN", hide_env_values = true)]
    pub(crate) nats_token: Option<SecretString>,
    /// Certificates to trust besides the system's, in PEM.
    #[arg(long, value_name = "FILE", env = "TAGMILL_NATS_CA")]
    pub(crate) nats_ca: Option<PathBuf>,
    /// What subjects start with; stream names too, in upper case.
    #[arg(long, default_value = "tagmill", env = "TAGMILL_PREFIX")]
    pub(crate) prefix: String,
}

/// Settings of streams that are created.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue")]
pub(crate) struct StreamArgs {
    /// Copies of each stream that is created, in a cluster.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::whole::<usize>, env = "TAGMILL_REPLICAS")]
    pub(crate) replicas: usize,
    /// Bytes the jobs stream holds where it is created; publishing to a full stream is refused [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = super::size, env = "TAGMILL_JOBS_MAX_BYTES")]
    pub(crate) jobs_max_bytes: Option<ByteSize>,
    /// Size of the stream of results where it is created; workers wait while it is full [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = super::size, env = "TAGMILL_RESULTS_MAX_BYTES")]
    pub(crate) results_max_bytes: Option<ByteSize>,
    /// Size of the stream of dead letters where it is created; workers wait while it is full [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = super::size, env = "TAGMILL_DEAD_MAX_BYTES")]
    pub(crate) dead_max_bytes: Option<ByteSize>,
    /// Jobs that all workers together hold at once, where the consumer is created; an account may allow fewer.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = super::whole::<u32>, env = "TAGMILL_MAX_ACK_PENDING")]
    pub(crate) max_ack_pending: u32,
}

/// Use of the queue.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue")]
pub(crate) struct QueueArgs {
    /// Settings of streams that are created.
    #[command(flatten)]
    pub(crate) streams: StreamArgs,
    /// Failures of a job after which its error is final.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = super::whole::<u64>, env = "TAGMILL_MAX_ATTEMPTS")]
    pub(crate) max_attempts: u64,
    /// Take only the jobs whose subject goes on like this after tagmill.jobs, such as 'shop.>': a part of the queue, with a
    /// consumer of its own (workers-shop). Parts must not overlap, so no worker may take all meanwhile.
    #[arg(long, value_name = "SUBJECT", env = "TAGMILL_FILTER")]
    pub(crate) filter: Option<Filter>,
    /// Default timeout of a request over NATS, for callers that set no header Tagmill-Timeout. A request that takes longer is
    /// dropped before it costs inference.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = super::duration, env = "TAGMILL_LIVE_TIMEOUT")]
    pub(crate) live_timeout: Duration,
    /// Suffixes of the keys that S3 event notifications are taken of, separated by commas, such as jpg,png; the others are
    /// passed over [default: all are taken].
    #[arg(long, value_name = "SUFFIX", value_delimiter = ',', env = "TAGMILL_EVENT_SUFFIXES")]
    pub(crate) event_suffixes: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        nats: NatsArgs,
    }

    #[test]
    fn secrets_are_not_printed() {
        let user = ["tagmill", "--nats-url", "nats://user:hush@host", "--nats-user", "user", "--nats-password", "hush"];
        for arguments in [&user[..], &["tagmill", "--nats-token", "hush"]] {
            let Command { nats } = Command::try_parse_from(arguments).expect("arguments");
            let printed = format!("{nats:?}");
            assert!(printed.contains("REDACTED") && !printed.contains("hush"), "{printed}");
        }
    }
}
