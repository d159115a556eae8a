//! Exclusion of jobs from one another.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

/// A job's right to be in the pipeline, until dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "what it holds is released, not read")]
pub(crate) enum Permit {
    /// Beside other jobs.
    Shared(OwnedRwLockReadGuard<()>),
    /// With nothing else in flight in this worker but the jobs of the same message.
    Exclusive(Arc<OwnedRwLockWriteGuard<()>>),
}
