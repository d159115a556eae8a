//! Health of the models: reported by the threads that run them, read by readiness.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether an image of the last batch was tagged, or a blank one after it; of all models together, as they share what they
/// run on. Nothing speaks against it until the first batch.
#[derive(Clone, Debug)]
pub(crate) struct InferenceHealth(Arc<watch::Sender<bool>>);

impl Default for InferenceHealth {
    fn default() -> Self {
        Self(Arc::new(watch::channel(true).0))
    }
}

impl InferenceHealth {
    /// The models score, or not.
    pub(crate) fn set(&self, fine: bool) {
        self.0.send_if_modified(|now| std::mem::replace(now, fine) != fine);
    }

    /// Tells how it is, and then of each change, until the models are gone.
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
