//! **batch**: [`Ready`] rows of one model become [`Batch`]es. The rule is [`window`]'s; this is the shell around it that
//! has the clock and the channels. Fails no job.

pub(crate) mod limit;
pub(crate) mod traffic;
pub mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::decode::{Input, Ready};
use super::queue::{self, Queued};
use super::tag::work::Work;
use super::{Ended, Flight};
use crate::telemetry::metrics;
use traffic::Traffic;
use window::{Decision, Flush, Window};

/// How rows are gathered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Rows a batch has at most.
    pub(crate) limit: usize,
    /// How long a row waits for company.
    pub(crate) window: Duration,
}

/// Rows that run together.
pub(crate) struct Batch {
    /// The rows, oldest first.
    pub(crate) rows: Vec<Row>,
}

/// One row of a batch.
pub(crate) struct Row {
    /// The job.
    pub(crate) flight: Flight,
    /// Its part of the model's input.
    pub(crate) input: Input,
    /// When it was ready.
    pub(crate) ready: Instant,
}

/// Batches until `ready` closes, then flushes what is left.
///
/// # Errors
/// Where the tag stage is gone.
pub(crate) async fn run(
    settings: Settings,
    model: String,
    mut ready: queue::Receiver<Ready>,
    traffic: Arc<Traffic>,
    tag: Sender<Work>,
) -> Result<(), Ended> {
    let mut window = Window::new(settings.window, settings.limit);
    loop {
        let now = Instant::now();
        window.set_limit(traffic.limit());
        let deadline = match window.decide(now, traffic.room(), traffic.coming()) {
            Decision::Flush(reason) => {
                flush(&model, &mut window, reason, &traffic, &tag).await?;
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
            () = traffic.changed() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => {}
        }
    }
    while !window.is_empty() {
        flush(&model, &mut window, Flush::Drain, &traffic, &tag).await?;
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
    traffic.batch_closed();
    // There is room, or soon will be after a trial: the window was told so.
    tag.send(Work::Batch(Batch { rows })).await.map_err(|_| Ended::NextGone)
}
