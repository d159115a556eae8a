//! Failures of one job as stable codes. The code, never a text, decides about a retry.

use std::fmt;

use serde::Serialize;

/// Stable name of a failure in answers, dead letters and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The payload is not a job.
    BadJob,
    /// The worker does not have the job's model.
    UnknownModel,
    /// The image is outside every configured store.
    ForbiddenLocation,
    /// The store has no such object.
    ImageNotFound,
    /// The image has more bytes or pixels than the operator allows.
    ImageTooLarge,
    /// The image is corrupt, truncated, or of no supported format.
    ImageUndecodable,
    /// The result does not fit the server's payload limit.
    ResultTooLarge,
    /// The store timed out, throttled, failed or could not be reached.
    StorageUnavailable,
    /// The store refused the credentials.
    StorageDenied,
    /// A single image exceeds the device's memory.
    OutOfMemory,
    /// The runtime failed for another reason.
    InferenceFailed,
    /// The job's isolated decoder ended repeatedly without a result.
    AttemptsExhausted,
    /// A stopping worker handed the job back unstarted.
    ShuttingDown,
    /// The request arrived while the worker had too many, or its client no longer waits.
    Overloaded,
    /// The request lacks the required token.
    Unauthorized,
}

/// Consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The job would fail again. It becomes a dead letter.
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

    /// Name on the wire.
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

    /// Class of the failures with this code.
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

/// Maximum length of a failure's text in bytes: it may quote the job, and must fit where the job did not.
const LONGEST: usize = 1000;

/// Failure of a job, with its code and consequence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: Code,
    /// Message with cause, object and remedy, for a person.
    pub message: String,
    class: Class,
    spends_attempt: bool,
}

impl Failure {
    /// Creates a failure with its code's class.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rfind(|&end| message.is_char_boundary(end)).unwrap_or(0);
            message.replace_range(end.., "…");
        }
        Self { code, message, class: code.class(), spends_attempt: code != Code::ShuttingDown }
    }

    /// Makes the failure retriable, whatever its code: the cause may be the worker, not the job.
    #[must_use]
    pub fn retriable(self) -> Self {
        Self { class: Class::Retry, ..self }
    }

    /// Makes the failure retriable without spending an attempt, because the job is not the cause.
    #[must_use]
    pub fn without_attempt(self) -> Self {
        Self { class: Class::Retry, spends_attempt: false, ..self }
    }

    /// The failure as callers get it, who are not the operator: that of a store in general terms, for its own name the
    /// endpoint, which lies within the operator's network.
    #[must_use]
    pub fn for_callers(self) -> Self {
        let message = match self.code {
            Code::StorageUnavailable => {
                "the image can't be read from its store at the moment; the server's log has the reason"
            }
            Code::StorageDenied => "the image's store refuses the server; the server's log has the reason",
            _ => return self,
        };
        Self { message: message.to_owned(), ..self }
    }

    /// Returns `true` if the failure counts against the job's attempts.
    #[must_use]
    pub const fn spends_attempt(&self) -> bool {
        self.spends_attempt
    }

    /// Class of the failure.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }
}

/// Failure on the wire: `{"code","message"}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// Stable code.
    pub code: Code,
    /// Message for a person.
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
