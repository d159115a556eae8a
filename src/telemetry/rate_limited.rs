//! What may happen to job after job is said once, then once a minute how often it came again: a log with a line for each of
//! a million jobs hides what matters. Each of them is still told at the level `debug`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

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
type Kind = (&'static str, Option<Code>);

static SAID: Mutex<Option<Said>> = Mutex::new(None);

/// Whether this is to be said now; if not, it is counted.
pub(crate) fn is_new(what: &'static str, code: Option<Code>) -> bool {
    with(|said| said.is_new((what, code), Instant::now()))
}

/// Says how often came again what was said more than a minute ago; to be called every few seconds.
pub(crate) fn report() {
    for ((what, code), times) in with(|said| said.over(Instant::now())) {
        let code = code.map(tracing::field::display);
        tracing::warn!(what, code, times, seconds = PERIOD.as_secs(), "came again");
    }
}

fn with<T>(ask: impl FnOnce(&mut Said) -> T) -> T {
    ask(SAID.lock().get_or_insert_default())
}

/// What was said within the last period, and when, and how often it came again since.
#[derive(Default)]
struct Said(HashMap<Kind, (Instant, u64)>);

impl Said {
    fn is_new(&mut self, kind: Kind, now: Instant) -> bool {
        let mut is_new = false;
        let (_, again) = self.0.entry(kind).or_insert_with(|| {
            is_new = true;
            (now, 0)
        });
        *again += u64::from(!is_new);
        is_new
    }

    /// What came again in a period that is over. It goes on counting; what did not come again is new the next time.
    fn over(&mut self, now: Instant) -> Vec<(Kind, u64)> {
        let is_over = |since: Instant| now.duration_since(since) >= PERIOD;
        self.0.retain(|_, (since, again)| *again > 0 || !is_over(*since));
        let over = self.0.iter_mut().filter(|(_, (since, _))| is_over(*since));
        over.map(|(kind, (since, again))| {
            *since = now;
            (*kind, std::mem::take(again))
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
        let (missing, corrupt) = (("dead", Some(Code::ImageNotFound)), ("dead", Some(Code::ImageUndecodable)));
        assert!(said.is_new(missing, began) && said.is_new(corrupt, began));
        assert!(!said.is_new(missing, after(1)) && !said.is_new(missing, after(59)));
        assert_eq!(said.over(after(59)), []);
        assert_eq!(said.over(after(60)), [(missing, 2)], "the other came once, and that was said");
        assert!(said.is_new(corrupt, after(61)));
        assert!(!said.is_new(missing, after(61)));
        assert_eq!(said.over(after(120)), [(missing, 1)]);
        assert_eq!(said.over(after(180)), []);
        assert!(said.is_new(missing, after(181)), "it has not come for a whole period");
    }
}
