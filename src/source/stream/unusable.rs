//! Errors of a work queue that can't be used.

/// Error of a work queue that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The server has no JetStream, or not for this account.
    #[error(
        "the NATS server has no JetStream for this account; start it with --jetstream (nats-server -js) or enable it in its configuration"
    )]
    NoJetStream,
    /// A stream can't be read or created, or given its consumer.
    #[error("the stream {stream} can't be {action}: {reason}")]
    Stream {
        /// The stream.
        stream: String,
        /// The attempt.
        action: &'static str,
        /// The server's message.
        reason: String,
        /// `true` if another attempt may succeed.
        passing: bool,
    },
    /// The account limits the sizes of streams.
    #[error("the stream {stream} can't be created: {reason}; set its size, within what the account has left ({flag})")]
    Size {
        /// The stream.
        stream: String,
        /// Flag that sets the size.
        flag: &'static str,
        /// The server's message.
        reason: String,
    },
    /// Two consumers would take the same jobs, which a work queue does not allow.
    #[error(
        "the consumer {consumer} can't have the jobs on {subject}: {others}, and the parts of a work queue must not overlap; have the workers take parts that don't (--filter), or remove the other consumer once its workers are gone (nats consumer rm {stream} NAME)"
    )]
    Overlap {
        /// The stream.
        stream: String,
        /// Consumer that would have been created.
        consumer: String,
        /// Subject of its jobs.
        subject: String,
        /// Streams or consumers that have them.
        others: String,
    },
    /// A stream or consumer that exists would lose jobs or keep them for ever.
    #[error(
        "{what} has {setting} {found}, which tagmill can't work with: it must be {wanted}; change it, or remove it to have it made anew"
    )]
    Setting {
        /// The stream or consumer.
        what: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// Expected value.
        wanted: String,
    },
}
