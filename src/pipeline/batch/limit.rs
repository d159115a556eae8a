//! Limit on the rows of a batch: the configured size until the device runs out of memory, then half as many, and after a
//! while cautiously more again.
//!
//! The limit is one of a few [`sizes`]: the configured one, its half, its quarter and so on. A device may keep memory for
//! every size it has run, so it gets no others.

/// Full batches that must fit before the next larger size is tried.
const FITS_BEFORE_GROWTH: u32 = 64;

/// Maximum of that number, which doubles after each failed attempt to grow.
const MAX_FITS_BEFORE_GROWTH: u32 = 16 * 1024;

/// Current limit and its history.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    /// Sizes from the configured one down to one.
    sizes: Vec<usize>,
    /// Index of the current size.
    current: usize,
    /// Number of consecutive full batches that fitted.
    fitted: u32,
    fits_before_growth: u32,
}

impl Limit {
    /// Starts with the configured size, or the largest one of at most `fits`, the rows known to fit.
    #[must_use]
    pub(crate) fn new(configured: usize, fits: usize) -> Self {
        let mut limit =
            Self { sizes: sizes(configured), current: 0, fitted: 0, fits_before_growth: FITS_BEFORE_GROWTH };
        limit.lower_to(fits);
        limit
    }

    /// Maximum rows of a batch now.
    #[must_use]
    pub(crate) fn rows(&self) -> usize {
        self.sizes[self.current]
    }

    /// Records that a batch of this many rows fitted the device.
    pub(crate) fn fitted(&mut self, rows: usize) {
        if self.current == 0 || rows < self.rows() {
            return;
        }
        self.fitted += 1;
        if self.fitted >= self.fits_before_growth {
            self.current -= 1;
            self.fitted = 0;
        }
    }

    /// Records that a batch of this many rows did not fit.
    pub(crate) fn too_large(&mut self, rows: usize) {
        self.fitted = 0;
        // The batch was padded to the next size.
        let rows = filled_up(self.sizes[0], rows);
        // Batches assembled before the limit fell do not count.
        if rows < self.rows() * 2 {
            self.fits_before_growth = (self.fits_before_growth * 2).min(MAX_FITS_BEFORE_GROWTH);
        }
        self.lower_to(rows / 2);
    }

    fn lower_to(&mut self, rows: usize) {
        while self.rows() > rows.max(1) {
            self.current += 1;
        }
    }
}

/// Possible sizes, largest first.
pub(crate) fn sizes(configured: usize) -> Vec<usize> {
    std::iter::successors(Some(configured.max(1)), |size| (*size > 1).then_some(size / 2)).collect()
}

/// Size that a batch of this many rows is padded to: the smallest sufficient one, or `rows` if none is.
pub(crate) fn filled_up(configured: usize, rows: usize) -> usize {
    sizes(configured).into_iter().rev().find(|size| *size >= rows).unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_halved_down_to_one() {
        assert_eq!(sizes(12), [12, 6, 3, 1]);
        assert_eq!([sizes(1), sizes(0)], [[1], [1]]);
    }

    #[test]
    fn batches_are_filled_up_to_the_next_size() {
        let filled: Vec<usize> = (1..=14).map(|rows| filled_up(12, rows)).collect();
        assert_eq!(filled, [1, 3, 3, 6, 6, 6, 12, 12, 12, 12, 12, 12, 13, 14]);
    }

    #[test]
    fn halves_and_grows_back() {
        for rows in [8, 2] {
            let mut limit = Limit::new(rows, rows);
            limit.too_large(rows);
            assert_eq!(limit.rows(), rows / 2);
            limit.too_large(rows);
            assert_eq!(limit.rows(), rows / 2, "one that was under way says nothing new");
            for _ in 0..2 * FITS_BEFORE_GROWTH {
                assert_eq!(limit.rows(), rows / 2);
                limit.fitted(rows / 2);
            }
            assert_eq!(limit.rows(), rows);
        }
    }

    #[test]
    fn a_batch_that_was_filled_up_counts_as_what_it_was_filled_up_to() {
        let mut limit = Limit::new(8, 8);
        limit.too_large(5);
        assert_eq!(limit.rows(), 4, "which was never tried");
    }

    #[test]
    fn partial_batches_prove_nothing() {
        let mut limit = Limit::new(8, 5);
        assert_eq!(limit.rows(), 4);
        for _ in 0..10 * FITS_BEFORE_GROWTH {
            limit.fitted(3);
        }
        assert_eq!(limit.rows(), 4);
    }

    proptest! {
        /// The limit is always one of the few sizes, and a device with a capacity of `capacity` rows fails ever more rarely.
        #[test]
        fn settles_at_what_fits(configured in 1usize..300, capacity in 1usize..300) {
            let mut limit = Limit::new(configured, configured);
            let (mut failures, batches) = (0u32, 20_000u32);
            for _ in 0..batches {
                prop_assert!((1..=configured).contains(&limit.rows()));
                if limit.rows() > capacity {
                    failures += 1;
                    let rows = limit.rows();
                    limit.too_large(rows);
                } else {
                    let rows = limit.rows();
                    limit.fitted(rows);
                }
            }
            prop_assert!(failures <= 20, "{failures} failures");
            prop_assert!(limit.rows() * 2 + 1 > capacity.min(configured));
        }
    }
}
