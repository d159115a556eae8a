//! Decodes quarantined images in a process of its own, so that an image that ends its decoder costs no other job anything.
//!
//! A process serves one image after another, is always killed and reaped, and ends when it has been idle. A process that
//! dies or runs out of time over an image is evidence against that image, unless it has decoded another one before, which
//! may have damaged it; so the image is decoded again at once in a fresh process. [`protocol`] has the messages, [`child`]
//! the other side.

pub mod child;
mod process;
mod protocol;

use std::process::Command;
use std::time::{Duration, Instant};

use super::picture::{Reserve, Settings};
use crate::failure::{Code, Failure};
use crate::model::frame::Frame;
use crate::telemetry::rate_limited::{self, warn_limited};
use process::{End, Process, own_program};

/// Argument that makes the program an isolated decoder.
pub const ARGUMENT: &str = "decode-isolated";

/// Time limit of a process for an image: once to read its header, once to decode it. Waiting for memory does not count.
const TIME_LIMIT: Duration = Duration::from_mins(1);

/// Time for which a process is kept without an image to decode.
const IDLE: Duration = Duration::from_secs(10);

/// Number of fresh processes that must end over an image before it is rejected.
const EVIDENCE: usize = 3;

/// Number of processes killed from outside over one image, after which the job is handed back.
const MAX_KILLS: usize = 3;

/// Isolated decoder of one thread. No process exists until the first image.
pub(super) struct IsolatedDecoder {
    launch: fn() -> Command,
    time_limit: Duration,
    process: Option<Process>,
    used: Instant,
}

impl Default for IsolatedDecoder {
    fn default() -> Self {
        Self::new(own_program, time_limit())
    }
}

impl IsolatedDecoder {
    fn new(launch: fn() -> Command, time_limit: Duration) -> Self {
        Self { launch, time_limit, process: None, used: Instant::now() }
    }

    /// Time at which its process, if there is one, is ended for lack of images.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        self.process.as_ref().map(|_| self.used + IDLE)
    }

    /// Ends its process if that has been idle.
    pub(super) fn end_if_idle(&mut self) {
        if self.idle_until().is_some_and(|until| until <= Instant::now()) {
            self.process = None;
        }
    }

    /// Returns the row of an image, as [`Decoder::row`](super::decoder::Decoder::row). `reserve` is called once per attempt.
    ///
    /// # Errors
    /// As for any image; `attempts_exhausted` if one fresh process after another ended over it; `shutting_down`, which
    /// hands the job back, if no process can be started, or several were killed from outside.
    pub(super) fn row(
        &mut self,
        id: &str,
        (settings, frame): (&Settings, Frame),
        encoded: &[u8],
        reserve: Reserve<'_>,
    ) -> Result<Box<[u8]>, Failure> {
        let (mut deaths, mut kills) = (Vec::new(), 0);
        loop {
            let mut process = match self.process.take() {
                Some(process) => process,
                None => Process::start(&mut (self.launch)()).map_err(|error| cannot_start(&error))?,
            };
            let is_fresh = process.is_fresh();
            let lost = match process.row((settings, frame), encoded, reserve, self.time_limit) {
                Ok(row) => {
                    (self.process, self.used) = (Some(process), Instant::now());
                    return row;
                }
                Err(lost) => lost,
            };
            let end = process.end(lost, self.time_limit);
            warn_limited!("an isolated decoder ended over an image", Code::AttemptsExhausted, id, is_fresh, how = %end);
            match end {
                End::Itself(how) if is_fresh => deaths.push(how),
                End::Itself(_) => {}
                End::FromOutside(_) => kills += 1,
            }
            if deaths.len() == EVIDENCE {
                return Err(exhausted(&deaths));
            }
            if kills == MAX_KILLS {
                return Err(handed_back(format!("its isolated decoder was killed from outside {MAX_KILLS} times")));
            }
        }
    }
}

fn exhausted(deaths: &[String]) -> Failure {
    let (count, how) = (deaths.len(), deaths.join(", "));
    let message = format!("its isolated decoder ended {count} times over it, each time in a fresh process: {how}");
    Failure::new(Code::AttemptsExhausted, message)
}

fn cannot_start(error: &std::io::Error) -> Failure {
    if rate_limited::is_new("cannot start an isolated decoder", None) {
        tracing::error!(%error, "cannot start an isolated decoder; quarantined jobs are handed back");
    }
    handed_back(format!("cannot start an isolated decoder: {error}"))
}

/// The fault is the worker's: this code returns the job to the queue, regardless of the number of its deliveries.
fn handed_back(message: String) -> Failure {
    Failure::new(Code::ShuttingDown, message)
}

/// Variable that shortens the time limit in tests, in milliseconds.
#[cfg(debug_assertions)]
const TEST_TIME_LIMIT: &str = "TAGMILL_TEST_DECODE_MS";

fn time_limit() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(limit) = std::env::var(TEST_TIME_LIMIT).ok().and_then(|text| text.parse().ok()) {
        return Duration::from_millis(limit);
    }
    TIME_LIMIT
}

#[cfg(test)]
mod tests;
