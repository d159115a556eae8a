//! Conclusions from the measurements: the bottleneck of the machine, and flags that suit it. Rules without a clock.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::command::how_many;

/// Share of the best rate from which a batch size counts as equally good.
const AS_GOOD: f64 = 0.95;

/// Share of a part's own rate from which it counts as the bottleneck of the whole.
const BOUND: f64 = 0.8;

/// Minimum and maximum of the recommended window.
const WINDOW: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));

/// Maximum number of CPU sessions to try. Each holds its own copy of the model's weights.
const SESSIONS: usize = 8;

/// Division of a processor into sessions. A single session with all threads runs one batch at a time, and its threads wait
/// for each other at every step of the graph. Several sessions avoid that, but each takes memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Split {
    /// Number of sessions, or of devices.
    pub(super) sessions: usize,
    /// Threads of each session.
    pub(super) threads: usize,
}

impl Split {
    /// As many sessions as are useful on `cores` cores.
    pub(super) fn apart(cores: usize) -> Self {
        let threads = cores.div_ceil(SESSIONS).max(1);
        Self { sessions: cores / threads, threads }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", how_many(self.sessions, "session"), how_many(self.threads, "thread"))
    }
}

/// Best split by rate: the first of those that are about equally good.
pub(super) fn split(measured: impl Iterator<Item = (Split, f64)> + Clone) -> Option<Split> {
    let best = measured.clone().map(|(_, rate)| rate).max_by(f64::total_cmp)?;
    measured.into_iter().find(|(_, rate)| *rate >= AS_GOOD * best).map(|(split, _)| split)
}

/// Bottleneck of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    /// The model, on its device.
    Model,
    /// Decoding.
    Decoding,
    /// The processor, shared by both.
    Processor,
    /// Reading images from their source.
    Storage,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "the model: a faster device, or a smaller model, makes it faster; more decoders do not",
            Self::Decoding => "decoding: more cores, or smaller pictures, make it faster; a faster device does not",
            Self::Processor => {
                "the processor, which the model and the decoders share: more cores make it faster, or a GPU"
            }
            Self::Storage => "reading the images: storage that is nearer or faster makes it faster",
        })
    }
}

/// Rates in images a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Model alone.
    pub(super) model: f64,
    /// Decoders alone, on the worker's number of threads.
    pub(super) decoding: f64,
    /// Everything together.
    pub(super) whole: f64,
    /// `true` if the model runs on the processor.
    pub(super) shared: bool,
}

impl Rates {
    /// Bottleneck of the whole.
    pub(super) fn bound(&self) -> Bound {
        // The times of work that shares one processor add up.
        let together = 1.0 / (1.0 / self.model + 1.0 / self.decoding);
        if self.whole >= BOUND * self.model {
            Bound::Model
        } else if self.shared && self.whole >= BOUND * together {
            Bound::Processor
        } else if self.whole >= BOUND * self.decoding {
            Bound::Decoding
        } else {
            Bound::Storage
        }
    }
}

/// Smallest batch size that is about as good as the best one, and its rate.
pub(super) fn batch_size(measured: &[(usize, f64)]) -> Option<(usize, f64)> {
    let best = measured.iter().map(|(_, rate)| *rate).max_by(f64::total_cmp)?;
    measured.iter().filter(|(_, rate)| *rate >= AS_GOOD * best).min_by_key(|(size, _)| *size).copied()
}

/// Time for a batch to fill at this rate, in whole milliseconds, but at most its run time.
pub(super) fn window(batch: usize, whole: f64, run: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    let fill = batch as f64 / whole.max(f64::MIN_POSITIVE);
    let seconds = fill.min(run).clamp(WINDOW.0.as_secs_f64(), WINDOW.1.as_secs_f64());
    Duration::from_secs_f64((seconds * 1e3).ceil() / 1e3)
}

/// Number of threads that decode a quarter faster than the model tags, from the rate of one; all cores if the model shares
/// them.
pub(super) fn decode_threads(one: f64, model: f64, shared: bool, cores: usize) -> usize {
    if shared {
        return cores;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number, not negative")]
    let enough = (1.25 * model / one.max(f64::MIN_POSITIVE)).ceil() as usize;
    enough.clamp(1, cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(model: f64, decoding: f64, whole: f64, shared: bool) -> Bound {
        Rates { model, decoding, whole, shared }.bound()
    }

    #[test]
    fn what_the_whole_comes_close_to_is_what_bounds_it() {
        assert_eq!(bound(100.0, 1000.0, 95.0, false), Bound::Model);
        assert_eq!(bound(1000.0, 100.0, 95.0, false), Bound::Decoding);
        assert_eq!(bound(100.0, 100.0, 48.0, true), Bound::Processor);
        assert_eq!(bound(100.0, 1000.0, 86.0, true), Bound::Model);
        assert_eq!(bound(1000.0, 1000.0, 20.0, true), Bound::Storage);
        assert_eq!(bound(1000.0, 1000.0, 20.0, false), Bound::Storage);
    }

    #[test]
    fn the_smallest_batch_that_is_as_good_is_recommended() {
        assert_eq!(batch_size(&[(1, 50.0), (2, 80.0), (4, 97.0), (8, 100.0), (16, 99.0)]), Some((4, 97.0)));
        assert_eq!(batch_size(&[]), None);
    }

    #[test]
    fn sessions_beside_each_other_must_gain_something() {
        let (one, apart) = (Split { sessions: 1, threads: 2 }, Split::apart(2));
        assert_eq!(apart, Split { sessions: 2, threads: 1 });
        assert_eq!(split([(one, 97.0), (apart, 100.0)].into_iter()), Some(one));
        assert_eq!(split([(one, 90.0), (apart, 80.0), (apart, 100.0)].into_iter()), Some(apart));
        for (cores, sessions, threads) in [(1, 1, 1), (8, 8, 1), (13, 6, 2), (64, 8, 8)] {
            assert_eq!(Split::apart(cores), Split { sessions, threads });
        }
    }

    #[test]
    fn a_window_is_no_longer_than_a_batch_takes_to_fill_or_to_run() {
        assert_eq!(window(8, 100.0, 1.0), Duration::from_millis(80));
        assert_eq!(window(8, 100.0, 0.0301), Duration::from_millis(31));
        assert_eq!(window(8, 1e6, 1.0), WINDOW.0);
        assert_eq!(window(8, 0.1, 60.0), WINDOW.1);
    }

    #[test]
    fn a_gpu_gets_as_many_decoders_as_it_needs() {
        assert_eq!(decode_threads(100.0, 400.0, false, 16), 5);
        assert_eq!(decode_threads(100.0, 4000.0, false, 16), 16);
        assert_eq!(decode_threads(100.0, 1.0, true, 16), 16);
    }
}
