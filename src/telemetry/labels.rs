//! Values of metric labels that the code passes around as types.

use crate::priority::Priority;

/// Source of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The work queue, a JetStream stream.
    Stream,
    /// A request over NATS.
    Nats,
    /// A request over HTTP.
    Http,
    /// An image named on the command line.
    Local,
}

impl Source {
    /// Every source.
    pub(crate) const ALL: [Self; 4] = [Self::Stream, Self::Nats, Self::Http, Self::Local];

    /// The label's value.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Nats => "nats",
            Self::Http => "http",
            Self::Local => "local",
        }
    }

    /// Priority of the source's jobs.
    #[must_use]
    pub(crate) const fn priority(self) -> Priority {
        match self {
            Self::Nats | Self::Http => Priority::Interactive,
            Self::Stream | Self::Local => Priority::Bulk,
        }
    }
}

/// Outcome of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result is confirmed.
    Tagged,
    /// The job failed for good, with an error or a dead letter for its client.
    Rejected,
    /// The job is retried later.
    Retried,
}

impl Outcome {
    /// Every outcome.
    pub(crate) const ALL: [Self; 3] = [Self::Tagged, Self::Rejected, Self::Retried];

    /// The label's value.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::Rejected => "rejected",
            Self::Retried => "retried",
        }
    }
}

/// A stage of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Reads the job.
    Accept,
    /// Reads the image.
    Fetch,
    /// Decodes the image and fits it to the model.
    Decode,
    /// Runs the model.
    Tag,
    /// Answers the source.
    Publish,
}

impl Stage {
    /// The label's value.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Tag => "tag",
            Self::Publish => "publish",
        }
    }
}

/// Reason for closing a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The batch has the maximum number of rows.
    Full,
    /// Its oldest row has waited for the window.
    Window,
    /// No further row is on its way.
    Idle,
    /// The worker stops.
    Drain,
}

impl Flush {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Window => "window",
            Self::Idle => "idle",
            Self::Drain => "drain",
        }
    }
}
