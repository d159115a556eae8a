//! Reads the answers of one run as they are published, and counts them. None is kept.
//!
//! The run is over when the last job is out of the queue and what was published for it is read: a job leaves the queue only
//! once its answer is confirmed. So jobs that are published twice and jobs that somebody else removes do no harm.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::checkpoint::{Count, Shown};
use super::publish::START;
use super::screen::Screen;
use super::show::{Kind, Show};
use crate::nats::subjects::{SERVICE, Subjects};
use crate::nats::{Nats, is_passing};

/// How often the queue is looked at: when there are as many answers as jobs, and before.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long to wait where answers can't be read.
const AGAIN: Duration = Duration::from_secs(1);

/// How long no answer may come before it is looked for somebody who works on the queue.
const QUIET: Duration = Duration::from_secs(5);

/// How long workers may take to say that they are there.
const PING: Duration = Duration::from_secs(1);

/// Answers that were read and are not shown yet.
const READ: usize = 64;

/// What became of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    pub(super) tagged: u64,
    pub(super) dead: u64,
    /// Jobs that left the queue without an answer.
    pub(super) missing: u64,
}

/// Reads the results and dead letters of one run.
pub(super) struct Follower {
    client: Client,
    prefix: String,
    queue: Stream,
    job_subject: String,
    results: Answers,
    dead: Answers,
    arriving: mpsc::Receiver<Answer>,
    /// Answers of this run and earlier ones.
    shown: watch::Sender<Shown>,
    screen: Screen,
    show: Show,
    _readers: JoinSet<()>,
}

/// The answers of one kind.
struct Answers {
    stream: Stream,
    subject: String,
}

/// What a worker says that is asked whether it is there.
#[derive(Deserialize)]
struct Pong {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    prefix: String,
}

struct Answer {
    kind: Kind,
    sequence: u64,
    payload: Bytes,
}

impl Follower {
    /// Reads what answers the jobs of `job_subject`, from the first on that was not `shown` by an earlier run; with what is
    /// shown, which goes on as answers come.
    pub(super) async fn start(
        nats: &Nats,
        subjects: &Subjects,
        job_subject: &str,
        screen: Screen,
        show: Show,
        shown: Shown,
    ) -> anyhow::Result<(Self, watch::Receiver<Shown>)> {
        let jetstream = &jetstream::new(nats.client.clone());
        let queue = stream(jetstream, &subjects.jobs_stream(), &screen).await?;
        let results = stream(jetstream, &subjects.results_stream(), &screen).await?;
        let results = Answers { stream: results, subject: subjects.result_for(job_subject) };
        let dead = stream(jetstream, &subjects.dead_stream(), &screen).await?;
        let dead = Answers { stream: dead, subject: subjects.dead_for(job_subject) };
        let streams = format!("{}-{}", results.created(), dead.created());
        // A file that was begun anew lacks them.
        let goes_on = shown.streams == streams && show.has(shown.count.0 + shown.count.1);
        let shown = if goes_on { shown } else { Shown { streams, ..Shown::default() } };
        let (sender, arriving) = mpsc::channel(READ);
        let mut readers = JoinSet::new();
        readers.spawn(read(Kind::Result, results.messages(shown.last.0).await?, sender.clone()));
        readers.spawn(read(Kind::Dead, dead.messages(shown.last.1).await?, sender));
        let (client, prefix, job_subject) = (nats.client.clone(), subjects.to_string(), job_subject.to_owned());
        let (shown, seen) = watch::channel(shown);
        let this = Self {
            client,
            prefix,
            queue,
            job_subject,
            results,
            dead,
            arriving,
            shown,
            screen,
            show,
            _readers: readers,
        };
        Ok((this, seen))
    }

    /// Shows answers until every job that was `published` has left the queue; it is over when its sender is gone.
    pub(super) async fn run(mut self, mut published: watch::Receiver<Count>) -> anyhow::Result<Summary> {
        let earlier = self.shown.borrow().count;
        let (mut publishing, mut empty, mut last) = (true, false, None);
        let (mut look, mut quiet) = (Instant::now(), Some(Instant::now() + QUIET));
        self.show.begin(&self.screen)?;
        loop {
            let expected = published.borrow().published;
            let Shown { last: read, count: (tagged, dead), .. } = *self.shown.borrow();
            if last.is_some_and(|(result, letter)| read.0 >= result && read.1 >= letter) {
                self.show.end()?;
                let missing = expected.saturating_sub(tagged + dead);
                return Ok(Summary { tagged: tagged - earlier.0, dead: dead - earlier.1, missing });
            }
            let all = tagged + dead >= expected;
            if all {
                quiet = quiet.map(|_| Instant::now() + QUIET);
            }
            tokio::select! {
                answer = self.arriving.recv() => {
                    let Some(answer) = answer else { bail!("the answers can't be read any more") };
                    self.take(&answer)?;
                    quiet = quiet.map(|_| Instant::now() + QUIET);
                    if tagged + dead + 1 == expected {
                        look = Instant::now();
                    }
                }
                changed = published.changed(), if publishing => if changed.is_err() {
                    (publishing, look) = (false, Instant::now());
                },
                () = sleep_until(look), if !publishing && last.is_none() => {
                    let found = self.last().await?;
                    // That answers are missing is not believed at the first look.
                    last = found.filter(|_| all || empty);
                    empty = found.is_some();
                    look = Instant::now() + if all { LOOK.0 } else { LOOK.1 };
                }
                () = sleep_until(quiet.unwrap_or(look)), if !all && quiet.is_some() => {
                    // Said once.
                    let alone = self.is_left_alone().await;
                    quiet = (!alone).then(|| Instant::now() + QUIET);
                }
            }
        }
    }

