//! From a picture of any size to one square row of the model's input, as the models were trained: centred on a white
//! square and resized with Pillow's antialiased bicubic.
//!
//! The padded square never exists. What is computed is what Pillow computes on it: resizing runs along the width first
//! and the height second, each pass to 8 bits, and along a padded axis only the part whose filter reaches the picture is
//! resized, from the picture with a margin of padding as wide as the filter. The rest of the row is padding.
//!
//! Reference: `prepare_image` of the WD taggers' demo (pad, then `Image.BICUBIC`), and Pillow's `Resample.c`.

use std::ops::Range;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Bytes per pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// How far bicubic reaches on each side, in pixels of the coarser side (a = -0.5, as Pillow's).
const SUPPORT: f64 = 2.0;

/// Pixels of a strip of the first pass: 384 KiB.
const STRIP: usize = 1 << 17;

/// Fits pictures to a square of a given side; keeps its buffers between pictures.
pub struct Fitter {
    side: u32,
    padding: U8x3,
    resizer: Resizer,
    margined: Vec<U8x3>,
    columns: Vec<U8x3>,
}

/// One picture, 8 bits per channel, at least one pixel.
#[derive(Debug)]
pub struct Picture<'a> {
    width: u32,
    height: u32,
    pixels: TypedImageRef<'a, U8x3>,
}

impl<'a> Picture<'a> {
    /// A picture from RGB bytes, row by row; `None` unless there are exactly `width * height * 3`, and some.
    #[must_use]
    pub fn new(width: u32, height: u32, rgb: &'a [u8]) -> Option<Self> {
        if rgb.is_empty() || rgb.len() != width as usize * height as usize * CHANNELS {
            return None;
        }
        let pixels = TypedImageRef::from_buffer(width, height, rgb).ok()?;
        Some(Self { width, height, pixels })
    }
}

/// What of one axis of the padded square is resized.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    /// The pixels of the result that the picture touches.
    touched: Range<u32>,
    /// Padding kept for the filter to read before the picture, and after it; none beyond the square.
    before: u32,
    after: u32,
    /// Where `touched` starts and how far it goes, in source pixels after the margin was added.
    start: f64,
    length: f64,
}

impl Axis {
    /// For a picture `len` long at `offset` in a square of `square`, resized to `side`.
    fn new(len: u32, offset: u32, square: u32, side: u32) -> Self {
        if len == square {
            return Self { touched: 0..side, before: 0, after: 0, start: 0.0, length: f64::from(len) };
        }
        let scale = f64::from(square) / f64::from(side);
        let reach = SUPPORT * scale.max(1.0);
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
    fn whole(len: u32) -> Self {
        Self { touched: 0..len, before: 0, after: 0, start: 0.0, length: f64::from(len) }
    }

    const fn count(&self) -> u32 {
        self.touched.end - self.touched.start
    }
}

impl Fitter {
    /// For squares of `side` pixels, padded with the colour `padding` (RGB).
    #[must_use]
    pub fn new(side: u32, padding: [u8; CHANNELS]) -> Self {
        Self { side, padding: U8x3::new(padding), resizer: Resizer::new(), margined: Vec::new(), columns: Vec::new() }
    }

    /// The picture as one row of the model's input: RGB, `side * side * 3` bytes.
    pub fn fit(&mut self, picture: &Picture<'_>) -> Box<[u8]> {
        let square = picture.width.max(picture.height);
        let across = Axis::new(picture.width, (square - picture.width) / 2, square, self.side);
        let down = Axis::new(picture.height, (square - picture.height) / 2, square, self.side);
        self.resize_width(picture, &across, &down);
        let rows = self.resize_height(picture.height, &across, &down);
        self.centre(&rows, &across, &down)
    }

