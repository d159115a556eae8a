//! Memory budget: the bytes of images in flight are reserved before they are allocated and returned when they are dropped.
//!
//! Encoded and decoded images have a pool each. A job that waits for the decoded pool holds a reservation in the encoded
//! one, never the other way round, so there is no deadlock. A quarter of each pool is reserved for interactive jobs: bulk
//! jobs never block an interactive one of up to that size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::failure::{Code, Failure};
use crate::machine;
use crate::priority::Priority;
use crate::telemetry::metrics;

/// Unit of reservations in bytes.
const PAGE: u64 = 4096;

/// Minimum budget: enough for one or two decoded photos of a phone.
pub(crate) const LEAST: u64 = 64 << 20;

/// Maximum default budget. More does not increase throughput.
const MOST_BY_DEFAULT: u64 = 4 << 30;

/// Divisor of the part of a pool that is reserved for interactive jobs.
const RESERVE: u32 = 4;

/// Memory for the images in flight.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Pool for files as stored.
    pub encoded: Pool,
    /// Pool for pixels.
    pub decoded: Pool,
    /// Pool for requests (HTTP bodies and NATS messages), outside the budget and its metrics. Nothing waits for it: a
    /// request that does not fit is refused.
    pub bodies: Pool,
}

/// Part of the budget, for jobs of one priority.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pages: Arc<Pages>,
    total: u64,
    priority: Priority,
    what: &'static str,
    /// `true` if metrics count its reservations.
    is_counted: bool,
    /// `true` while the owner of this copy waits for memory.
    waiting: Arc<AtomicBool>,
}

/// Pages of a pool, shared by both priorities.
#[derive(Debug)]
struct Pages {
    counts: Mutex<Counts>,
    freed: Notify,
    /// Held by the first waiter of each priority. The others queue behind it, in order.
    interactive: tokio::sync::Mutex<()>,
    bulk: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Counts {
    total: u32,
    /// Pages taken in all, and by bulk jobs.
    taken: u32,
    bulk: u32,
    /// Number of interactive jobs that wait.
    waiting: usize,
}

impl Counts {
    /// Maximum pages of all bulk jobs together.
    const fn bulk_total(&self) -> u32 {
        self.total - self.total / RESERVE
    }

    /// Takes pages if they are free. An interactive job that waits has precedence over bulk jobs.
    fn take(&mut self, pages: u32, priority: Priority) -> bool {
        let free = pages <= self.total - self.taken;
        let fits = match priority {
            Priority::Interactive => free,
            Priority::Bulk => free && self.waiting == 0 && pages <= self.bulk_total() - self.bulk,
        };
        if fits {
            self.taken += pages;
            self.bulk += if priority == Priority::Bulk { pages } else { 0 };
        }
        fits
    }

    fn give_back(&mut self, pages: u32, priority: Priority) {
        self.taken -= pages;
        self.bulk -= if priority == Priority::Bulk { pages } else { 0 };
    }
}

/// Reserved bytes, returned when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    pages: Arc<Pages>,
    count: u32,
    priority: Priority,
    /// Bytes as metrics count them.
    bytes: u64,
}

impl Budget {
    /// Budget of `bytes` bytes: a quarter for encoded images, the rest for decoded ones. Requests, which contain images, may
    /// take another quarter.
    #[must_use]
    pub(crate) fn new(bytes: u64) -> Self {
        let encoded = bytes / 4;
        let decoded = Pool::new(bytes - encoded, "decoded");
        let bodies = Pool { is_counted: false, ..Pool::new(encoded, "uploaded") };
        Self { encoded: Pool::new(encoded, "encoded"), decoded, bodies }
    }

    /// Checks that an interactive picture of `picture` bytes fits beside bulk ones.
    ///
    /// # Errors
    /// The smallest sufficient budget in bytes.
    pub(crate) fn check(decoded: &Pool, picture: u64) -> Result<(), u64> {
        if picture <= decoded.interactive_part() {
            return Ok(());
        }
        // The interactive part is a quarter of the decoded pool, which is three quarters of the budget.
        Err(picture.saturating_mul(4 * u64::from(RESERVE)).div_ceil(3))
    }

