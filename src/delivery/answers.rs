//! Answers in progress to their sources.

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Runs answers in the background, so that a shutdown can wait for them before it closes the connection.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Answers {
    /// Creates a tracker that runs answers on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Runs an answer to completion, from any thread.
    pub(super) fn spawn(&self, answer: impl Future<Output: Send + 'static> + Send + 'static) {
        self.tasks.spawn_on(answer, &self.runtime);
    }

    /// Completes when every answer given so far has arrived.
    pub(crate) async fn arrived(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}
