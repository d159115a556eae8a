//! What can go wrong with one job, as stable codes: whether it is tried again is a property of the code, never of a text.

use std::fmt;

use serde::Serialize;

/// The stable name of a failure, as it stands in answers, dead letters and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The payload is not a job.
    BadJob,
    /// The job names a model this worker does not have.
    UnknownModel,
    /// The image lies outside every configured store.
    ForbiddenLocation,
    /// The store has no such object.
    ImageNotFound,
    /// More bytes or pixels than the operator allows.
    ImageTooLarge,
    /// Corrupt, truncated, or no image.
    ImageUndecodable,
    /// The result does not fit the server's payload limit.
    ResultTooLarge,
    /// The store timed out, throttled, failed or could not be reached.
    StorageUnavailable,
    /// The store refused the credentials.
    StorageDenied,
    /// One image alone does not fit the device.
    OutOfMemory,
    /// The runtime failed for another reason.
    InferenceFailed,
    /// Its isolated decoder ended again and again.
    AttemptsExhausted,
    /// Handed back unstarted by a worker that stops.
    ShuttingDown,
    /// A request that came while the worker had too many, or that nobody waits for any more.
    Overloaded,
    /// A request without the token it needs.
    Unauthorized,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same job would fail again: it becomes a dead letter.
    Reject,
    /// Another attempt may succeed.
    Retry,
}

impl Code {
    /// Every code, in the order of the path of a job.
    pub const ALL: [Self; 15] = [
        Self::BadJob,
        Self::UnknownModel,
        Self::ForbiddenLocation,
        Self::ImageNotFound,
        Self::ImageTooLarge,
        Self::ImageUndecodable,
        Self::ResultTooLarge,
        Self::StorageUnavailable,
        Self::StorageDenied,
        Self::OutOfMemory,
        Self::InferenceFailed,
        Self::AttemptsExhausted,
        Self::ShuttingDown,
        Self::Overloaded,
        Self::Unauthorized,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJob => "bad_job",
            Self::UnknownModel => "unknown_model",
            Self::ForbiddenLocation => "forbidden_location",
            Self::ImageNotFound => "image_not_found",
            Self::ImageTooLarge => "image_too_large",
            Self::ImageUndecodable => "image_undecodable",
            Self::ResultTooLarge => "result_too_large",
            Self::StorageUnavailable => "storage_unavailable",
            Self::StorageDenied => "storage_denied",
            Self::OutOfMemory => "out_of_memory",
            Self::InferenceFailed => "inference_failed",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::ShuttingDown => "shutting_down",
            Self::Overloaded => "overloaded",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::StorageUnavailable
            | Self::StorageDenied
            | Self::OutOfMemory
            | Self::InferenceFailed
            | Self::ShuttingDown => Class::Retry,
            _ => Class::Reject,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bytes a failure's text has at most: it may quote the job, and must fit where the job did not.
const LONGEST: usize = 1000;

/// Why a job was not tagged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// What happened, to what, and what to do, for a person to read.
    pub message: String,
    class: Class,
    spends_attempt: bool,
}

impl Failure {
    /// A failure of the class its code has.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rfind(|&end| message.is_char_boundary(end)).unwrap_or(0);
            message.replace_range(end.., "…");
        }
        Self { code, message, class: code.class(), spends_attempt: code != Code::ShuttingDown }
    }

    /// The same failure, worth another attempt whatever its code says: our fault may be the worker's, not the job's.
    #[must_use]
    pub fn retriable(self) -> Self {
        Self { class: Class::Retry, ..self }
    }

    /// The same failure, no fault of the job's: another attempt takes the place of this one.
    #[must_use]
    pub fn without_attempt(self) -> Self {
        Self { class: Class::Retry, spends_attempt: false, ..self }
    }

    /// Returns `true` if this counts among the attempts that a job has.
    #[must_use]
    pub const fn spends_attempt(&self) -> bool {
        self.spends_attempt
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }
}

/// A failure on the wire: `{"code","message"}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// The stable code.
    pub code: Code,
    /// For a person to read.
    pub message: String,
}

impl From<&Failure> for ErrorBody {
    fn from(failure: &Failure) -> Self {
        Self { code: failure.code, message: failure.message.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_quotes_the_job_stays_short() {
        let failure = Failure::new(Code::BadJob, "ä".repeat(1_000_000));
        assert!(failure.message.len() < LONGEST + 10 && failure.message.ends_with("ä…"));
    }

    #[test]
    fn a_code_is_written_as_it_is_named() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).expect("a unit variant"), code.as_str());
        }
    }
}
