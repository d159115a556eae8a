//! **batch**: [`Ready`] rows of one model become [`Batch`]es. The rule is [`window`]'s; this is the shell around it that
//! has the clock and the channels. Fails no job.

pub mod limit;
pub mod window;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, oneshot};

use super::decode::{Input, Ready};
use super::queue::{self, Queued};
use super::tag::Model;
use super::{Ended, Flight};
use crate::failure::{Code, Failure};
use crate::telemetry::metrics;
use limit::Limit;
use window::{Decision, Flush, Room, Window};

/// How rows are gathered.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rows a batch has at most.
    pub limit: usize,
    /// How long a row waits for company.
    pub window: Duration,
}

/// Rows that run together.
pub struct Batch {
    /// The rows, oldest first.
    pub rows: Vec<Row>,
}

/// What the thread that owns a model is given to do.
pub enum Work {
    /// Tag these.
    Batch(Batch),
    /// Show what it can do.
    Trial(Trial),
}

/// Blank images to run at once, to see how long that takes.
pub struct Trial {
    /// How many.
    pub rows: usize,
    /// How long they took, or why they did not run.
    pub answer: oneshot::Sender<Result<Duration, Failure>>,
}

/// One row of a batch.
pub struct Row {
    /// The job.
    pub flight: Flight,
    /// Its part of the model's input.
    pub input: Input,
    /// When it was ready.
    pub ready: Instant,
}

/// The way to one loaded model: where its rows go, and what is on its way there.
pub struct Lane {
    /// The model.
    pub model: Arc<Model>,
    /// Where ready rows go.
    pub rows: queue::Sender<Ready>,
    /// What comes of them.
    tag: Sender<Work>,
    traffic: Arc<Traffic>,
}

/// What happens around a lane's queue, for its window to decide by.
#[derive(Debug)]
pub struct Traffic {
    coming: AtomicUsize,
    running: AtomicUsize,
    limit: Mutex<Limit>,
    /// Batches that can run at once: one on each device.
    devices: usize,
    /// Whether the devices want a batch to be ready when they are done with one.
    ahead: bool,
    changed: Notify,
}

/// A job on its way to a lane.
pub struct Heading {
    /// Where it goes.
    pub lane: Arc<Lane>,
    /// Counts it as coming.
    pub approach: Approach,
}

/// Counts one job as on its way to a lane, until dropped.
#[derive(Debug)]
pub struct Approach(Arc<Traffic>);

impl Lane {
    /// A lane with batches of this size that go to `tag`, and the rows that come out of it.
    #[must_use]
    pub fn new(model: Arc<Model>, limit: Limit, tag: Sender<Work>) -> (Arc<Self>, queue::Receiver<Ready>) {
        let (rows, ready) = queue::bounded(1);
        metrics::batch_limit(&model.id.name, limit.rows());
        let (limit, devices, ahead) = (Mutex::new(limit), model.devices.len(), model.wants_batches_ahead());
        let (coming, running) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let traffic = Traffic { coming, running, limit, devices, ahead, changed: Notify::new() };
        (Arc::new(Self { model, rows, tag, traffic: Arc::new(traffic) }), ready)
    }

    /// Runs so many blank images at once, between two batches; how long that took.
    ///
    /// # Errors
    /// What the runtime says, or `shutting_down`.
    pub async fn try_out(&self, rows: usize) -> Result<Duration, Failure> {
        let gone = || Failure::new(Code::ShuttingDown, "the model is being unloaded");
        let (answer, answered) = oneshot::channel();
        self.tag.send(Work::Trial(Trial { rows, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// What its window decides by.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

impl Heading {
    /// Heads for this lane.
    #[must_use]
    pub fn to(lane: &Arc<Lane>) -> Self {
        let traffic = lane.traffic();
        traffic.coming.fetch_add(1, Ordering::AcqRel);
        Self { lane: Arc::clone(lane), approach: Approach(traffic) }
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

impl Traffic {
    fn room(&self) -> Room {
        match self.running.load(Ordering::Acquire) {
            running if running < self.devices => Room::Now,
            running if self.ahead && running < 2 * self.devices => Room::Ahead,
            _ => Room::None,
        }
    }

    /// What the device made of a batch: changes the limit, and gives the new one where it did.
    pub fn learn(&self, learn: impl FnOnce(&mut Limit)) -> Option<usize> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = limit.rows();
        learn(&mut limit);
        (limit.rows() != before).then_some(limit.rows())
    }

    fn limit(&self) -> usize {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).rows()
    }

    /// A batch has left the device.
    pub fn batch_done(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }
}

/// Batches until `ready` closes, then flushes what is left.
///
/// # Errors
/// Where the tag stage is gone.
pub async fn run(
    settings: Settings,
    model: Arc<Model>,
    mut ready: queue::Receiver<Ready>,
    traffic: Arc<Traffic>,
    tag: Sender<Work>,
) -> Result<(), Ended> {
    let name = &*model.id.name;
    let mut window = Window::new(settings.window, settings.limit);
    loop {
        let now = Instant::now();
        window.set_limit(traffic.limit());
        let deadline = match window.decide(now, traffic.room(), traffic.coming.load(Ordering::Acquire)) {
            Decision::Flush(reason) => {
                flush(name, &mut window, reason, &traffic, &tag).await?;
                continue;
            }
            Decision::Until(time) => Some(time),
            Decision::Wait => None,
        };
        tokio::select! {
            // Rows are taken in as they come, so that an urgent one is never kept out by others: what is in flight, and
            // the memory that rows hold of the budget, is what bounds them.
            row = ready.recv() => match row {
                Some(ready) => {
                    let urgent = ready.is_urgent();
                    let Ready { flight, approach, input } = ready;
                    window.push(Instant::now(), urgent, (flight, input));
                    drop(approach);
                }
                None => break,
            },
            () = traffic.changed.notified() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => {}
        }
    }
    while !window.is_empty() {
        flush(name, &mut window, Flush::Drain, &traffic, &tag).await?;
    }
    Ok(())
}

async fn flush(
    model: &str,
    window: &mut Window<(Flight, Input)>,
    reason: Flush,
    traffic: &Traffic,
    tag: &Sender<Work>,
) -> Result<(), Ended> {
    let row = |(ready, (flight, input))| Row { flight, input, ready };
    let rows: Vec<Row> = window.take().into_iter().map(row).collect();
    metrics::batch(model, reason, rows.len());
    traffic.running.fetch_add(1, Ordering::AcqRel);
    // There is room, or soon will be after a trial: the window was told so.
    tag.send(Work::Batch(Batch { rows })).await.map_err(|_| Ended::NextGone)
}
