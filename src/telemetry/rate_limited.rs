//! What may happen to job after job, or to request after request, is said once, then once a minute how often it came again: a log with a line for each of
//! a million jobs hides what matters. Each of them is still told at the level `debug`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::Level;

use crate::failure::Code;

/// Warns of a failure with its code and these fields; of one that is like another lately, at `debug`.
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

/// How long what was said stands for what is like it.
const PERIOD: Duration = Duration::from_mins(1);

/// What is alike: what happened, and the failure's code where there is one.
type Kind = (&'static str, Option<&'static str>);

static SAID: Mutex<Option<Said>> = Mutex::new(None);

/// Returns `true` if this is to be said now; if not, it is counted.
pub(crate) fn is_new(what: &'static str, code: Option<Code>) -> bool {
    is_new_at(Level::WARN, what, code.map(Code::as_str))
}

/// The same of what is no warning, with the codes of others than jobs.
pub(crate) fn is_new_at(level: Level, what: &'static str, code: Option<&'static str>) -> bool {
    with(|said| said.is_new((what, code), level, Instant::now()))
}

/// Says how often came again what was said more than a minute ago; to be called every few seconds.
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

/// What was said within the last period, and when, and how often it came again since.
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

    /// What came again in a period that is over. It goes on counting; what did not come again is new the next time.
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
