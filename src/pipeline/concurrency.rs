//! How many jobs must be on their way so that the models never wait for storage or for the broker, as a rule without a
//! clock.
//!
//! By Little's law a rate of `r` jobs a second that each take `t` seconds outside this machine's own work keeps `r · t` of
//! them on their way. Twice as many are taken in: while that makes the rate grow, it grows; once something else is what
//! limits it, the number stays.

use std::time::Duration;

use parking_lot::Mutex;

/// From a request for jobs to the job, on a broker nearby.
const PULL: f64 = 0.01;

/// The weight of the last period in the averages.
const LAST: f64 = 0.5;

/// What is seen of jobs as they pass, shared by those who see and the one who asks.
#[derive(Debug, Default)]
pub(crate) struct Estimator {
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    fetched: Times,
    published: Times,
    /// Jobs a second, and seconds of each that are spent waiting for others, on average.
    rate: f64,
    wait: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    count: u32,
    total: Duration,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total += time;
    }

    /// In seconds.
    fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.total.as_secs_f64() / f64::from(self.count))
    }
}

impl Estimator {
    /// A store began to answer after this long. How long the rest takes does not count: where bandwidth is what limits,
    /// more reads at once only make each slower.
    pub(crate) fn first_byte(&self, after: Duration) {
        self.seen.lock().fetched.add(after);
    }

    /// An answer was confirmed after this long.
    pub(crate) fn published(&self, after: Duration) {
        self.seen.lock().published.add(after);
    }

    /// Jobs to be held at once from now on, between `least` and `most`; to be asked after every `period`.
    pub(crate) fn places(&self, period: Duration, least: usize, most: usize) -> usize {
        let mut seen = self.seen.lock();
        let (fetched, published) = (std::mem::take(&mut seen.fetched), std::mem::take(&mut seen.published));
        let blend = |average: f64, now: f64| average + LAST * (now - average);
        seen.rate = blend(seen.rate, f64::from(published.count) / period.as_secs_f64());
        // Without jobs nothing is learnt of how long they take.
        if let Some(published) = published.mean() {
            seen.wait = blend(seen.wait, PULL + fetched.mean().unwrap_or_default() + published);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number, not negative")]
        let waiting = (2.0 * seen.rate * seen.wait).ceil() as usize;
        least.saturating_add(waiting).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs a worker that holds `places` jobs, tags at most `fastest` a second, and reads from a store this far away.
    fn settled(fastest: u32, latency: Duration) -> u32 {
        let estimator = Estimator::default();
        let mut places = 24;
        for _ in 0..30 {
            // What the places allow, if each job takes the latency and a bit.
            let job = latency + Duration::from_millis(20);
            let rate = fastest.min(places * 1000 / u32::try_from(job.as_millis()).expect("small"));
            for _ in 0..rate {
                estimator.first_byte(latency);
                estimator.published(Duration::from_millis(1));
            }
            places = u32::try_from(estimator.places(SECOND, 24, 1024)).expect("small");
        }
        places
    }

    #[test]
    fn a_store_nearby_needs_no_more_than_the_least() {
        assert!((24..30).contains(&settled(100, Duration::from_millis(1))));
    }

    #[test]
    fn a_store_far_away_needs_as_many_as_hide_it() {
        // A hundred a second, a tenth of a second each: ten on their way, and as many again.
        assert!((44..=48).contains(&settled(100, Duration::from_millis(100))));
        assert!(settled(1000, Duration::from_millis(100)) >= 200);
    }

    #[test]
    fn there_is_a_most() {
        assert_eq!(settled(100_000, SECOND), 1024);
    }

    #[test]
    fn without_jobs_it_goes_back_to_the_least() {
        let estimator = Estimator::default();
        for _ in 0..1000 {
            estimator.first_byte(SECOND);
            estimator.published(SECOND);
        }
        assert!(estimator.places(SECOND, 24, 1024) > 500);
        let last = (0..20).map(|_| estimator.places(SECOND, 24, 1024)).last();
        assert!(last.is_some_and(|places| places <= 26), "{last:?}");
    }
}
