//! Rate limit for warnings that may repeat for every job or request. A warning is logged once, then counted and reported
//! once a minute, so that a million of its kind do not hide the rest. Every repetition is logged at the level `debug`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::Level;

use crate::failure::Code;

/// Logs a failure with its code and these fields: as a warning, or at `debug` if one of its kind was logged within the
/// period.
macro_rules! warn_limited {
    ($what:literal, $code:expr, $($field:tt)+) => {
        if $crate::telemetry::rate_limited::is_new($what, Some($code)) {
            tracing::warn!(code = %$code, $($field)+, $what);
        } else {
            tracing::debug!(code = %$code, $($field)+, $what);
        }
    };
}
pub(crate) use warn_limited;

/// Time for which a logged warning covers others of its kind.
const PERIOD: Duration = Duration::from_mins(1);

/// Identity of a kind of event: the message, and the failure's code, if any.
type Kind = (&'static str, Option<&'static str>);

static SAID: Mutex<Option<Said>> = Mutex::new(None);

/// Returns `true` if the warning is to be logged now; otherwise counts it.
pub(crate) fn is_new(what: &'static str, code: Option<Code>) -> bool {
    is_new_at(Level::WARN, what, code.map(Code::as_str))
}

/// Returns `true` if an event of any level is to be logged now; otherwise counts it. The code may be other than a job's.
pub(crate) fn is_new_at(level: Level, what: &'static str, code: Option<&'static str>) -> bool {
    with(|said| said.is_new((what, code), level, Instant::now()))
}

/// Logs the number of repetitions for each period that is over. To be called every few seconds.
pub(crate) fn report() {
    for ((what, code), level, times) in with(|said| said.over(Instant::now())) {
        let (code, seconds) = (code.map(tracing::field::display), PERIOD.as_secs());
        if level == Level::INFO {
            tracing::info!(what, code, times, seconds, "came again");
        } else {
            tracing::warn!(what, code, times, seconds, "came again");
        }
    }
}

fn with<T>(ask: impl FnOnce(&mut Said) -> T) -> T {
    ask(SAID.lock().get_or_insert_default())
}

/// Kinds logged within the last period: their level, time, and number of repetitions since.
#[derive(Default)]
struct Said(HashMap<Kind, (Level, Instant, u64)>);

impl Said {
    fn is_new(&mut self, kind: Kind, level: Level, now: Instant) -> bool {
        let mut is_new = false;
        let (_, _, again) = self.0.entry(kind).or_insert_with(|| {
            is_new = true;
            (level, now, 0)
        });
        *again += u64::from(!is_new);
        is_new
    }

    /// Repetitions in periods that are over. A kind that repeated starts a new period; the others are removed.
    fn over(&mut self, now: Instant) -> Vec<(Kind, Level, u64)> {
        let is_over = |since: Instant| now.duration_since(since) >= PERIOD;
        self.0.retain(|_, (_, since, again)| *again > 0 || !is_over(*since));
        let over = self.0.iter_mut().filter(|(_, (_, since, _))| is_over(*since));
        over.map(|(kind, (level, since, again))| {
            *since = now;
            (*kind, *level, std::mem::take(again))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_said_once_and_then_counted() {
        let (mut said, began) = (Said::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let [missing, corrupt] =
            [Code::ImageNotFound, Code::ImageUndecodable].map(|code| ("dead", Some(code.as_str())));
        let over = |said: &mut Said, seconds| {
            said.over(after(seconds)).into_iter().map(|(kind, _, times)| (kind, times)).collect::<Vec<_>>()
        };
        assert!(said.is_new(missing, Level::WARN, began) && said.is_new(corrupt, Level::WARN, began));
        assert!(!said.is_new(missing, Level::WARN, after(1)) && !said.is_new(missing, Level::WARN, after(59)));
        assert_eq!(over(&mut said, 59), []);
        assert_eq!(over(&mut said, 60), [(missing, 2)], "the other came once, and that was said");
        assert!(said.is_new(corrupt, Level::WARN, after(61)));
        assert!(!said.is_new(missing, Level::WARN, after(61)));
        assert_eq!(over(&mut said, 120), [(missing, 1)]);
        assert_eq!(over(&mut said, 180), []);
        assert!(said.is_new(missing, Level::WARN, after(181)), "it has not come for a whole period");
    }
}
