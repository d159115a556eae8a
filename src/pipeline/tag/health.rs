//! Health of the models, set by the threads that run them and read by readiness.

use std::sync::Arc;

use tokio::sync::watch;

/// Health of inference: `true` if an image of the last batch was tagged, or a blank one after it. Shared by all models,
/// because they share devices. `true` until the first batch.
#[derive(Clone, Debug)]
pub(crate) struct InferenceHealth(Arc<watch::Sender<bool>>);

impl Default for InferenceHealth {
    fn default() -> Self {
        Self(Arc::new(watch::channel(true).0))
    }
}

impl InferenceHealth {
    /// Sets the health; `true` if the models score.
    pub(crate) fn set(&self, fine: bool) {
        self.0.send_if_modified(|now| std::mem::replace(now, fine) != fine);
    }

    /// Calls `tell` with the current health and after each change, until the models are gone.
    pub(crate) fn follow<F: Fn(bool)>(&self, tell: F) -> impl Future<Output = ()> + use<F> {
        let mut heard = self.0.subscribe();
        async move {
            loop {
                tell(*heard.borrow_and_update());
                if heard.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
