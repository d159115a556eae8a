//! Memory is a budget: the bytes of images in flight are reserved before they are allocated, and given back when they are
//! dropped.
//!
//! Encoded and decoded images have a pool each. What waits for room among the decoded holds room among the encoded, never
//! the other way round, so that nothing waits in a circle; each pool is given out in the order in which it was asked for.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::{Code, Failure};
use crate::machine;
use crate::telemetry::metrics;

/// What reservations are counted in.
const PAGE: u64 = 4096;

/// The least budget: room for a decoded photo of a phone or two.
pub(crate) const LEAST: u64 = 64 << 20;

/// The most a budget is where the operator sets none: more makes nothing faster.
const MOST_BY_DEFAULT: u64 = 4 << 30;

/// Room for the images in flight.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// For files as they are stored.
    pub encoded: Pool,
    /// For pixels.
    pub decoded: Pool,
    /// For requests, HTTP bodies and NATS messages, besides the budget and its metrics. Nothing waits for room in it: there
    /// is some, or the request is refused.
    pub bodies: Pool,
}

/// A part of the budget.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pages: Arc<Semaphore>,
    total: u64,
    what: &'static str,
    /// Whether metrics count what is reserved.
    is_counted: bool,
}

/// Reserved bytes, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    pages: OwnedSemaphorePermit,
    /// As metrics count them.
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes: a quarter for encoded images, the rest for decoded ones. Requests, which images are read
    /// from, may take another quarter.
    #[must_use]
    pub(crate) fn new(bytes: u64) -> Self {
        let encoded = bytes / 4;
        let decoded = Pool::new(bytes - encoded, "decoded");
        let bodies = Pool { is_counted: false, ..Pool::new(encoded, "uploaded") };
        Self { encoded: Pool::new(encoded, "encoded"), decoded, bodies }
    }

    /// What a budget is where the operator sets none: a quarter of the memory this process may use.
    #[must_use]
    pub(crate) fn default_bytes() -> u64 {
        (machine::available_memory() / 4).clamp(LEAST, MOST_BY_DEFAULT)
    }
}

impl Pool {
    fn new(total: u64, what: &'static str) -> Self {
        let pages = usize::try_from(total / PAGE).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { pages: Arc::new(Semaphore::new(pages)), total, what, is_counted: true }
    }

    /// Bytes it holds in all.
    #[must_use]
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Takes room for so many bytes, if there is any now.
    #[must_use]
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let pages = u32::try_from(bytes.div_ceil(PAGE)).ok()?;
        let pages = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        Some(self.reserved(pages, bytes))
    }

    /// Waits until there is room for so many bytes.
    ///
    /// # Errors
    /// `image_too_large` where there never will be.
    pub(crate) async fn reserve(&self, bytes: u64) -> Result<Reservation, Failure> {
        let too_large = || {
            let (what, total) = (self.what, self.total);
            Failure::new(
                Code::ImageTooLarge,
                format!(
                    "the {what} image takes {bytes} bytes, over the {total} that all {what} images may take (--memory-budget)"
                ),
            )
        };
        let pages = u32::try_from(bytes.div_ceil(PAGE)).map_err(|_| too_large())?;
        if u64::from(pages) > self.total / PAGE {
            return Err(too_large());
        }
        // It is never closed.
        let pages = Arc::clone(&self.pages).acquire_many_owned(pages).await.map_err(|_| too_large())?;
        Ok(self.reserved(pages, bytes))
    }

    fn reserved(&self, pages: OwnedSemaphorePermit, bytes: u64) -> Reservation {
        let bytes = if self.is_counted { bytes } else { 0 };
        metrics::memory_reserved(bytes);
        Reservation { pages, bytes }
    }

    /// The same, on a thread that may block; `runtime` runs what gives room back.
    ///
    /// # Errors
    /// As [`Pool::reserve`].
    pub(crate) fn reserve_blocking(&self, bytes: u64, runtime: &Handle) -> Result<Reservation, Failure> {
        runtime.block_on(self.reserve(bytes))
    }
}

impl Reservation {
    /// Gives back all but so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let pages = usize::try_from(bytes.div_ceil(PAGE)).unwrap_or(usize::MAX);
        drop(self.pages.split(self.pages.num_permits().saturating_sub(pages)));
        metrics::memory_returned(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
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
}
