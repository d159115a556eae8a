//! Headers of jobs and of their answers.

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{HeaderMap, Message};

use super::relay::frames::MALFORMED;
use crate::failure::{Code, Failure};
use crate::job::LONGEST_ID;

/// A client's id for its job, where the job itself has none.
pub(crate) const ID_HEADER: &str = "Tagmill-Id";

/// The dead letter that a job was retried from, by its message id: results and dead letters have it as `retry_of`.
pub(crate) const RETRY_HEADER: &str = "Tagmill-Retry-Of";

/// The dead letter that these headers name.
#[must_use]
pub(crate) fn retry_of(headers: &HeaderMap) -> Option<String> {
    let letter = headers.get(RETRY_HEADER)?.as_str();
    (1..=LONGEST_ID).contains(&letter.len()).then(|| letter.to_owned())
}

/// The id that a message's headers give its job. As in a payload, it is neither empty nor long.
#[must_use]
pub(crate) fn id_in(headers: Option<&HeaderMap>) -> Option<String> {
    let header = |name: &str| {
        let value = headers.and_then(|headers| headers.get(name))?.as_str();
        (1..=LONGEST_ID).contains(&value.len()).then(|| value.to_owned())
    };
    header(ID_HEADER).or_else(|| header(NATS_MESSAGE_ID.as_ref()))
}

/// Checks that a message had headers that can be read.
///
/// # Errors
/// `bad_job`, with the reason that the relay has put in their place.
pub(crate) fn check(message: &Message) -> Result<(), Failure> {
    match message.headers.as_ref().and_then(|headers| headers.get(MALFORMED)) {
        Some(reason) => {
            Err(Failure::new(Code::BadJob, format!("the headers of the message can't be read: {}", reason.as_str())))
        }
        None => Ok(()),
    }
}

/// Adds a job's headers to an answer's, but for those of the server (`Nats-…`).
pub(crate) fn carry(job: &Message, headers: &mut HeaderMap) {
    for (name, values) in job.headers.iter().flat_map(HeaderMap::iter) {
        let name_text: &str = name.as_ref();
        let servers = name_text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"));
        for value in values.iter().filter(|_| !servers && name_text != MALFORMED) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// The message id alone of these headers.
pub(super) fn id_alone(headers: &HeaderMap) -> HeaderMap {
    let mut alone = HeaderMap::new();
    if let Some(id) = headers.get(NATS_MESSAGE_ID) {
        alone.insert(NATS_MESSAGE_ID, id.clone());
    }
    alone
}

/// Bytes that the server counts against its payload limit: the headers as written, and the body.
pub(super) fn wire_size(headers: &HeaderMap, body: usize) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let lines: usize =
        lines.map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()).sum();
    "NATS/1.0\r\n\r\n".len() + lines + body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_a_job_as_a_payload_does() {
        let named = |id: &str, message: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID_HEADER, id);
            headers.insert(NATS_MESSAGE_ID, message);
            id_in(Some(&headers))
        };
        let (longest, long) = ("x".repeat(LONGEST_ID), "x".repeat(LONGEST_ID + 1));
        assert_eq!(named("mine", "upload").as_deref(), Some("mine"));
        assert_eq!(named(&longest, "upload"), Some(longest.clone()));
        assert_eq!(named(&long, "upload").as_deref(), Some("upload"));
        assert_eq!(named("", &long), None);
        assert_eq!(id_in(None), None);
    }
}