    /// Default budget: a quarter of the memory available to this process.
    #[must_use]
    pub(crate) fn default_bytes() -> u64 {
        (machine::available_memory() / 4).clamp(LEAST, MOST_BY_DEFAULT)
    }
}

impl Pages {
    fn give_back(&self, pages: u32, priority: Priority) {
        self.counts.lock().give_back(pages, priority);
        self.freed.notify_waiters();
    }

    /// Waits for pages, in order of arrival within each priority.
    ///
    /// Cancel safe.
    async fn take(&self, pages: u32, priority: Priority) {
        let _waiting = (priority == Priority::Interactive).then(|| InteractiveWaits::new(self));
        let _first = match priority {
            Priority::Interactive => self.interactive.lock().await,
            Priority::Bulk => self.bulk.lock().await,
        };
        loop {
            let freed = self.freed.notified();
            if self.counts.lock().take(pages, priority) {
                return;
            }
            freed.await;
        }
    }
}

/// Counts an interactive job as waiting, until dropped.
struct InteractiveWaits<'a>(&'a Pages);

impl<'a> InteractiveWaits<'a> {
    fn new(pages: &'a Pages) -> Self {
        pages.counts.lock().waiting += 1;
        Self(pages)
    }
}

impl Drop for InteractiveWaits<'_> {
    fn drop(&mut self) {
        self.0.counts.lock().waiting -= 1;
        self.0.freed.notify_waiters();
    }
}

impl Pool {
    fn new(total: u64, what: &'static str) -> Self {
        let counts = Counts { total: u32::try_from(total / PAGE).unwrap_or(u32::MAX), taken: 0, bulk: 0, waiting: 0 };
        let (interactive, bulk) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        let pages = Pages { counts: Mutex::new(counts), freed: Notify::new(), interactive, bulk };
        let (priority, waiting) = (Priority::Interactive, Arc::default());
        Self { pages: Arc::new(pages), total, priority, what, is_counted: true, waiting }
    }

    /// The same pool for one job of this priority.
    #[must_use]
    pub(crate) fn of(&self, priority: Priority) -> Self {
        Self { priority, waiting: Arc::default(), ..self.clone() }
    }

    /// Priority of the jobs that use this copy.
    #[must_use]
    pub(crate) const fn priority(&self) -> Priority {
        self.priority
    }

    /// Returns `true` while the job that owns this copy waits for memory.
    #[must_use]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Maximum bytes of one job of this priority.
    #[must_use]
    pub(crate) const fn total(&self) -> u64 {
        match self.priority {
            Priority::Interactive => self.total,
            Priority::Bulk => self.total - self.interactive_part(),
        }
    }

    /// Bytes reserved for interactive jobs.
    const fn interactive_part(&self) -> u64 {
        self.total / RESERVE as u64
    }

    /// Reserves memory for `bytes` bytes, if it is free now.
    #[must_use]
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let count = u32::try_from(bytes.div_ceil(PAGE)).ok()?;
        let pages = &self.pages;
        // Does not overtake jobs that wait.
        let turn = match self.priority {
            Priority::Interactive => pages.interactive.try_lock(),
            Priority::Bulk => pages.bulk.try_lock(),
        };
        let _turn = turn.ok()?;
        let taken = pages.counts.lock().take(count, self.priority);
        taken.then(|| self.reserved(count, bytes))
    }

    /// Waits until memory for `bytes` bytes is free, in order of arrival within each priority.
    ///
    /// # Errors
    /// `image_too_large` if the pool is too small for it.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<Reservation, Failure> {
        let too_large = || {
            let (what, total) = (self.what, self.total());
            Failure::new(
                Code::ImageTooLarge,
                format!(
                    "the {what} image takes {bytes} bytes, over the {total} that one {what} image may take (--memory-budget)"
                ),
            )
        };
        let count = u32::try_from(bytes.div_ceil(PAGE)).map_err(|_| too_large())?;
        if u64::from(count) > self.total() / PAGE {
            return Err(too_large());
        }
        let _waits = Waits::new(&self.waiting);
        self.pages.take(count, self.priority).await;
        Ok(self.reserved(count, bytes))
    }

    fn reserved(&self, count: u32, bytes: u64) -> Reservation {
        let bytes = if self.is_counted { bytes } else { 0 };
        metrics::memory_reserved(bytes);
        Reservation { pages: Arc::clone(&self.pages), count, priority: self.priority, bytes }
    }

    /// Reserves memory on a thread that may block. `runtime` must keep running the tasks that return memory.
    ///
    /// # Errors
    /// As [`Pool::reserve`].
    pub(crate) fn reserve_blocking(&self, bytes: u64, runtime: &Handle) -> Result<Reservation, Failure> {
        runtime.block_on(self.reserve(bytes))
    }
}

