//! Signals that a long-running command handles.

use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backoff::Backoff;
use crate::pipeline::pool::ModelPool;

/// First and longest delay before a failed refresh of the models is repeated.
const REFRESH: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// Handled signals.
pub(super) struct Signals {
    pub(super) stopping: Stopping,
    /// SIGHUP: refresh the models.
    hangup: Signal,
}

/// Signals that stop the program.
pub(super) struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { stopping: Stopping::listen()?, hangup: signal(SignalKind::hangup())? })
    }

    /// Completes with a signal to stop. Meanwhile, refreshes the models on SIGHUP.
    pub(super) async fn stop(&mut self, pool: &ModelPool) {
        let Self { stopping, hangup } = self;
        tokio::select! {
            () = stopping.stop() => {}
            never = refresh_on_hangup(pool, hangup) => match never {},
        }
    }
}

impl Stopping {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Completes with the next SIGTERM or SIGINT.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a drain to complete; `None` if the timeout or the next signal ends the wait.
    pub(super) async fn in_time<T>(&mut self, drained: impl Future<Output = T>, timeout: Duration) -> Option<T> {
        tokio::select! {
            drained = drained => Some(drained),
            () = tokio::time::sleep(timeout) => {
                tracing::warn!("the drain timeout is over");
                None
            }
            () = self.stop() => {
                tracing::warn!("told again to stop: stopping at once");
                None
            }
        }
    }
}

/// Refreshes the models on each signal. Retries with backoff after a failure.
async fn refresh_on_hangup(pool: &ModelPool, hangup: &mut Signal) -> Infallible {
    loop {
        hangup.recv().await;
        let mut tries = 0;
        while let Err(error) = pool.refresh().await {
            tries += 1;
            let delay = REFRESH.after(tries);
            tracing::error!(%error, again_after = ?delay, "the models can't be read again; everything stays as it was");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = hangup.recv() => {}
            }
        }
    }
}
