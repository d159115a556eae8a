//! Reads the stream of dead letters.

use std::borrow::Cow;
use std::collections::HashSet;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::{Context, stream::Stream};
use async_nats::{HeaderMap, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::dead::DeadFilter;
use crate::nats::headers::retry_of;
use crate::nats::subjects::Subjects;
use crate::source::stream::evidence;
use crate::source::stream::filter::overlap;
use crate::telemetry::say;

/// A dead letter as it is read; see [`crate::tags::DeadLetter`].
#[derive(Deserialize, Serialize)]
pub(super) struct Letter {
    /// Where it stands in its stream.
    #[serde(skip_deserializing)]
    pub(super) sequence: u64,
    pub(super) id: String,
    pub(super) subject: String,
    job: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_sha256: Option<String>,
    pub(super) error: Error,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_of: Option<String>,
    attempts: u64,
    worker: String,
    pub(super) at: String,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Error {
    pub(super) code: String,
    pub(super) message: String,
}

/// What a job is about.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
}

/// A job that is no text, and nothing else: a JSON job may have a field of that name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

impl Letter {
    fn parse(sequence: u64, payload: &[u8]) -> anyhow::Result<Self> {
        let letter: Self =
            serde_json::from_slice(payload).with_context(|| format!("message {sequence} is no dead letter"))?;
        Ok(Self { sequence, ..letter })
    }

    /// The image as the job names it; a dash of a job that is none, or that has the image inside.
    pub(super) fn image(&self) -> Cow<'_, str> {
        let named = self.job.as_ref().and_then(|job| serde_json::from_str(job.get()).ok());
        named.map(|Named { image }| image).filter(|image| !image.starts_with("data:")).unwrap_or("-".into())
    }

    /// The job's payload as it was published.
    pub(super) fn original_job(&self) -> anyhow::Result<Bytes> {
        let Some(job) = &self.job else {
            bail!("its job was too large to keep; publish it again from where it came");
        };
        if let Ok(text) = serde_json::from_str::<String>(job.get()) {
            return Ok(text.into());
        }
        if let Ok(Base64 { base64 }) = serde_json::from_str(job.get()) {
            return Ok(STANDARD.decode(base64)?.into());
        }
        Ok(Bytes::copy_from_slice(job.get().as_bytes()))
    }
}

/// The letters a filter lets through, oldest first.
pub(super) struct Letters {
    pub(super) jetstream: Context,
    pub(super) subjects: Subjects,
    stream: Stream,
    code: Option<String>,
    subject: Option<String>,
    /// Letters that are left out, because their jobs were retried and have another answer.
    closed: HashSet<String>,
    messages: Option<Ordered>,
}

impl Letters {
    /// With the `closed` ones, or those alone that no other answer has come after.
    pub(super) async fn open(
        jetstream: Context,
        subjects: &Subjects,
        filter: &DeadFilter,
        closed: bool,
    ) -> anyhow::Result<Self> {
        let name = subjects.dead_stream();
        let stream = jetstream.get_stream(&name).await.with_context(|| {
            format!("the stream {name} can't be read; `tagmill init` makes it (is --prefix the workers'?)")
        })?;
        let filter_subject = filter.subject.as_deref().map(|subject| subjects.dead_filter(subject)).unwrap_or_default();
        let mut left_out = HashSet::new();
        if !closed {
            left_out = retried(&stream).await?;
            left_out.extend(tagged(&jetstream, subjects).await?);
        }
        let consumer = stream.create_consumer(OrderedConfig { filter_subject, ..OrderedConfig::default() }).await?;
        // Without any, its messages would be waited for.
        let some = consumer.cached_info().num_pending > 0;
        let messages = if some { Some(consumer.messages().await?) } else { None };
        let DeadFilter { code, subject } = filter.clone();
        Ok(Self { jetstream, subjects: subjects.clone(), stream, code, subject, closed: left_out, messages })
    }

