//! The wire contract out: a result and a dead letter, as clients read them.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::failure::ErrorBody;

/// What a model says of one image.
#[derive(Clone, Debug, Serialize)]
pub struct Tags {
    /// The score of every rating, in the label file's order.
    #[serde(serialize_with = "as_map")]
    pub rating: Vec<(String, f64)>,
    /// Every tag over its category's threshold but ratings, highest score first.
    pub tags: Vec<Tag>,
    /// The same names in the same order, as a caption.
    pub text: String,
}

/// One tag of an image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tag {
    /// As in the label file.
    pub name: String,
    /// The name of its category.
    pub category: String,
    /// The model's own score, 0..=1, rounded to four decimals.
    pub score: f64,
}

/// Which model answered.
#[derive(Clone, Debug, Serialize)]
pub struct ModelId {
    /// The model folder's name.
    pub name: String,
    /// Of the ONNX file, in hex.
    pub sha256: String,
}

/// Where the time of a job went, in seconds.
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

/// The answer to a job that was tagged.
#[derive(Clone, Debug, Serialize)]
pub struct TagResult {
    /// The job's.
    pub id: String,
    /// The job's image; a data URI comes back as its type and hash.
    pub image: String,
    /// Which model answered.
    pub model: ModelId,
    /// What it said.
    #[serde(flatten)]
    pub tags: Tags,
    /// The job's, unchanged.
    pub meta: Option<Box<RawValue>>,
    /// The dead letter that the job was retried from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// The worker that answered.
    pub worker: String,
    /// What the model ran on there, such as `cuda:0`.
    pub device: String,
    /// Which delivery of the job this answers, from 1.
    pub attempt: u64,
    /// How many images ran together.
    pub batch: usize,
    /// Where the time went.
    pub seconds: Seconds,
    /// Labels by score, highest first, where the source asked for them; not part of the wire contract.
    #[serde(skip)]
    pub scores: Vec<Tag>,
}

/// What becomes of a job that can't be tagged.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// The job's.
    pub id: String,
    /// The subject the job was published on.
    pub subject: String,
    /// The original payload.
    #[serde(flatten)]
    pub job: OriginalJob,
    /// Why.
    pub error: ErrorBody,
    /// The dead letter that the job was retried from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// How often the job was delivered.
    pub attempts: u64,
    /// The worker that gave it up.
    pub worker: String,
    /// When, in RFC 3339.
    pub at: String,
}

/// A job's original payload, as much of it as fits.
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
    /// Neither.
    Bytes {
        /// The payload.
        job: Base64,
    },
    /// Too large for the server's payload limit.
    Omitted {
        /// Always null.
        job: (),
        /// The payload's length.
        job_bytes: usize,
        /// The payload's hash, in hex.
        job_sha256: String,
    },
}

/// Bytes as `{"base64": …}`.
#[derive(Debug, Serialize)]
pub struct Base64 {
    /// Standard alphabet, padded.
    pub base64: String,
}

/// A score as it is reported: four decimals.
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

/// Microseconds are as fine as the clocks here are worth.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn rounded<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((seconds * 1e6).round() / 1e6)
}
