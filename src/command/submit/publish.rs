//! Publishes jobs, many at a time, until each is confirmed: a full stream and a server that is away are waited for.

mod window;

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, HeaderValue};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::how_many;
use super::checkpoint::{Checkpoint, Count};
use super::screen::Screen;
use super::show::Existing;
use super::source::{Item, Position};
use crate::nats::{Nats, is_full, reply};
use crate::telemetry::say;
use window::{Confirmed, Window};

/// Time limit for a job to be taken.
const TAKE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a worker that starts may take to make the streams.
pub(super) const START: Duration = Duration::from_secs(30);

/// How long an interrupted run waits for what is under way.
const CLOSING: Duration = Duration::from_secs(2);

/// Told to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// What jobs are published with.
pub(super) struct Publisher {
    nats: Nats,
    jetstream: Context,
    subject: String,
    /// Of the sources, for messages.
    names: Vec<String>,
    screen: Screen,
    stop: CancellationToken,
    said: [AtomicBool; 2],
    /// Jobs left out for their results.
    skipped: AtomicU64,
}

/// Why a job is not stored.
enum Refused {
    /// There will be room once workers have done others.
    Full(String),
    /// The server is not there, or says nothing.
    Away(String),
    /// No stream takes the subject.
    Nobody,
    /// This job is never taken.
    Never(anyhow::Error),
}

/// A job by its number, and what became of it.
type Answered = (u64, Item, Result<PublishAck, Refused>);

impl Publisher {
    pub(super) fn new(
        nats: &Nats,
        subject: String,
        names: Vec<String>,
        screen: Screen,
        stop: CancellationToken,
    ) -> Self {
        let jetstream = jetstream::new(nats.client.clone());
        Self {
            nats: nats.clone(),
            jetstream,
            subject,
            names,
            screen,
            stop,
            said: Default::default(),
            skipped: AtomicU64::new(0),
        }
    }

