//! Concurrency estimator: the number of jobs in flight that keeps the models from waiting for storage or the broker. A rule
//! without a clock.
//!
//! By Little's law, a rate of `r` jobs a second that each spend `t` seconds outside this machine's own work keeps `r · t` of
//! them in flight. Twice as many are allowed: the estimate grows as long as that increases the rate, and stays once
//! something else is the limit.
//!
//! The latency is the minimum of the medians of the last few periods, because delays by an outage or a pause are not
//! latency.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// Time from a pull request to its job on a broker nearby, in seconds.
const PULL: f64 = 0.01;

/// Weight of the last period in the average rate.
const LAST: f64 = 0.5;

/// Number of periods over which the minimum latency is taken.
const PERIODS: usize = 5;

/// Maximum samples kept of one period.
const SAMPLES: usize = 256;

/// Measurements of passing jobs.
#[derive(Debug, Default)]
pub(crate) struct Estimator {
    measured: Mutex<Measured>,
}

#[derive(Debug, Default)]
struct Measured {
    first_byte: Latency,
    publish: Latency,
    published: u32,
    /// Jobs a second, on average.
    rate: f64,
}

/// Latencies of this period, and medians of the periods before.
#[derive(Debug, Default)]
struct Latency {
    samples: Vec<Duration>,
    medians: VecDeque<f64>,
}

impl Latency {
    fn add(&mut self, sample: Duration) {
        if self.samples.len() < SAMPLES {
            self.samples.push(sample);
        }
    }

    /// Ends a period. A period without samples is ignored.
    fn end_period(&mut self) {
        if self.samples.is_empty() {
            return;
        }
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        self.medians.push_back(median.as_secs_f64());
        self.samples.clear();
        if self.medians.len() > PERIODS {
            self.medians.pop_front();
        }
    }

    /// Minimum latency in seconds; zero without measurements.
    fn least(&self) -> f64 {
        self.medians.iter().copied().reduce(f64::min).unwrap_or_default()
    }
}

impl Estimator {
    /// Records the time to a store's first byte. The time of the rest does not count: if bandwidth is the limit, more
    /// concurrent reads only slow each other down.
    pub(crate) fn first_byte(&self, after: Duration) {
        self.measured.lock().first_byte.add(after);
    }

    /// Records the time to the confirmation of an answer.
    pub(crate) fn published(&self, after: Duration) {
        let mut measured = self.measured.lock();
        measured.publish.add(after);
        measured.published += 1;
    }

    /// Estimates the jobs to have in flight, between `least` and `most`. To be called after every `period`.
    pub(crate) fn estimate(&self, period: Duration, least: usize, most: usize) -> usize {
        let mut measured = self.measured.lock();
        let now = f64::from(std::mem::take(&mut measured.published)) / period.as_secs_f64();
        measured.rate += LAST * (now - measured.rate);
        measured.first_byte.end_period();
        measured.publish.end_period();
        let latency = PULL + measured.first_byte.least() + measured.publish.least();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number, not negative")]
        let waiting = (2.0 * measured.rate * latency).ceil() as usize;
        least.saturating_add(waiting).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A worker that tags at most `fastest` jobs a second.
    struct Worker {
        estimator: Estimator,
        fastest: u32,
        in_flight: u32,
    }

    impl Worker {
        fn new(fastest: u32) -> Self {
            Self { estimator: Estimator::default(), fastest, in_flight: 24 }
        }

        /// Runs for `seconds` seconds with a store of this latency.
        fn run(&mut self, seconds: u32, latency: Duration) -> u32 {
            for _ in 0..seconds {
                // Rate allowed by the jobs in flight, if each takes the latency and a little more.
                let job = latency + Duration::from_millis(20);
                let rate = self.fastest.min(self.in_flight * 1000 / u32::try_from(job.as_millis()).expect("small"));
                for _ in 0..rate {
                    self.estimator.first_byte(latency);
                    self.estimator.published(Duration::from_millis(1));
                }
                self.in_flight = u32::try_from(self.estimator.estimate(SECOND, 24, 1024)).expect("small");
            }
            self.in_flight
        }
    }

    #[test]
    fn a_store_nearby_needs_no_more_than_the_least() {
        assert!((24..30).contains(&Worker::new(100).run(30, Duration::from_millis(1))));
    }

    #[test]
    fn a_store_far_away_needs_as_many_as_hide_it() {
        // A hundred jobs a second of a tenth of a second each: ten in flight, and as many again.
        assert!((44..=48).contains(&Worker::new(100).run(30, Duration::from_millis(100))));
        assert!(Worker::new(1000).run(30, Duration::from_millis(100)) >= 200);
    }

    #[test]
    fn there_is_a_most() {
        assert_eq!(Worker::new(100_000).run(30, SECOND), 1024);
    }

    #[test]
    fn without_jobs_it_falls_to_the_least() {
        let mut worker = Worker::new(1000);
        assert!(worker.run(30, Duration::from_millis(500)) > 500);
        worker.fastest = 0;
        assert!(worker.run(20, SECOND) <= 26);
    }

    #[test]
    fn a_pause_of_the_store_is_no_latency() {
        let mut worker = Worker::new(100);
        let before = worker.run(10, Duration::from_millis(5));
        for _ in 0..8 {
            worker.estimator.estimate(SECOND, 24, 1024);
        }
        // Then all delayed reads answer at once.
        for _ in 0..before {
            worker.estimator.first_byte(8 * SECOND);
            worker.estimator.published(Duration::from_millis(1));
        }
        assert!(worker.estimator.estimate(SECOND, 24, 1024) <= before as usize + 1);
        assert!(worker.run(10, Duration::from_millis(5)) <= before + 1);
    }
}
