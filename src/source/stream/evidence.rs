//! Evidence against jobs: how often a job failed by itself, and how many of its deliveries ended unexplained, as those of a
//! worker that crashed. The server's count of deliveries shows neither, because it includes every hand-back; so the evidence
//! is kept in a stream of its own, where it survives the worker. The same stream records the dead letters that are closed,
//! because their jobs were retried and tagged.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::topology::Identity;
use crate::nats::subjects::Subjects;
use crate::telemetry::rate_limited;

/// Time for which records are kept: as long as dead letters.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// Size of the stream: beyond it the oldest evidence goes, which only delays a quarantine or a dead letter.
const MAX_BYTES: i64 = 64 << 20;

/// Time limit of the server for a record to be read or stored.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Records kept in memory where the stream can't be used.
const REMEMBERED: usize = 10_000;

/// Failures recorded for a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Failures {
    /// Attempts that failed by the job's own fault.
    count: u64,
}

/// Deliveries of a message up to the last one that a worker gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Deliveries {
    /// Number of the last delivery that was given back, from 1.
    pub(super) given_back: u64,
    /// Deliveries before it that ended unexplained.
    pub(super) unexplained: u64,
}

impl Deliveries {
    /// Deliveries before number `current` that ended unexplained.
    pub(super) const fn unexplained_before(self, current: u64) -> u64 {
        self.unexplained + current.saturating_sub(1).saturating_sub(self.given_back)
    }
}

/// The evidence against the jobs of one stream.
#[derive(Debug)]
pub(super) struct Evidence {
    client: Client,
    jetstream: Context,
    /// `None` where there is none: then each worker keeps its own.
    stream: Option<Stream>,
    /// Prefix of subjects.
    subject: String,
    /// The same, of letters that are closed.
    closed: String,
    /// By the job: its sequence, and its number where it is a record of an event.
    remembered: Mutex<HashMap<String, Failures>>,
}

/// The stream's name.
pub(crate) fn stream_name(subjects: &Subjects) -> String {
    subjects.stream("EVIDENCE")
}

/// Prefix of the subjects that name closed letters, by their message ids.
pub(crate) fn closed_prefix(subjects: &Subjects) -> String {
    format!("{subjects}.evidence.closed.")
}

/// The stream's settings, where it is created.
pub(super) fn config(subjects: &Subjects, replicas: usize) -> Config {
    Config {
        name: stream_name(subjects),
        subjects: vec![format!("{subjects}.evidence.>")],
        max_messages_per_subject: 1,
        max_bytes: MAX_BYTES,
        max_age: KEPT,
        num_replicas: replicas,
        ..Config::default()
    }
}

impl Evidence {
    /// Finds or makes the stream.
    pub(super) async fn open(client: Client, subjects: &Subjects, replicas: usize, identity: &Identity) -> Self {
        let jetstream = async_nats::jetstream::new(client.clone());
        let stream = match jetstream.get_or_create_stream(config(subjects, replicas)).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                let stream = subjects.stream("EVIDENCE");
                tracing::warn!(stream, %error, "cannot use the stream of evidence; this worker counts failed attempts for itself");
                None
            }
        };
        // A stream that was made anew has other jobs under the same sequences.
        let subject = format!("{subjects}.evidence.{}", identity.created.unix_timestamp_nanos());
        let closed = closed_prefix(subjects);
        Self { client, jetstream, stream, subject, closed, remembered: Mutex::default() }
    }

    /// Records that the job of a dead letter was tagged. Without the record the letter is only listed as open.
    pub(super) async fn close(&self, letter: &str) {
        let is_word = letter.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if self.stream.is_some() && is_word {
            self.publish(format!("{}{letter}", self.closed), Vec::new()).await;
        }
    }

    /// Reads how the deliveries of a message ended; of one that no worker gave back, or where the stream can't be read, nothing is
    /// explained: the message is quarantined sooner, not later.
    pub(super) async fn deliveries(&self, sequence: u64) -> Deliveries {
        self.read(&self.of_deliveries(sequence)).await.unwrap_or_default()
    }

    /// Records a delivery that is given back. The server need not confirm it: a lost record leaves one delivery unexplained.
    pub(super) async fn give_back(&self, sequence: u64, deliveries: Deliveries) {
        if self.stream.is_none() {
            return;
        }
        let body = serde_json::to_vec(&deliveries).unwrap_or_default();
        if let Err(error) = self.client.publish(self.of_deliveries(sequence), body.into()).await {
            tracing::debug!(sequence, %error, "cannot record that a delivery is given back");
        }
    }

    /// Counts a failure of a job, which is its sequence, with its number where it is a record of an event; returns the number of
    /// its failures. Where the stream can't be read its count is left alone: the job gets one attempt more, not fewer.
    pub(super) async fn failed(&self, job: &str) -> u64 {
        let remembered = self.remembered.lock().get(job).copied().unwrap_or_default();
        let subject = format!("{}.failures.{job}", self.subject);
        let stored: Option<Failures> = self.read(&subject).await;
        let known = stored.unwrap_or_default().count.max(remembered.count);
        let record = Failures { count: known + 1 };
        let is_stored = stored.is_some() && self.store(subject, record).await;
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

    /// Reads the record under a subject; `None` where the stream can't be read.
    async fn read<R: DeserializeOwned + Default>(&self, subject: &str) -> Option<R> {
        let read = self.stream.as_ref()?.get_last_raw_message_by_subject(subject);
        match tokio::time::timeout(TIMEOUT, read).await {
            Ok(Ok(message)) => Some(serde_json::from_slice(&message.payload).unwrap_or_default()),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Some(R::default()),
            Ok(Err(error)) => {
                tracing::debug!(subject, %error, "cannot read evidence");
                None
            }
            Err(_) => None,
        }
    }

    async fn store(&self, subject: String, record: Failures) -> bool {
        self.publish(subject, serde_json::to_vec(&record).unwrap_or_default()).await
    }

    /// Returns `true` if the stream has confirmed a record.
    async fn publish(&self, subject: String, body: Vec<u8>) -> bool {
        let publish = async {
            let sent = self.jetstream.publish(subject, body.into()).await?;
            sent.await
        };
        let stored: Result<_, _> = tokio::time::timeout(TIMEOUT, publish).await;
        let reason = match stored {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        if rate_limited::is_new("cannot store a failed attempt", None) {
            tracing::warn!(reason, "cannot store a failed attempt; this worker remembers it");
        }
        false
    }

    fn of_deliveries(&self, sequence: u64) -> String {
        format!("{}.deliveries.{sequence}", self.subject)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However deliveries end, those that ended unexplained are counted, and no other.
        #[test]
        fn deliveries_that_were_given_back_are_explained(given_back in proptest::collection::vec(any::<bool>(), 0..50)) {
            let (mut record, mut unexplained) = (Deliveries::default(), 0);
            for (number, given_back) in (1..).zip(given_back) {
                prop_assert_eq!(record.unexplained_before(number), unexplained);
                if given_back {
                    record = Deliveries { given_back: number, unexplained };
                } else {
                    unexplained += 1;
                }
            }
        }
    }
}
