//! The body of an answer: a result, or a dead letter with the job that failed.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::failure::{Code, ErrorBody, Failure};
use crate::tags::{Base64, DeadLetter, OriginalJob, TagResult};

/// The JSON of a result.
///
/// # Errors
/// If it can't be written as JSON.
pub(crate) fn result(result: &TagResult) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(result).map_err(|error| {
        Failure::new(Code::InferenceFailed, format!("the result can't be written as JSON: {error}"))
    })?;
    Ok(body.into())
}

/// The failure of a job whose result does not fit.
#[must_use]
pub(crate) fn result_too_large(tags: usize, size: usize) -> Failure {
    Failure::new(
        Code::ResultTooLarge,
        format!(
            "the result of {tags} tags has {size} bytes, with its headers over what the NATS server takes (max_payload, max_msg_size of the stream, 64 KiB of headers); raise the thresholds or the limit, or send fewer headers"
        ),
    )
}

/// A job's payload as a dead letter keeps it.
#[must_use]
pub(crate) fn original(payload: &Bytes) -> OriginalJob {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(job) => OriginalJob::Json { job },
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => OriginalJob::Text { job: text.to_owned() },
            Err(_) => OriginalJob::Bytes { job: Base64 { base64: STANDARD.encode(payload) } },
        },
    }
}

/// The dead letter of a job that failed at this attempt.
pub(crate) fn dead_letter(
    id: String,
    subject: &str,
    payload: &Bytes,
    (failure, attempts): (&Failure, u64),
    worker: &str,
) -> DeadLetter {
    DeadLetter {
        id,
        subject: subject.to_owned(),
        job: original(payload),
        error: ErrorBody::from(failure),
        attempts,
        worker: worker.to_owned(),
        retry_of: None,
        at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    }
}

/// A job in place of which a dead letter has its size and hash, for the server takes no more.
pub(super) fn omitted(payload: &Bytes) -> OriginalJob {
    OriginalJob::Omitted { job: (), job_bytes: payload.len(), job_sha256: hex::encode(Sha256::digest(payload)) }
}

/// What an answer says of its job: the id, and the image or the subject. Answers to one job have it in common, however often
/// it was tried.
pub(super) fn job_of(body: &[u8]) -> Option<(String, Option<String>)> {
    #[derive(Deserialize)]
    struct Answer {
        id: String,
        #[serde(alias = "subject")]
        image: Option<String>,
    }
    let Answer { id, image } = serde_json::from_slice(body).ok()?;
    Some((id, image))
}

/// The JSON of a dead letter.
pub(super) fn encode(letter: &DeadLetter) -> Bytes {
    // Nothing in it can fail to be written: it came from JSON, or is text.
    serde_json::to_vec(letter).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_job_is_kept_as_it_was() {
        let json =
            |payload: &'static [u8]| serde_json::to_string(&original(&Bytes::from_static(payload))).expect("JSON");
        assert_eq!(json(br#"{"image": "a",  "n":1.0}"#), r#"{"job":{"image": "a",  "n":1.0}}"#);
        assert_eq!(json(b"not json"), r#"{"job":"not json"}"#);
        assert_eq!(json(b"\xff\x00"), r#"{"job":{"base64":"/wA="}}"#);
    }
}
