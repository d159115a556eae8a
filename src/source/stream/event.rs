//! S3 event notifications of new objects. Each record becomes a job of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use memchr::memmem;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use crate::failure::{Code, Failure};
use crate::json::{self, AtMost};
use crate::store::suffix::Suffixes;

/// Texts of which every event contains one. Few jobs do.
const MARKS: [&[u8]; 2] = [b"\"Records\"", b"\"s3:TestEvent\""];

/// Maximum records of one event. Senders pack one or a few. The worker holds all of them, even while they wait for slots.
const MOST: usize = 1000;

/// Number of objects passed over so far because they have none of the suffixes.
static PASSED_OVER: AtomicU64 = AtomicU64::new(0);

/// Record that must be answered.
pub(super) struct Record {
    /// Number among the records of the event, from 1.
    pub(super) number: usize,
    /// Job for its object, or the record itself if it can't be read.
    pub(super) payload: Bytes,
    /// Failure to read the record.
    pub(super) wrong: Option<Failure>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Records")]
    records: Option<AtMost<Box<RawValue>, MOST>>,
    #[serde(rename = "Event")]
    only: Option<String>,
    /// Field that every job has and no event.
    image: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notified {
    event_name: Option<String>,
    s3: S3,
}

#[derive(Deserialize)]
struct S3 {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// Returns the records of an event that must be answered: those of new objects whose keys have one of the suffixes, and
/// those that can't be read. Returns `None` if the payload is not an event.
///
/// # Errors
/// `bad_job` if there are too many records.
pub(super) fn records(payload: &[u8], suffixes: &Suffixes) -> Option<Result<Vec<Record>, Failure>> {
    // Every job passes here, so only a possible event is parsed.
    if !MARKS.iter().any(|mark| memmem::find(payload, mark).is_some()) {
        return None;
    }
    let event: Event = serde_json::from_slice(payload).ok().filter(|event: &Event| event.image.is_none())?;
    match event {
        Event { records: Some(AtMost { more: true, .. }), .. } => {
            Some(Err(Failure::new(Code::BadJob, format!("an S3 event of more than {MOST} records"))))
        }
        Event { records: Some(AtMost { items, .. }), .. } => {
            let numbered = (1..).zip(items);
            Some(Ok(numbered.filter_map(|(number, record)| read(number, &record, suffixes)).collect()))
        }
        // A bucket sends this once, when its notifications are set up.
        Event { only: Some(only), .. } if only == "s3:TestEvent" => Some(Ok(Vec::new())),
        Event { .. } => None,
    }
}

fn read(number: usize, record: &RawValue, suffixes: &Suffixes) -> Option<Record> {
    let wrong = |reason: String| Record {
        number,
        payload: Bytes::copy_from_slice(record.get().as_bytes()),
        wrong: Some(Failure::new(Code::BadJob, format!("record {number} of an S3 event: {reason}"))),
    };
    let Notified { event_name, s3 } = match json::read(record.get().as_bytes()) {
        Ok(notified) => notified,
        Err(reason) => return Some(wrong(reason)),
    };
    if event_name.is_some_and(|name| !is_new(&name)) {
        return None;
    }
    let Some(key) = decoded(&s3.object.key) else {
        return Some(wrong(format!("field `s3.object.key`: `{}` is not UTF-8 once it is decoded", s3.object.key)));
    };
    // A folder, as some consoles create it: an empty object.
    if key.ends_with('/') {
        return None;
    }
    if !suffixes.has(&key) {
        passed_over(&key);
        return None;
    }
    let payload = json!({ "image": format!("s3://{}/{key}", s3.bucket.name) }).to_string().into();
    Some(Record { number, payload, wrong: None })
}

/// Logs the 1st, 2nd, 4th, 8th … object that `--event-suffixes` excludes, because a wrong setting may exclude most of a
/// bucket.
fn passed_over(key: &str) {
    let count = PASSED_OVER.fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_power_of_two() {
        tracing::info!(key, count, "passed over an object that has none of the suffixes (--event-suffixes)");
    }
}

/// Returns `true` for a new object. Removals, tags and copies elsewhere are ignored.
fn is_new(event_name: &str) -> bool {
    event_name.strip_prefix("s3:").unwrap_or(event_name).starts_with("ObjectCreated")
}

/// Decodes a key, which is encoded as forms are: a plus sign is a space.
fn decoded(key: &str) -> Option<String> {
    let key = key.replace('+', " ");
    percent_decode_str(&key).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(payload: &str) -> Option<Vec<(usize, String)>> {
        let records = records(payload.as_bytes(), &Suffixes::of_images())?.expect("not too many");
        let job = |record: Record| {
            let text = record.wrong.map(|wrong| wrong.message);
            (record.number, text.unwrap_or_else(|| String::from_utf8_lossy(&record.payload).into_owned()))
        };
        Some(records.into_iter().map(job).collect())
    }

    fn record(name: &str, key: &str) -> String {
        format!(r#"{{"eventName":"{name}","s3":{{"bucket":{{"name":"b"}},"object":{{"key":"{key}","size":1}}}}}}"#)
    }

    #[test]
    fn each_new_image_is_a_job() {
        let plain = r#"{"s3":{"bucket":{"name":"b"},"object":{"key":"a+b/%2B%C3%A4%25.jpg"}}}"#;
        let records = [
            plain.to_owned(),
            record("ObjectCreated:Put", "notes.txt"),
            record("s3:ObjectCreated:CompleteMultipartUpload", "x.PNG"),
            record("ObjectRemoved:Delete", "gone.png"),
            record("s3:ObjectAccessed:Get", "seen.png"),
        ];
        let event = format!(r#"{{"EventName":"s3:ObjectCreated:Put","Key":"b/x","Records":[{}]}}"#, records.join(","));
        let expected =
            [(1, r#"{"image":"s3://b/a b/+ä%.jpg"}"#.to_owned()), (3, r#"{"image":"s3://b/x.PNG"}"#.to_owned())];
        assert_eq!(jobs(&event).expect("an event"), expected);
    }

    #[test]
    fn a_record_that_is_none_is_answered_all_the_same() {
        let event = r#"{"Records":[{"s3":{"bucket":{"name":"b"},"object":{}}},{"s3":{"bucket":{"name":"b"},"object":{"key":"%ff.jpg"}}},7]}"#;
        let wrong = jobs(event).expect("an event");
        assert_eq!(wrong.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(
            wrong[0].1.contains("record 1 of an S3 event: field `s3.object`: missing field `key`"),
            "{}",
            wrong[0].1
        );
        assert!(wrong[1].1.contains("`%ff.jpg` is not UTF-8"), "{}", wrong[1].1);
    }

    #[test]
    fn an_event_of_too_many_records_is_one_bad_job() {
        let event = |count: usize| format!(r#"{{"Records":[{}]}}"#, vec!["0"; count].join(","));
        assert_eq!(jobs(&event(MOST)).map(|records| records.len()), Some(MOST));
        let refused = records(event(MOST + 1).as_bytes(), &Suffixes::of_images()).expect("an event");
        assert_eq!(refused.err().map(|failure| failure.code), Some(Code::BadJob));
    }

    #[test]
    fn other_messages_are_no_events() {
        assert_eq!(jobs(r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#), Some(vec![]));
        assert_eq!(jobs(r#"{"Records":[]}"#), Some(vec![]));
        for other in [r#"{"image":"a","Records":[]}"#, r#"{"Event":"x"}"#, r#"{"Records":7}"#, "{}", "[]", "", "\u{0}"]
        {
            assert_eq!(jobs(other), None, "{other}");
        }
    }
}
