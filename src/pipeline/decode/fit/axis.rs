//! Along one axis, what of a padded square a picture touches.

use std::ops::Range;

/// What of one axis of the padded square is resized.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// The pixels of the result that the picture touches.
    pub(super) touched: Range<u32>,
    /// Padding kept for the filter to read before the picture, and after it; none beyond the square.
    pub(super) before: u32,
    pub(super) after: u32,
    /// Where `touched` starts and how far it goes, in source pixels after the margin was added.
    pub(super) start: f64,
    pub(super) length: f64,
}

impl Axis {
    /// For a picture `len` long at `offset` in a square of `square`, resized to `side`.
    pub(super) fn new(len: u32, offset: u32, square: u32, side: u32, support: f64) -> Self {
        if len == square {
            return Self { touched: 0..side, before: 0, after: 0, start: 0.0, length: f64::from(len) };
        }
        let scale = f64::from(square) / f64::from(side);
        let reach = support * scale.max(1.0);
        let (first, last) = (f64::from(offset), f64::from(offset + len));
        // Pixel i of the result is centred on (i + 0.5) * scale and sees `reach` to both sides.
        let low = ((first - reach) / scale - 0.5).floor().max(0.0);
        let high = ((last + reach) / scale + 0.5).ceil().min(f64::from(side));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and side")]
        let touched = low as u32..high as u32;
        // The outermost touched pixels see at most twice the reach beyond the picture; more is never read.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few source pixels")]
        let margin = (2.0 * (reach + scale)).ceil() as u32 + 1;
        let (before, after) = (margin.min(offset), margin.min(square - offset - len));
        // Where the picture's own margin reaches the square's edge, rounding must not lead beyond it.
        let start = (low * scale - first + f64::from(before)).max(0.0);
        let length = ((high - low) * scale).min(f64::from(before + len + after) - start);
        Self { touched, before, after, start, length }
    }

    /// An axis that is not resized.
    pub(super) fn whole(len: u32) -> Self {
        Self { touched: 0..len, before: 0, after: 0, start: 0.0, length: f64::from(len) }
    }

    /// Pixels of the result that it touches.
    pub(super) const fn count(&self) -> u32 {
        self.touched.end - self.touched.start
    }
}
