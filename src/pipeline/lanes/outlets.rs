//! What lanes leave to the pipeline: the jobs that are through, and their stages to run.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{self, Sender, UnboundedReceiver};
use tokio::task::JoinSet;

use crate::pipeline::Ended;
use crate::pipeline::publish::Finished;

/// A lane's stage, running until its input closes.
pub(super) type Part = BoxFuture<'static, Result<(), Ended>>;

/// What lanes leave to the pipeline.
pub(crate) struct Outlets {
    /// Jobs that are through.
    pub finished: mpsc::Receiver<Finished>,
    /// The same, for stages that fail jobs.
    pub publish: Sender<Finished>,
    /// The stages of lanes as these are opened.
    pub(super) parts: UnboundedReceiver<Part>,
}

impl Outlets {
    /// Runs the stages of lanes until no more are opened and all have ended.
    ///
    /// # Errors
    /// Where one of them broke.
    pub(in crate::pipeline) async fn run(mut parts: UnboundedReceiver<Part>) -> Result<(), Ended> {
        let mut running = JoinSet::new();
        let mut open = true;
        while open || !running.is_empty() {
            tokio::select! {
                part = parts.recv(), if open => match part {
                    Some(part) => drop(running.spawn(part)),
                    None => open = false,
                },
                Some(ended) = running.join_next() => match ended {
                    // What is next to it says why.
                    Ok(Ok(()) | Err(Ended::NextGone)) => {}
                    Ok(Err(broken)) => return Err(broken),
                    Err(error) => return Err(Ended::of_task(error)),
                },
            }
        }
        Ok(())
    }

    /// Apart, for the stages they belong to.
    pub(in crate::pipeline) fn split(self) -> (mpsc::Receiver<Finished>, Sender<Finished>, UnboundedReceiver<Part>) {
        (self.finished, self.publish, self.parts)
    }
}
