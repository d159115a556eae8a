//! Reads the answers of one run as they are published, and shows them as a table.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::door::stream::topology::Subjects;

/// How wide the column of images is.
const COLUMN: usize = 28;

/// What became of a run.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) tagged: u64,
    pub(super) dead: u64,
}

/// Reads the results and dead letters of one subject.
pub(super) struct Follower {
    results: Ordered,
    dead: Ordered,
    bar: ProgressBar,
}

/// What is shown of a result.
#[derive(Deserialize)]
struct Result {
    id: String,
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    score: f64,
}

/// What is shown of a dead letter.
#[derive(Deserialize)]
struct Dead {
    id: String,
    error: Error,
}

#[derive(Deserialize)]
struct Error {
    code: String,
    message: String,
}

impl Follower {
    /// Reads what answers the jobs of `job_subject`, from the first on.
    pub(super) async fn start(jetstream: &Context, subjects: &Subjects, job_subject: &str) -> anyhow::Result<Self> {
        let results = answers(jetstream, subjects.result_for(job_subject), &subjects.results_stream()).await?;
        let dead = answers(jetstream, subjects.dead_for(job_subject), &subjects.dead_stream()).await?;
        let style = "{spinner} {pos}/{len} answered, {per_sec}, {eta} left";
        let bar =
            ProgressBar::new(0).with_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Self { results, dead, bar })
    }

    /// Shows answers until there are as many as `published` says there will be.
    pub(super) async fn run(mut self, mut published: oneshot::Receiver<u64>) -> Summary {
        let (mut summary, mut expected) = (Summary::default(), None);
        self.line(&format!("{:COLUMN$}  TAGS", "IMAGE"));
        while expected.is_none_or(|expected| summary.tagged + summary.dead < expected) {
            tokio::select! {
                count = &mut published, if expected.is_none() => {
                    let Ok(count) = count else { break };
                    self.bar.set_length(count);
                    expected = Some(count);
                }
                Some(Ok(message)) = self.results.next() => {
                    summary.tagged += 1;
                    self.bar.inc(1);
                    self.line(&result(&message.payload));
                }
                Some(Ok(message)) = self.dead.next() => {
                    summary.dead += 1;
                    self.bar.inc(1);
                    self.line(&dead(&message.payload));
                }
            }
        }
        self.bar.finish_and_clear();
        summary
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }
}

async fn answers(jetstream: &Context, subject: String, stream: &str) -> anyhow::Result<Ordered> {
    let stream = jetstream
        .get_stream_no_info(stream)
        .await
        .with_context(|| format!("the stream {stream} can't be read; start a worker first, which makes it"))?;
    let config = OrderedConfig { filter_subject: subject, ..OrderedConfig::default() };
    let consumer = stream
        .create_consumer(config)
        .await
        .context("answers can't be read; start a worker first, which makes their stream")?;
    Ok(consumer.messages().await?)
}

fn result(payload: &[u8]) -> String {
    match serde_json::from_slice::<Result>(payload) {
        Ok(Result { id, tags }) => {
            let tags: Vec<_> = tags.iter().map(|tag| format!("{} {:.2}", tag.name, tag.score)).collect();
            let tags = if tags.is_empty() { "(none over the thresholds)".to_owned() } else { tags.join("  ") };
            format!("{id:COLUMN$}  {tags}")
        }
        Err(error) => format!("{:COLUMN$}  unreadable result: {error}", "?"),
    }
}

fn dead(payload: &[u8]) -> String {
    match serde_json::from_slice::<Dead>(payload) {
        Ok(Dead { id, error }) => format!("{id:COLUMN$}  FAILED {}: {}", error.code, error.message),
        Err(error) => format!("{:COLUMN$}  unreadable dead letter: {error}", "?"),
    }
}
