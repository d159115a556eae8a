//! The values of metric labels that the code passes around as types.

use crate::priority::Priority;

/// How a job came in.
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

    /// The priority of its jobs.
    #[must_use]
    pub(crate) const fn priority(self) -> Priority {
        match self {
            Self::Nats | Self::Http => Priority::Interactive,
            Self::Stream | Self::Local => Priority::Bulk,
        }
    }
}

/// How a job was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result is confirmed.
    Tagged,
    /// The job failed for good, and its client can find out.
    Rejected,
    /// The job will be tried again.
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

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It has as many rows as a batch may have.
    Full,
    /// Its oldest row has waited for the window.
    Window,
    /// No row is on its way that it should wait for.
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