    /// The next letter, or none where there were no more when this began.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        while let Some(messages) = &mut self.messages {
            let Some(message) = messages.next().await.transpose()? else { break };
            let info = message.info().map_err(anyhow::Error::from_boxed)?;
            let (sequence, left) = (info.stream_sequence, info.pending);
            if left == 0 {
                self.messages = None;
            }
            match Letter::parse(sequence, &message.payload) {
                Ok(letter) if self.lets_through(&letter) => return Ok(Some(letter)),
                Ok(_) => {}
                Err(error) => say(format_args!("{error:#}")),
            }
        }
        Ok(None)
    }

    fn lets_through(&self, letter: &Letter) -> bool {
        if !self.closed.is_empty() && self.closed.contains(&self.message_id(letter.sequence)) {
            return false;
        }
        // What the stream has on one subject is of jobs and of requests.
        let is_on = |subject: &String| overlap(subject, &letter.subject);
        self.code.as_ref().is_none_or(|code| *code == letter.error.code) && self.subject.as_ref().is_none_or(is_on)
    }

    /// One letter again, whole, with its headers.
    pub(super) async fn get(&self, sequence: u64) -> anyhow::Result<(Letter, HeaderMap)> {
        let message = self.stream.get_raw_message(sequence).await?;
        Ok((Letter::parse(sequence, &message.payload)?, message.headers))
    }

    pub(super) async fn delete(&self, sequence: u64) -> anyhow::Result<()> {
        self.stream.delete_message(sequence).await?;
        Ok(())
    }

    /// An id for what is published in place of a letter.
    pub(super) fn message_id(&self, sequence: u64) -> String {
        let info = self.stream.cached_info();
        format!("{}-{}-{sequence}", info.config.name, info.created.unix_timestamp())
    }
}

/// The letters that others name as the one before: their jobs were retried and came to another.
async fn retried(stream: &Stream) -> anyhow::Result<HashSet<String>> {
    let mut letters = HashSet::new();
    let note = |message: &Message| letters.extend(message.headers.as_ref().and_then(retry_of));
    each(stream, String::new(), note).await?;
    Ok(letters)
}

/// The letters whose jobs were retried and tagged, as workers note in a stream that there may not be, or not for this login.
async fn tagged(jetstream: &Context, subjects: &Subjects) -> anyhow::Result<HashSet<String>> {
    let (mut letters, prefix) = (HashSet::new(), evidence::closed_prefix(subjects));
    let Ok(stream) = jetstream.get_stream(evidence::stream_name(subjects)).await else { return Ok(letters) };
    let note = |message: &Message| letters.extend(message.subject.strip_prefix(&prefix).map(str::to_owned));
    each(&stream, format!("{prefix}*"), note).await?;
    Ok(letters)
}

/// Reads the headers of all messages that a filter lets through, without their payloads, which are large.
async fn each(stream: &Stream, filter_subject: String, mut note: impl FnMut(&Message)) -> anyhow::Result<()> {
    let config = OrderedConfig { filter_subject, headers_only: true, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await?;
    let mut left = consumer.cached_info().num_pending;
    if left == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await?;
    while left > 0 {
        let Some(message) = messages.next().await.transpose()? else { break };
        left = message.info().map_err(anyhow::Error::from_boxed)?.pending;
        note(&message.message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(json: &str) -> anyhow::Result<Bytes> {
        let error = r#"{"code":"bad_job","message":"m"}"#;
        let rest = format!(r#""id":"1","subject":"s","error":{error},"attempts":1,"worker":"w","at":"t""#);
        Letter::parse(1, format!(r#"{{{rest},"job":{json}}}"#).as_bytes())?.original_job()
    }

    #[test]
    fn a_job_is_given_back_as_it_was_published() {
        assert_eq!(job(r#"{"image": "a"}"#).expect("JSON"), r#"{"image": "a"}"#);
        assert_eq!(job(r#""no job""#).expect("a text"), "no job");
        assert_eq!(job(r#"{"base64":"/wA="}"#).expect("bytes"), [255, 0].as_slice());
        let like_it = r#"{"base64":"/wA=","image":"a"}"#;
        assert_eq!(job(like_it).expect("JSON"), like_it, "a job may have a field of that name");
        assert!(job(r#"{"base64":"?"}"#).is_err());
        assert!(job("null").expect_err("none").to_string().contains("too large to keep"));
        assert!(Letter::parse(7, b"{}").err().expect("no letter").to_string().contains("message 7"));
    }
}