/// Marks a job as waiting for memory, until dropped.
struct Waits<'a>(&'a AtomicBool);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicBool) -> Self {
        waiting.store(true, Ordering::Release);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Reservation {
    /// Returns all but `bytes` bytes.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let left = u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX).min(self.count);
        self.pages.give_back(self.count - left, self.priority);
        self.count = left;
        metrics::memory_returned(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pages.give_back(self.count, self.priority);
        metrics::memory_returned(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn room_is_given_back_and_in_order() {
        let budget = Budget::new(1 << 20);
        let first = budget.decoded.reserve(700_000).await.expect("room");
        let mut large = Box::pin(budget.decoded.reserve(500_000));
        let mut small = Box::pin(budget.decoded.reserve(4096));
        assert!((&mut large).now_or_never().is_none(), "there is no room");
        assert!((&mut small).now_or_never().is_none(), "what came first is not overtaken for ever");
        drop(first);
        assert!(large.await.is_ok() && small.await.is_ok());
    }

    #[tokio::test]
    async fn what_is_needed_no_longer_is_given_back_early() {
        let budget = Budget::new(1 << 20);
        let mut first = budget.decoded.reserve(700_000).await.expect("room");
        assert!(budget.decoded.try_reserve(600_000).is_none());
        first.shrink_to(100_000);
        let second = budget.decoded.try_reserve(600_000).expect("room");
        drop(first);
        assert!(budget.decoded.try_reserve(180_000).is_some());
        drop(second);
        assert!(budget.decoded.try_reserve(3 << 18).is_some(), "all of it is back");
    }

    #[tokio::test]
    async fn what_never_fits_is_refused_at_once() {
        let budget = Budget::new(1 << 20);
        for (pool, bytes) in [(&budget.encoded, 300_000), (&budget.decoded, 800_000), (&budget.decoded, u64::MAX)] {
            let failure = pool.reserve(bytes).await.expect_err("it does not fit");
            assert_eq!(failure.code, Code::ImageTooLarge);
            assert!(failure.message.contains("--memory-budget"), "{failure}");
        }
    }

    #[tokio::test]
    async fn bulk_leaves_room_for_interactive_jobs_and_never_overtakes_them() {
        let budget = Budget::new(1 << 20);
        let (bulk, interactive) = (budget.decoded.of(Priority::Bulk), budget.decoded.of(Priority::Interactive));
        let most = bulk.reserve(bulk.total()).await.expect("room");
        assert!(bulk.try_reserve(4096).is_none(), "bulk has all that it may have");
        let first = interactive.try_reserve(interactive.interactive_part()).expect("the reserve");
        let mut large = Box::pin(interactive.reserve(interactive.total()));
        assert!((&mut large).now_or_never().is_none(), "larger than the reserve: it waits for bulk");
        drop(most);
        let mut late = Box::pin(bulk.reserve(4096));
        assert!((&mut late).now_or_never().is_none(), "after the interactive job that waits");
        drop(first);
        drop(large.await.expect("all of it"));
        assert!(late.await.is_ok());
        // Interactive jobs have more than their part, so bulk waits although it has less than its own.
        let (half, mut waits) =
            (interactive.try_reserve(interactive.total() / 2), Box::pin(bulk.reserve(bulk.total())));
        assert!(half.is_some() && (&mut waits).now_or_never().is_none());
        assert!(interactive.reserve(4096).now_or_never().is_some(), "a bulk job that waits takes nothing from it");
        let failure = bulk.reserve(interactive.total()).await.expect_err("over the part of bulk");
        assert_eq!(failure.code, Code::ImageTooLarge);
    }
}