    /// Publishes up to `limit` jobs and sees each confirmed; the checkpoint knows how far that went, however it ends.
    ///
    /// # Errors
    /// Where it was interrupted, a source can't be read further, or a job is not taken.
    pub(super) async fn run(
        &self,
        mut jobs: mpsc::Receiver<anyhow::Result<Item>>,
        existing: &Existing,
        limit: u64,
        checkpoint: &mut Checkpoint,
        counted: &watch::Sender<Count>,
    ) -> anyhow::Result<()> {
        let mut window = Window::new();
        let mut sending = FuturesUnordered::new();
        let mut left = limit.saturating_sub(checkpoint.count().jobs);
        let ended = loop {
            if left == 0 && sending.is_empty() && !window.is_waiting() {
                break Ok(());
            }
            let again = window.again();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Err(Interrupted.into()),
                Some((number, job, answer)) = sending.next() => {
                    let noted = self.answered(&mut window, number, job, answer);
                    if let Err(error) = noted.and_then(|()| self.note(&mut window, checkpoint, counted)) {
                        break Err(error);
                    }
                }
                // One asks for all: where one job is not taken, others are not.
                () = self.up_after(again), if window.is_waiting() && sending.is_empty() => {
                    for (number, job) in window.retry() {
                        sending.push(self.publish(number, job));
                    }
                }
                job = jobs.recv(), if left > 0 && window.has_room() => match job {
                    Some(Ok(job)) if checkpoint.has(job.hash()) => {}
                    Some(Ok(job)) if existing.has(&job.payload) => _ = self.skipped.fetch_add(1, Ordering::Relaxed),
                    Some(Ok(job)) => {
                        left -= 1;
                        sending.push(self.publish(window.enter(&job), job));
                    }
                    Some(Err(error)) => break Err(error),
                    None => left = 0,
                },
            }
        };
        let _ = tokio::time::timeout(CLOSING, arrived(&mut window, &mut sending)).await;
        self.note(&mut window, checkpoint, counted)?;
        checkpoint.write()?;
        ended
    }

    pub(super) const fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Says what this run has published, `before` by earlier ones.
    pub(super) fn said(&self, before: Count, after: Count, time: Duration) {
        let published = after.published - before.published;
        let mut text =
            format!("published {} on {} in {:.1} s", how_many(published, "job"), self.subject, time.as_secs_f64());
        let duplicates = after.jobs - before.jobs - published;
        if duplicates > 0 {
            let _ = write!(text, "; {duplicates} more were in the stream already (its duplicate window)");
        }
        if before.jobs > 0 {
            let _ = write!(text, "; {} by earlier runs of the checkpoint", before.jobs);
        }
        let skipped = self.skipped.load(Ordering::Relaxed);
        if skipped > 0 {
            let _ = write!(text, "; {} left out with a result in the file (--skip-existing)", how_many(skipped, "job"));
        }
        self.screen.aside(|| say(text));
    }

    fn answered(
        &self,
        window: &mut Window,
        number: u64,
        job: Item,
        answer: Result<PublishAck, Refused>,
    ) -> anyhow::Result<()> {
        let refused = match answer {
            Ok(ack) => {
                window.confirmed(number, &job, ack.duplicate);
                return Ok(());
            }
            Err(refused) => refused,
        };
        let since = window.refused_since();
        if is_given_up(&refused, window.was_taken(), since) {
            return Err(self.given_up(refused, &job));
        }
        self.say(&refused);
        window.refused(number, job);
        Ok(())
    }

    /// Counts what is confirmed without a gap.
    fn note(
        &self,
        window: &mut Window,
        checkpoint: &mut Checkpoint,
        counted: &watch::Sender<Count>,
    ) -> anyhow::Result<()> {
        while let Some(Confirmed { hash, duplicate, .. }) = window.leave() {
            checkpoint.confirmed(hash, duplicate)?;
            self.screen.published(checkpoint.count());
            counted.send_replace(checkpoint.count());
        }
        Ok(())
    }

    fn given_up(&self, refused: Refused, job: &Item) -> anyhow::Error {
        match refused {
            Refused::Never(error) => {
                let Position { source, last } = &job.at;
                let source = self.names.get(*source).map_or("", String::as_str);
                error.context(format!("the job of {last} ({source}) is not taken"))
            }
            Refused::Nobody => {
                anyhow::anyhow!("no stream takes jobs here; `tagmill init` makes it, or says why it can't")
            }
            Refused::Full(reason) | Refused::Away(reason) => self.nats.with_context(anyhow::anyhow!(
                "jobs are not confirmed ({reason}); may this user publish here, and does a stream take jobs? `tagmill init` makes it"
            )),
        }
    }

    /// Says what is waited for, once.
    fn say(&self, refused: &Refused) {
        let (said, text) = match refused {
            Refused::Full(reason) => {
                (&self.said[0], format!("the jobs stream is full ({reason}); publishing goes on as workers make room"))
            }
            Refused::Away(reason) => (&self.said[1], format!("jobs are not confirmed ({reason}); trying again")),
            Refused::Nobody => (
                &self.said[1],
                "no stream takes jobs at the moment; `tagmill init` or a worker makes it, where the server has JetStream; trying again"
                    .to_owned(),
            ),
            Refused::Never(_) => return,
        };
        if !said.swap(true, Ordering::Relaxed) {
            self.screen.say(&text);
        }
    }

    async fn up_after(&self, when: Instant) {
        sleep_until(when).await;
        self.nats.up().await;
    }

    async fn publish(&self, number: u64, job: Item) -> Answered {
        let message = PublishMessage::build().headers(headers(&job)).payload(job.payload.clone());
        let answer = match self.jetstream.send_publish(self.subject.clone(), message).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        (number, job, answer.map_err(refusal))
    }
}

/// The same job, of the same version of its image, is stored once.
fn headers(job: &Item) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, HeaderValue::from(hex::encode(job.id)));
    headers
}

/// What is under way may arrive still; what does not is not counted.
async fn arrived(window: &mut Window, sending: &mut (impl Stream<Item = Answered> + Unpin)) {
    while let Some((number, job, answer)) = sending.next().await {
        if let Ok(ack) = answer {
            window.confirmed(number, &job, ack.duplicate);
        }
    }
}

fn is_given_up(refused: &Refused, taken: bool, since: Instant) -> bool {
    match refused {
        Refused::Full(_) => false,
        // Perhaps we may not publish here: the server does not tell.
        Refused::Away(_) => !taken && since.elapsed() > TAKE_TIMEOUT,
        // A server that starts says so for a moment.
        Refused::Nobody => since.elapsed() > if taken { TAKE_TIMEOUT } else { START },
        Refused::Never(_) => true,
    }
}

fn refusal(error: PublishError) -> Refused {
    match error.kind() {
        PublishErrorKind::StreamNotFound => return Refused::Nobody,
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            return Refused::Away(error.to_string());
        }
        _ => {}
    }
    match reply(&error) {
        Some(reply) if is_full(reply) => Refused::Full(reply.to_string()),
        // A cluster without a leader, a server that starts.
        Some(reply) if reply.code() == 503 => Refused::Away(reply.to_string()),
        _ => Refused::Never(error.into()),
    }
}
