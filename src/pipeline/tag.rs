//! **tag**: [`Batch`](super::handoff::Batch)es become scores, on dedicated threads: one for a session on the CPU, several
//! that pipeline on other devices. A batch that fails as a whole is split until the culprit is alone. Fails with
//! `out_of_memory` or `inference_failed`.

pub(crate) mod device;
mod dispatch;
pub(crate) mod health;
pub(crate) mod library;
pub mod onnx;
mod runtime;
mod split;
mod tagger;
mod watchdog;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{Receiver, Sender};

use super::handoff::{Finished, Work};
use super::queue_state::QueueState;
use super::stage::Ended;
use dispatch::Dispatcher;
use health::InferenceHealth;
pub(crate) use runtime::{Loaded, Runner, Runtime, Stopper};
use tagger::Tagger;
use watchdog::Watched;

/// Tags until `work` closes.
///
/// # Errors
/// If a thread can't be started, a device hangs or is lost, or consecutive batches fail.
pub(crate) async fn run(
    loaded: Loaded,
    work: Receiver<Work>,
    state: Arc<QueueState>,
    publish: Sender<Finished>,
    health: InferenceHealth,
) -> Result<(), Ended> {
    let Loaded { model, runners, suspicion, .. } = loaded;
    let (mut threads, mut pulses, mut dispatcher) = (FuturesUnordered::new(), Vec::new(), Dispatcher::default());
    for (number, Runner { device, runtime, deadline }) in runners.into_iter().enumerate() {
        let runtime = match deadline {
            Some(deadline) => {
                let (watched, pulse) = Watched::new(runtime, Arc::clone(&device), deadline);
                pulses.push(pulse);
                Box::new(watched)
            }
            None => runtime,
        };
        let name = format!("tag-{}-{device}-{number}", model.id.name);
        let (model, state, queue) = (Arc::clone(&model), Arc::clone(&state), dispatcher.queue(&device));
        let (publish, health) = (publish.clone(), health.clone());
        let tagger = Tagger { model, device, runtime, checked: suspicion.is_some(), queue, state, publish, health };
        threads.push(tagger.start(name)?);
    }
    drop(publish);
    let (hung, dispatching) = (watchdog::watch(pulses), dispatcher.dispatch(work));
    tokio::pin!(hung, dispatching);
    let mut all_dispatched = false;
    loop {
        tokio::select! {
            () = &mut dispatching, if !all_dispatched => all_dispatched = true,
            ended = threads.next() => match ended {
                Some(ended) => ended.unwrap_or_else(|_| Err(Ended::Broken("its thread died".into())))?,
                None => return Ok(()),
            },
            reason = &mut hung => {
                health.set(false);
                return Err(Ended::Broken(reason));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
