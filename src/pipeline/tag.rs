//! **tag**: [`Batch`](super::batch::Batch)es become scores, on threads of their own: one for a session on the CPU, on other
//! devices some that take turns. A batch that fails as a whole is split until the culprit stands alone. Fails with
//! `out_of_memory` or `inference_failed`.

pub(crate) mod device;
pub(crate) mod library;
pub mod onnx;
pub(crate) mod scoring;
mod share;
pub(crate) mod sizes;
mod split;
mod tagger;
mod watchdog;
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{Receiver, Sender};

use super::Ended;
use super::batch::traffic::Traffic;
use super::decode::fit::Frame;
use super::publish::Finished;
use crate::failure::Failure;
use crate::model::labels::Labels;
use crate::model::threshold::Thresholds;
use crate::tags::ModelId;
use onnx::interface::Interface;
use scoring::Scoring;
use share::Dealer;
use tagger::Tagger;
use watchdog::Watched;
use work::Work;

/// What is known of a loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    /// As answers name it.
    pub(crate) id: ModelId,
    /// The square it looks at.
    pub(crate) frame: Frame,
    /// What its graph takes and gives.
    pub(crate) interface: Interface,
    /// What its output means.
    pub(crate) labels: Labels,
    /// What counts as a tag where the job says nothing else: the operator's, else the model's own.
    pub(crate) thresholds: Thresholds,
    /// What it runs on; a session each.
    pub(crate) devices: Vec<String>,
}

impl Model {
    /// What it runs on, as it is shown.
    #[must_use]
    pub(crate) fn device(&self) -> String {
        self.devices.join(",")
    }

    /// Whether a device of its wants a batch to be ready when it is done with one, to copy it meanwhile. The CPU has nothing
    /// to copy, and a batch that is closed later is one that an urgent row can still join.
    #[must_use]
    pub(crate) fn wants_batches_ahead(&self) -> bool {
        self.devices.iter().any(|device| device != "cpu")
    }
}

/// Something that scores rows: a model's session, or a turn on one. It has one owner, and blocks.
pub(crate) trait Runtime: Send {
    /// Scores of each row, one per label.
    ///
    /// # Errors
    /// Where the batch as a whole failed; smaller ones may not.
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure>;

    /// Why nothing runs on its device any more, once that is so. Its jobs failed with `shutting_down`, for they are the next
    /// worker's.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// A runtime, and the thread of its own that it gets.
pub(crate) struct Runner {
    /// What it runs on.
    pub(crate) device: Arc<str>,
    /// See above.
    pub(crate) runtime: Box<dyn Runtime>,
    /// How long a run may take before the device counts as hung; any time where nothing is said.
    pub(crate) deadline: Option<Duration>,
}

/// Ends the run in progress, and every later one, with `shutting_down`: a process must not exit under a running model.
pub(crate) type Stopper = Arc<dyn Fn() + Send + Sync>;

/// A model with its session.
pub(crate) struct Loaded {
    /// What is known of it.
    pub(crate) model: Arc<Model>,
    /// Its runtimes: one for the CPU, some that take turns for every other device.
    pub(crate) runners: Vec<Runner>,
    /// Images that ran at once when it was loaded.
    pub(crate) fits: usize,
    /// What is odd about its scores, and has been said.
    pub(crate) oddity: Option<&'static str>,
    /// Stops the sessions.
    pub(crate) stop: Stopper,
}

/// Tags until `work` closes.
///
/// # Errors
/// Where the thread can't be started, or batch after batch failed.
pub(crate) async fn run(
    loaded: Loaded,
    work: Receiver<Work>,
    traffic: Arc<Traffic>,
    publish: Sender<Finished>,
    scoring: Scoring,
) -> Result<(), Ended> {
    let Loaded { model, runners, oddity, .. } = loaded;
    let (mut threads, mut pulses, mut dealer) = (FuturesUnordered::new(), Vec::new(), Dealer::default());
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
        let (model, traffic, queue) = (Arc::clone(&model), Arc::clone(&traffic), dealer.queue(&device));
        let (publish, scoring) = (publish.clone(), scoring.clone());
        let tagger = Tagger { model, device, runtime, looked: oddity.is_some(), queue, traffic, publish, scoring };
        threads.push(tagger.start(name)?);
    }
    drop(publish);
    let (hung, dealing) = (watchdog::watch(pulses), dealer.deal(work));
    tokio::pin!(hung, dealing);
    let mut dealt = false;
    loop {
        tokio::select! {
            () = &mut dealing, if !dealt => dealt = true,
            ended = threads.next() => match ended {
                Some(ended) => ended.unwrap_or_else(|_| Err(Ended::Broken("its thread died".into())))?,
                None => return Ok(()),
            },
            reason = &mut hung => {
                scoring.set(false);
                return Err(Ended::Broken(reason));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
