//! **batch**: [`Ready`] rows of one model become [`Batch`]es. [`window`] has the rule; this module adds the clock and the
//! channels. Fails no job.

pub(crate) mod limit;
pub mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::context::JobContext;
use super::handoff::{Batch, Input, Ready, Row, Work};
use super::queue::{self, Queued};
use super::queue_state::QueueState;
use super::stage::Ended;
use crate::telemetry::labels::Flush;
use crate::telemetry::metrics;
use window::{Decision, Window};

/// Settings of batching.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Maximum rows per batch.
    pub(crate) limit: usize,
    /// Maximum time a row waits for others.
    pub(crate) window: Duration,
}

/// Batches until `ready` closes, then flushes the remaining rows.
///
/// # Errors
/// If the tag stage is gone.
pub(crate) async fn run(
    settings: Settings,
    model: String,
    mut ready: queue::Receiver<Ready>,
    state: Arc<QueueState>,
    tag: Sender<Work>,
) -> Result<(), Ended> {
    let mut window = Window::new(settings.window, settings.limit);
    loop {
        let now = Instant::now();
        window.set_limit(state.limit());
        let deadline = match window.decide(now, state.capacity(), state.arrivals()) {
            Decision::Flush(reason) => {
                flush(&model, window.take(), reason, &state, &tag).await?;
                continue;
            }
            Decision::FlushQuarantined => {
                flush(&model, window.take_alone(), Flush::Full, &state, &tag).await?;
                continue;
            }
            Decision::Until(time) => Some(time),
            Decision::Wait => None,
        };
        tokio::select! {
            // Every row is received at once, so that bulk rows never block an interactive one. The in-flight limit and the
            // memory budget bound their number.
            row = ready.recv() => match row {
                Some(ready) => {
                    let priority = ready.priority();
                    let Ready { context, pending, input } = ready;
                    if context.is_quarantined() {
                        window.push_quarantined(Instant::now(), (context, input));
                    } else {
                        window.push(Instant::now(), priority, (context, input));
                    }
                    drop(pending);
                }
                None => break,
            },
            () = state.changed() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => {}
        }
    }
    while !window.is_empty() {
        let mut rows = window.take();
        if rows.is_empty() {
            rows.extend(window.take_alone());
        }
        flush(&model, rows, Flush::Drain, &state, &tag).await?;
    }
    Ok(())
}

async fn flush(
    model: &str,
    rows: impl IntoIterator<Item = (Instant, (JobContext, Input))>,
    reason: Flush,
    state: &QueueState,
    tag: &Sender<Work>,
) -> Result<(), Ended> {
    let row = |(ready, (context, input))| Row { context, input, ready };
    let rows: Vec<Row> = rows.into_iter().map(row).collect();
    metrics::batch(model, reason, rows.len());
    state.batch_closed();
    // The window flushes only with capacity, so the channel has room, at the latest after a trial.
    tag.send(Work::Batch(Batch { rows })).await.map_err(|_| Ended::NextGone)
}
