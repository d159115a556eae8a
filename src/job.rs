//! Input of the wire contract: a job as clients publish it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::failure::{Code, Failure};
use crate::json;
use crate::model::threshold::Thresholds;

/// Maximum length of an id in bytes, so that it fits into every answer.
pub(crate) const LONGEST_ID: usize = 1024;

/// Random id for a job or request without one.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Image to tag, with options.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Client's name for the job, a string or an integer; otherwise the source assigns one.
    #[serde(default, deserialize_with = "text_of_id")]
    pub id: Option<String>,
    /// Location of the image: `s3://…`, `file://…`, `data:image/…;base64,…` or a key of the first store.
    pub image: String,
    /// Name or alias of the model [default: the worker's].
    #[serde(default)]
    pub model: Option<String>,
    /// Thresholds of tags by category that differ from the worker's.
    #[serde(default, deserialize_with = "null_as_default")]
    pub thresholds: Thresholds,
    /// Any JSON, returned unchanged.
    #[serde(default)]
    pub meta: Option<Box<RawValue>>,
    /// Report every label with a score of at least this, besides the tags. Set by sources only, never by messages.
    #[serde(skip)]
    pub scores_from: Option<f32>,
}

impl Job {
    /// Reads the id alone, even from a message that is otherwise no valid job.
    #[must_use]
    pub fn id_in(payload: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Id {
            #[serde(deserialize_with = "text_of_id")]
            id: Option<String>,
        }
        let Id { id } = serde_json::from_slice(payload).ok()?;
        id.filter(|id| (1..=LONGEST_ID).contains(&id.len()))
    }

    /// Parses a job from a message.
    ///
    /// # Errors
    /// `bad_job`, with the name of the wrong field.
    pub fn parse(payload: &[u8]) -> Result<Self, Failure> {
        let job: Self = json::read(payload).map_err(bad_job)?;
        if job.image.is_empty() {
            return Err(bad_job("field `image` is empty"));
        }
        match job.id.as_deref().map(str::len) {
            Some(0) => Err(bad_job("field `id` is empty; leave it out to have one made")),
            Some(long) if long > LONGEST_ID => Err(bad_job(format!("field `id` has {long} bytes, over {LONGEST_ID}"))),
            _ => Ok(job),
        }
    }
}

fn bad_job(reason: impl AsRef<str>) -> Failure {
    Failure::new(
        Code::BadJob,
        format!("not a job: {}; expected JSON such as {{\"image\":\"s3://bucket/key\"}}", reason.as_ref()),
    )
}

/// Reads an id. Databases use integers, so an integer of any length is accepted as its text.
fn text_of_id<'de, D: Deserializer<'de>>(json: D) -> Result<Option<String>, D::Error> {
    let Some(raw) = Option::<&RawValue>::deserialize(json)? else { return Ok(None) };
    let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Ok(Some(raw.get().to_owned()));
    }
    serde_json::from_str(raw.get()).map(Some).map_err(|_| D::Error::custom("expected a string or an integer"))
}

/// Reads a field that may be null.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    json: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::threshold::Threshold;

    fn reason(payload: &str) -> String {
        let failure = Job::parse(payload.as_bytes()).expect_err("must be refused");
        assert_eq!(failure.code, Code::BadJob);
        failure.message
    }

    #[test]
    fn reads_every_field_and_leaves_meta_as_written() {
        let job = Job::parse(
            br#"{"id":"42","image":"a.png","model":"m","thresholds":{"general":0.5,"character":null},"meta":{"b": 1.50, "a":12345678901234567890123}}"#,
        )
        .expect("a job");
        assert_eq!(job.id.as_deref(), Some("42"));
        assert_eq!(job.model.as_deref(), Some("m"));
        assert_eq!(job.thresholds, Thresholds::default().with("general", Some(Threshold::Over(0.5))));
        assert_eq!(job.meta.expect("meta").get(), r#"{"b": 1.50, "a":12345678901234567890123}"#);
    }

    #[test]
    fn null_is_absent() {
        let job = Job::parse(br#"{"id":null,"image":"a","model":null,"thresholds":null,"meta":null}"#).expect("a job");
        assert!(job.id.is_none() && job.model.is_none());
        assert_eq!(job.thresholds, Thresholds::default());
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        for (field, nearest) in [("threshold", "thresholds"), ("modell", "model"), ("image_url", "image")] {
            let reason = reason(&format!(r#"{{"image":"a","{field}":null}}"#));
            assert!(reason.contains(&format!("field `{field}` is unknown; did you mean `{nearest}`?")), "{reason}");
        }
        let reason = reason(r#"{"image":"a","scores_from":0.1}"#);
        assert!(reason.contains("known are `id`, `image`, `model`, `thresholds`, `meta`"), "{reason}");
    }

    #[test]
    fn an_integer_is_an_id_as_its_text() {
        for id in ["7", "-7", "0", "123456789012345678901234567890"] {
            let payload = format!(r#"{{"image":"a","id":{id}}}"#);
            assert_eq!(Job::parse(payload.as_bytes()).expect("a job").id.as_deref(), Some(id));
            assert_eq!(Job::id_in(format!(r#"{{"id": {id} }}"#).as_bytes()).as_deref(), Some(id));
        }
        assert_eq!(Job::parse(br#"{"image":"a","id":"\u0041"}"#).expect("a job").id.as_deref(), Some("A"));
        for wrong in ["1.5", "1e3", "true", "[7]", "{}"] {
            let reason = reason(&format!(r#"{{"image":"a","id":{wrong}}}"#));
            assert!(reason.contains("field `id`: expected a string or an integer"), "{reason}");
        }
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        assert!(reason("{}").contains("`image`"));
        assert!(reason(r#"{"image":3}"#).contains("field `image`"));
        assert!(reason(r#"{"image":""}"#).contains("field `image`"));
        assert!(reason(&format!(r#"{{"image":"a","id":"{}"}}"#, "x".repeat(1025))).contains("field `id` has 1025"));
        assert!(reason(r#"{"image":"a","thresholds":{"general":1.5}}"#).contains("field `thresholds.general`"));
        assert!(reason(r#"{"image":"a","thresholds":{"character":"x"}}"#).contains("field `thresholds.character`"));
    }

    #[test]
    fn the_id_of_a_bad_job_is_known() {
        assert_eq!(Job::id_in(br#"{"id":"42","image":7}"#).as_deref(), Some("42"));
        for none in ["", "[]", r#"{"id":7.5}"#, r#"{"id":""}"#, r#"{"image":"a"}"#] {
            assert_eq!(Job::id_in(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for payload in ["", "hello", "[]", "null", r#"{"image":"a"} {"image":"b"}"#, "{\"image\":\"\u{0}"] {
            reason(payload);
        }
        assert!(Job::parse(&[0xff, 0xfe]).is_err());
    }
}
