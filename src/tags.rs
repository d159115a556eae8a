//! Output of the wire contract: a result and a dead letter as clients read them.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::failure::ErrorBody;

/// Rating and tags of one image.
#[derive(Clone, Debug, Serialize)]
pub struct Tags {
    /// Score of every rating, in the label file's order.
    #[serde(serialize_with = "as_map")]
    pub rating: Vec<(String, f64)>,
    /// Every tag over its category's threshold except ratings, highest score first.
    pub tags: Vec<Tag>,
    /// Names of the same tags in the same order, as a caption.
    pub text: String,
}

/// Tag of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tag {
    /// Name as in the label file.
    pub name: String,
    /// Name of its category.
    pub category: String,
    /// Score of the model, 0..=1, rounded to four decimals.
    pub score: f64,
}

/// Identity of the model that answered.
#[derive(Clone, Debug, Serialize)]
pub struct ModelId {
    /// Name of the model's folder.
    pub name: String,
    /// Hash of the ONNX file, in hex.
    pub sha256: String,
}

/// Time a job spent in each part of its path, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// From publication to acceptance by this worker.
    #[serde(serialize_with = "rounded")]
    pub queue: f64,
    /// Reading the image from its store.
    #[serde(serialize_with = "rounded")]
    pub fetch: f64,
    /// Decoding and fitting it to the model's input.
    #[serde(serialize_with = "rounded")]
    pub decode: f64,
    /// Waiting for its batch.
    #[serde(serialize_with = "rounded")]
    pub wait: f64,
    /// Running the batch.
    #[serde(serialize_with = "rounded")]
    pub infer: f64,
}

/// Answer to a tagged job.
#[derive(Clone, Debug, Serialize)]
pub struct TagResult {
    /// Id of the job.
    pub id: String,
    /// Image of the job; a data URI is replaced by its type and hash.
    pub image: String,
    /// Model that answered.
    pub model: ModelId,
    /// Rating and tags.
    #[serde(flatten)]
    pub tags: Tags,
    /// `meta` of the job, unchanged.
    pub meta: Option<Box<RawValue>>,
    /// Dead letter that the job was retried from, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// Worker that answered.
    pub worker: String,
    /// Device of the model, such as `cuda:0`.
    pub device: String,
    /// Number of the delivery, from 1.
    pub attempt: u64,
    /// Number of images in the batch.
    pub batch: usize,
    /// Time spent.
    pub seconds: Seconds,
    /// Labels by score, highest first, if the source requested them; not part of the wire contract.
    #[serde(skip)]
    pub scores: Vec<Tag>,
}

/// Record of a job that can't be tagged.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// Id of the job.
    pub id: String,
    /// Subject of the job.
    pub subject: String,
    /// Original payload.
    #[serde(flatten)]
    pub job: OriginalJob,
    /// Failure that ended the job.
    pub error: ErrorBody,
    /// Dead letter that the job was retried from, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// Number of deliveries of the job.
    pub attempts: u64,
    /// Worker that rejected the job.
    pub worker: String,
    /// Time of rejection, in RFC 3339.
    pub at: String,
}

/// Original payload of a job, if it fits.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum OriginalJob {
    /// Valid JSON, unchanged.
    Json {
        /// The payload.
        job: Box<RawValue>,
    },
    /// Text that is not JSON.
    Text {
        /// The payload.
        job: String,
    },
    /// Neither JSON nor text.
    Bytes {
        /// The payload.
        job: Base64,
    },
    /// Payload too large for the server's limit.
    Omitted {
        /// Always null.
        job: (),
        /// Length of the payload in bytes.
        job_bytes: usize,
        /// Hash of the payload, in hex.
        job_sha256: String,
    },
}

/// Bytes as `{"base64": …}`.
#[derive(Debug, Serialize)]
pub struct Base64 {
    /// Standard alphabet, padded.
    pub base64: String,
}

/// Rounds a score to the four decimals of reports.
#[must_use]
pub fn score(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}

fn as_map<S: Serializer>(pairs: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, value) in pairs {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

/// Rounds to microseconds, the useful precision of the clocks.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn rounded<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((seconds * 1e6).round() / 1e6)
}
