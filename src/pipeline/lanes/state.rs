//! Which models are loaded, which are on their way out, and which turned out to be broken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{Sender, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::outlets::Part;
use crate::model::Stamp;
use crate::model::catalog::Catalog;
use crate::pipeline::publish::Finished;
use crate::pipeline::tag::Stopper;

/// What is loaded, and what can be.
pub(super) struct State {
    pub(super) catalog: Arc<Catalog>,
    /// `None` once no more lanes are opened.
    pub(super) open: Option<Open>,
    pub(super) loaded: HashMap<Arc<str>, Running>,
    /// Lanes that get no more jobs, until nothing of them is left.
    pub(super) retired: Vec<Running>,
    pub(super) broken: HashMap<Arc<str>, (Instant, String)>,
}

/// What a new lane is connected to.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) finished: Sender<Finished>,
    pub(super) parts: UnboundedSender<Part>,
}

/// A loaded model.
pub(super) struct Running {
    /// `None` where it gets no more jobs.
    pub(super) lane: Option<Arc<Lane>>,
    pub(super) stamp: Stamp,
    pub(super) used: Instant,
    pub(super) stop: Stopper,
    /// Cancelled when nothing of the lane is left.
    pub(super) gone: CancellationToken,
}

impl State {
    /// With no model loaded yet.
    pub(super) fn new(catalog: Catalog, open: Open) -> Self {
        let (loaded, retired, broken) = (HashMap::new(), Vec::new(), HashMap::new());
        Self { catalog: Arc::new(catalog), open: Some(open), loaded, retired, broken }
    }

    /// The lane of a model, if it is loaded.
    pub(super) fn use_lane(&mut self, name: &str) -> Option<Arc<Lane>> {
        let running = self.loaded.get_mut(name)?;
        running.used = Instant::now();
        running.lane.clone()
    }

    /// Gives a model no more jobs; what tells that it is gone.
    pub(super) fn retire(&mut self, name: &str) -> Option<CancellationToken> {
        let running = self.loaded.remove(name)?;
        let gone = running.gone.clone();
        self.retired.retain(|running| !running.gone.is_cancelled());
        self.retired.push(Running { lane: None, ..running });
        Some(gone)
    }

    /// Lets go of the lane unused longest, where there are as many as there may be; what tells that it is gone.
    pub(super) fn evict(&mut self, max: usize) -> Option<CancellationToken> {
        if self.loaded.len() < max {
            return None;
        }
        let oldest = self.loaded.iter().min_by_key(|(_, running)| running.used).map(|(name, _)| Arc::clone(name))?;
        tracing::info!(model = %oldest, "unloading a model to make room for another (--max-models)");
        self.retire(&oldest)
    }
}
