//! Evidence against jobs: how often a job failed by itself. The server's count of deliveries says nothing of that, for it
//! includes every hand-back; so the evidence is kept in a stream of its own, where it survives the worker.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::topology::Identity;
use crate::nats::subjects::Subjects;
use crate::telemetry::rate_limited;

/// How long evidence is kept after the last failure.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// How long the server may take to read or store a record.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records kept in memory where the stream can't be used.
const REMEMBERED: usize = 10_000;

/// Failures recorded for a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Failures {
    /// Attempts that failed by the job's own fault.
    pub(super) count: u64,
}

/// The evidence against the jobs of one stream.
pub(super) struct Evidence {
    jetstream: Context,
    /// `None` where there is none: then each worker keeps its own.
    stream: Option<Stream>,
    /// Prefix of subjects.
    subject: String,
    /// By the job: its sequence, and its number where it is a record of an event.
    remembered: Mutex<HashMap<String, Failures>>,
}

/// The stream's settings, where it is created.
pub(super) fn config(subjects: &Subjects, replicas: usize) -> Config {
    Config {
        name: subjects.stream("EVIDENCE"),
        subjects: vec![format!("{subjects}.evidence.>")],
        max_messages_per_subject: 1,
        max_age: KEPT,
        num_replicas: replicas,
        ..Config::default()
    }
}

impl Evidence {
    /// Finds or makes the stream.
    pub(super) async fn open(jetstream: Context, subjects: &Subjects, replicas: usize, identity: &Identity) -> Self {
        let stream = match jetstream.get_or_create_stream(config(subjects, replicas)).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                let stream = subjects.stream("EVIDENCE");
                tracing::warn!(stream, %error, "the stream of failed attempts can't be used; this worker counts them for itself");
                None
            }
        };
        // A stream that was made anew has other jobs under the same sequences.
        let subject = format!("{subjects}.evidence.{}", identity.created.unix_timestamp_nanos());
        Self { jetstream, stream, subject, remembered: Mutex::default() }
    }

    /// Counts a failure of a job, which is its sequence, with its number where it is a record of an event; how many there are
    /// now. Where the stream can't be read its count is left alone: the job gets one attempt more, not fewer.
    pub(super) async fn failed(&self, job: &str) -> u64 {
        let remembered = self.remembered.lock().get(job).copied().unwrap_or_default();
        let stored = self.stored(job).await;
        let known = stored.unwrap_or_default().count.max(remembered.count);
        let record = Failures { count: known + 1 };
        let is_stored = stored.is_some() && self.store(job, record).await;
        let mut remembered = self.remembered.lock();
        if is_stored {
            remembered.remove(job);
        } else {
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(job.to_owned(), record);
        }
        record.count
    }

    /// What the stream knows against a job; `None` where it can't be asked.
    async fn stored(&self, job: &str) -> Option<Failures> {
        let subject = self.subject(job);
        let read = self.stream.as_ref()?.get_last_raw_message_by_subject(&subject);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(message)) => Some(serde_json::from_slice(&message.payload).unwrap_or_default()),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Some(Failures::default()),
            Ok(Err(error)) => {
                tracing::debug!(subject, %error, "the failed attempts of a job can't be read");
                None
            }
            Err(_) => None,
        }
    }

    async fn store(&self, job: &str, record: Failures) -> bool {
        let body = serde_json::to_vec(&record).unwrap_or_default();
        let publish = async {
            let sent = self.jetstream.publish(self.subject(job), body.into()).await?;
            sent.await
        };
        let stored: Result<_, _> = tokio::time::timeout(PATIENCE, publish).await;
        let reason = match stored {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        if rate_limited::is_new("a failed attempt is not stored", None) {
            tracing::warn!(reason, "a failed attempt is not stored; this worker remembers it");
        }
        false
    }

    fn subject(&self, job: &str) -> String {
        format!("{}.{job}", self.subject)
    }
}