    fn take(&mut self, Answer { kind, sequence, payload }: &Answer) -> anyhow::Result<()> {
        self.screen.answered();
        self.show.answer(&self.screen, *kind, payload)?;
        self.shown.send_modify(|Shown { last, count, .. }| match kind {
            Kind::Result => (last.0, count.0) = (*sequence, count.0 + 1),
            Kind::Dead => (last.1, count.1) = (*sequence, count.1 + 1),
        });
        Ok(())
    }

    /// Whether there is no worker; says so.
    async fn is_left_alone(&self) -> bool {
        let alone = self.has_worker().await == Some(false);
        if alone {
            self.screen
                .say("there is no worker at the moment; jobs wait in the queue until there is (`tagmill worker`)");
        }
        alone
    }

    /// Whether a worker of this prefix answers, as far as can be known.
    async fn has_worker(&self) -> Option<bool> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
        self.client.publish_with_reply(format!("$SRV.PING.{SERVICE}"), inbox, Bytes::new()).await.ok()?;
        let (mut heard, deadline) = (None, Instant::now() + PING);
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                return Some(false);
            }
            let pong: Pong = serde_json::from_slice(&answer.payload).ok()?;
            if pong.metadata.prefix == self.prefix {
                return Some(true);
            }
            // Of another prefix.
            heard = Some(false);
        }
        heard
    }

    /// The sequences of the last result and the last dead letter, where no more can come.
    ///
    /// # Errors
    /// Where a stream is gone, and jobs or answers with it.
    async fn last(&self) -> anyhow::Result<Option<(u64, u64)>> {
        let last = async {
            // Not the counts by subject of the stream's state: servers up to 2.9 leave out subjects that do have messages.
            if last_on(&self.queue, &self.job_subject).await?.is_some() {
                return Ok(None);
            }
            Ok::<_, LastRawMessageError>(Some((self.results.last().await?, self.dead.last().await?)))
        };
        match last.await {
            Ok(last) => Ok(last),
            Err(error) if is_gone(&error) => Err(error).context("a stream is gone, and jobs or answers with it"),
            Err(error) => {
                tracing::warn!(%error, "the queue can't be looked at; trying again");
                Ok(None)
            }
        }
    }
}

impl Answers {
    /// When the stream was made, in Unix seconds.
    fn created(&self) -> i64 {
        self.stream.cached_info().created.unix_timestamp()
    }

    /// Those after this sequence.
    async fn messages(&self, after: u64) -> anyhow::Result<Ordered> {
        let deliver_policy = match after {
            0 => DeliverPolicy::All,
            _ => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        };
        let config = OrderedConfig { filter_subject: self.subject.clone(), deliver_policy, ..OrderedConfig::default() };
        Ok(self.stream.create_consumer(config).await.context("answers can't be read")?.messages().await?)
    }

    async fn last(&self) -> Result<u64, LastRawMessageError> {
        Ok(last_on(&self.stream, &self.subject).await?.unwrap_or_default())
    }
}

/// The sequence of the last message there is on a subject.
async fn last_on(stream: &Stream, subject: &str) -> Result<Option<u64>, LastRawMessageError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message.sequence)),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &LastRawMessageError) -> bool {
    let code = ErrorCode::STREAM_NOT_FOUND;
    matches!(error.kind(), LastRawMessageErrorKind::JetStream(reply) if reply.error_code() == code)
}

/// A stream, which may be made in this moment.
async fn stream(jetstream: &Context, name: &str, screen: &Screen) -> anyhow::Result<Stream> {
    let (began, mut said) = (Instant::now(), false);
    loop {
        let error = match jetstream.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let reason = match error.kind() {
            GetStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                format!("there is no stream {name}, which `tagmill init` or a worker makes")
            }
            GetStreamErrorKind::JetStream(reply) if is_passing(&reply) => format!("the stream {name} can't be read"),
            _ => return Err(error).with_context(|| format!("the stream {name} can't be read")),
        };
        if began.elapsed() > START {
            return Err(error).context(format!("{reason}; run `tagmill init` first"));
        }
        if !std::mem::replace(&mut said, true) {
            screen.say(&format!("{reason}; trying again"));
        }
        sleep(AGAIN).await;
    }
}

/// Passes on messages as they come. A consumer that is lost is made again by the client.
async fn read(kind: Kind, mut messages: Ordered, answers: mpsc::Sender<Answer>) {
    while let Some(next) = messages.next().await {
        let answer = next.map_err(anyhow::Error::from).and_then(|message| {
            let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
            Ok(Answer { kind, sequence, payload: message.message.payload })
        });
        match answer {
            Ok(answer) => {
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "answers can't be read; trying again");
                sleep(AGAIN).await;
            }
        }
    }
}