    /// First pass: into `columns`, which has the margin of the second pass above and below.
    fn resize_width(&mut self, picture: &Picture<'_>, across: &Axis, down: &Axis) {
        let width = across.count();
        let lines = |count: u32| (count * width) as usize;
        self.columns.clear();
        self.columns.resize(lines(down.before + picture.height + down.after), self.padding);
        let columns = &mut self.columns[lines(down.before)..][..lines(picture.height)];
        if across.before + across.after == 0 {
            return resize(
                &mut self.resizer,
                &picture.pixels,
                (width, picture.height, columns),
                across,
                &Axis::whole(picture.height),
            );
        }
        // In strips that stay in the cache, so that the picture is never copied whole.
        let margined = across.before + picture.width + across.after;
        let strip = (STRIP / margined as usize).max(1);
        let lines = picture.pixels.pixels().chunks(strip * picture.width as usize);
        for (source, target) in lines.zip(columns.chunks_mut(strip * width as usize)) {
            self.margined.clear();
            for line in source.chunks_exact(picture.width as usize) {
                self.margined.extend(std::iter::repeat_n(self.padding, across.before as usize));
                self.margined.extend_from_slice(line);
                self.margined.extend(std::iter::repeat_n(self.padding, across.after as usize));
            }
            let height = u32::try_from(target.len() / width as usize).expect("at most the picture's");
            let source = TypedImageRef::new(margined, height, &self.margined).expect("height lines were copied");
            resize(&mut self.resizer, &source, (width, height, target), across, &Axis::whole(height));
        }
    }

    /// Second pass: the touched rows, each as wide as the touched columns.
    fn resize_height(&mut self, height: u32, across: &Axis, down: &Axis) -> Vec<U8x3> {
        let width = across.count();
        let source = TypedImageRef::new(width, down.before + height + down.after, &self.columns)
            .expect("the first pass filled it");
        let mut rows = vec![self.padding; (width * down.count()) as usize];
        resize(&mut self.resizer, &source, (width, down.count(), &mut rows), &Axis::whole(width), down);
        rows
    }

    fn centre(&self, rows: &[U8x3], across: &Axis, down: &Axis) -> Box<[u8]> {
        let stride = self.side as usize * CHANNELS;
        let mut row = self.padding.0.repeat((self.side * self.side) as usize).into_boxed_slice();
        let width = across.count() as usize;
        let left = across.touched.start as usize * CHANNELS;
        let lines = row.chunks_exact_mut(stride).skip(down.touched.start as usize);
        for (line, pixels) in lines.zip(rows.chunks_exact(width)) {
            for (to, from) in line[left..][..width * CHANNELS].chunks_exact_mut(CHANNELS).zip(pixels) {
                to.copy_from_slice(&from.0);
            }
        }
        row
    }
}

fn resize(
    resizer: &mut Resizer,
    source: &TypedImageRef<'_, U8x3>,
    (width, height, target): (u32, u32, &mut [U8x3]),
    across: &Axis,
    down: &Axis,
) {
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .crop(across.start, down.start, across.length, down.length)
        .use_alpha(false);
    let mut target = TypedImage::from_pixels_slice(width, height, target).expect("sized by the caller");
    resizer.resize_typed(source, &mut target, &options).expect("an axis stays inside its source");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(width: u32, height: u32, rgb: &[u8], side: u32) -> Box<[u8]> {
        Fitter::new(side, [255; 3]).fit(&Picture::new(width, height, rgb).expect("a picture"))
    }

    /// Pads for real, then fits the square.
    fn padded(width: u32, height: u32, picture: &[u8], side: u32) -> Box<[u8]> {
        let square = width.max(height);
        let mut rgb = vec![255; (square * square) as usize * CHANNELS];
        let (left, top) = ((square - width) / 2, (square - height) / 2);
        for (y, line) in picture.chunks_exact(width as usize * CHANNELS).enumerate() {
            let at = ((top as usize + y) * square as usize + left as usize) * CHANNELS;
            rgb[at..at + line.len()].copy_from_slice(line);
        }
        fit(square, square, &rgb, side)
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    proptest! {
        /// The short cut around the padded square changes nothing but how its fixed-point weights are rounded.
        #[test]
        fn equals_resizing_the_padded_square(width in 1u32..90, height in 1u32..90, side in 1u32..60, seed: u64) {
            let rgb = noise((width * height) as usize * CHANNELS, seed);
            let fitted = fit(width, height, &rgb, side);
            let reference = padded(width, height, &rgb, side);
            let worst = fitted.iter().zip(&reference).map(|(a, b)| a.abs_diff(*b)).max();
            prop_assert!(worst <= Some(2), "{worst:?}");
        }
    }

    #[test]
    fn a_picture_of_the_models_size_is_left_alone() {
        let rgb = noise(32 * 32 * CHANNELS, 1);
        assert_eq!(&*fit(32, 32, &rgb, 32), rgb.as_slice());
    }

    #[test]
    fn extreme_shapes_fit() {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (2, 3)] {
            let rgb = vec![7; (width * height) as usize * CHANNELS];
            assert_eq!(fit(width, height, &rgb, 48).len(), 48 * 48 * CHANNELS);
        }
    }
}
