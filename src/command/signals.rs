//! The signals that a program hears which runs for a while.

use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backoff::Backoff;
use crate::pipeline::pool::ModelPool;

/// The first and the longest wait before models that could not be read are read again.
const REFRESH: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// The signals it hears.
pub(super) struct Signals {
    pub(super) stopping: Stopping,
    /// Look at the models again.
    hangup: Signal,
}

/// Those that stop it.
pub(super) struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { stopping: Stopping::listen()?, hangup: signal(SignalKind::hangup())? })
    }

    /// Ends when told to stop; meanwhile looks at the models again whenever told to.
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

    /// Ends with the next SIGTERM or SIGINT.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// What comes of finishing what is in hand; `None` where that takes longer than this, or the next signal cuts it short.
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

/// Reads the models again after each signal, and once more after a while where that fails.
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
