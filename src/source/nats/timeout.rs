//! How long the caller of a request waits. Over NATS a caller's own timeout can't be seen: it is what its header says, or
//! else what the operator takes callers for.

use std::time::Duration;

use async_nats::Message;

use crate::failure::{Code, Failure};

/// How long the caller waits, such as `2s` or `500ms`.
pub(crate) const TIMEOUT_HEADER: &str = "Tagmill-Timeout";

/// How long the caller of this request waits; for ever, where it gave neither a time nor a reply subject.
///
/// # Errors
/// `bad_job` where the header is no duration.
pub(crate) fn of(request: &Message, default: Duration) -> Result<Option<Duration>, Failure> {
    let said = request.headers.as_ref().and_then(|headers| headers.get(TIMEOUT_HEADER));
    match said {
        Some(said) => humantime::parse_duration(said.as_str()).map(Some).map_err(|error| {
            let message = format!("header {TIMEOUT_HEADER}: {error}; expected a duration such as 2s or 500ms");
            Failure::new(Code::BadJob, message)
        }),
        None => Ok(request.reply.is_some().then_some(default)),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn patience(header: Option<&str>, reply: bool) -> Result<Option<Duration>, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(TIMEOUT_HEADER, header);
        }
        let message = Message {
            subject: "tagmill.tag".into(),
            reply: reply.then(|| "inbox".into()),
            payload: "{}".into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        };
        of(&message, Duration::from_secs(30))
    }

    #[test]
    fn a_caller_waits_as_long_as_it_says_or_as_long_as_most() {
        assert_eq!(patience(Some("2s"), true).expect("fine"), Some(Duration::from_secs(2)));
        assert_eq!(patience(Some("500ms"), false).expect("fine"), Some(Duration::from_millis(500)));
        assert_eq!(patience(None, true).expect("fine"), Some(Duration::from_secs(30)));
        assert_eq!(patience(None, false).expect("fine"), None, "nobody waits");
        for malformed in ["", "soon", "2", "-1s"] {
            let failure = patience(Some(malformed), true).expect_err(malformed);
            assert!(failure.code == Code::BadJob && failure.message.contains(TIMEOUT_HEADER), "{failure}");
        }
    }
}
