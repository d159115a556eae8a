//! Conversion of a picture of any size to one square row of the model's input, as in training: most models take it centred
//! on a white square and resized with Pillow's antialiased bicubic.
//!
//! The padded square never exists. The result is the one that Pillow computes on it: resizing runs along the width first
//! and the height second, each pass to 8 bits, and along a padded axis only the part whose filter reaches the picture is
//! resized, from the picture with a margin of padding as wide as the filter. The rest of the row is padding.
//!
//! Reference: `prepare_image` of the WD taggers' demo (pad, then `Image.BICUBIC`), and Pillow's `Resample.c`.

use std::ops::Range;

use fast_image_resize::images::{TypedCroppedImageMut, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageViewMut, ResizeAlg, ResizeOptions, Resizer};

use crate::model::frame::{CHANNELS, Filter, Fit, Frame};

/// Pixels of a strip of the first pass: 384 KiB.
const STRIP: usize = 1 << 17;

/// Maximum pixels of the first pass's result that are kept between pictures: enough for photos of 40 megapixels.
const KEPT: usize = 1 << 22;

/// Fits pictures to a frame. Keeps its buffers between pictures.
pub struct Fitter {
    frame: Frame,
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
    /// Creates a picture from RGB bytes, row by row. Returns `None` unless there are exactly `width * height * 3`, and some.
    #[must_use]
    pub fn new(width: u32, height: u32, rgb: &'a [u8]) -> Option<Self> {
        if rgb.is_empty() || rgb.len() != width as usize * height as usize * CHANNELS {
            return None;
        }
        let pixels = TypedImageRef::from_buffer(width, height, rgb).ok()?;
        Some(Self { width, height, pixels })
    }
}

impl Fitter {
    /// Creates a fitter for this frame.
    #[must_use]
    pub fn new(frame: Frame) -> Self {
        let padding = match frame.fit {
            Fit::Pad(colour) => colour,
            Fit::Stretch => [0; CHANNELS],
        };
        let (margined, columns) = (Vec::new(), Vec::new());
        Self { frame, padding: U8x3::new(padding), resizer: Resizer::new(), margined, columns }
    }

    /// Frame to which pictures are fitted.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// Returns the picture as one row of the model's input: RGB, `side * side * 3` bytes.
    pub fn fit(&mut self, picture: &Picture<'_>) -> Box<[u8]> {
        let (across, down) = axes(&self.frame, picture.width, picture.height);
        self.resize_width(picture, &across, &down);
        let row = self.resize_height(picture.height, &across, &down);
        self.columns.truncate(KEPT);
        self.columns.shrink_to(KEPT);
        row
    }

    /// First pass: resizes into `columns`, which has the margin of the second pass above and below.
    fn resize_width(&mut self, picture: &Picture<'_>, across: &Axis, down: &Axis) {
        let width = across.count();
        let lines = |count: u32| (count * width) as usize;
        let (above, inside, below) = (lines(down.before), lines(picture.height), lines(down.after));
        // Overwrites an earlier picture instead of clearing it first.
        self.columns.resize(above + inside + below, self.padding);
        self.columns[..above].fill(self.padding);
        self.columns[above + inside..].fill(self.padding);
        let columns = &mut self.columns[above..][..inside];
        if across.before + across.after == 0 {
            let mut target = TypedImage::from_pixels_slice(width, picture.height, columns).expect("sized above");
            let whole = Axis::whole(picture.height);
            return resize(&mut self.resizer, self.frame.filter, &picture.pixels, &mut target, across, &whole);
        }
        // Resizes in strips that stay in the cache, so that the picture is never copied whole.
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
            let mut target = TypedImage::from_pixels_slice(width, height, target).expect("height lines of it");
            resize(&mut self.resizer, self.frame.filter, &source, &mut target, across, &Axis::whole(height));
        }
    }

    /// Second pass: resizes into the touched part of a row that is padding elsewhere.
    fn resize_height(&mut self, height: u32, across: &Axis, down: &Axis) -> Box<[u8]> {
        let (side, width) = (self.frame.side, across.count());
        let mut row = self.padding.0.repeat((side * side) as usize).into_boxed_slice();
        let square = TypedImage::from_buffer(side, side, &mut row).expect("it has side * side pixels");
        let (left, top) = (across.touched.start, down.touched.start);
        let mut target =
            TypedCroppedImageMut::new(square, left, top, width, down.count()).expect("what is touched is in the row");
        let source = TypedImageRef::new(width, down.before + height + down.after, &self.columns)
            .expect("the first pass filled it");
        resize(&mut self.resizer, self.frame.filter, &source, &mut target, &Axis::whole(width), down);
        row
    }
}

fn resize(
    resizer: &mut Resizer,
    filter: Filter,
    source: &TypedImageRef<'_, U8x3>,
    target: &mut impl ImageViewMut<Pixel = U8x3>,
    across: &Axis,
    down: &Axis,
) {
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(kernel(filter)))
        .crop(across.start, down.start, across.length, down.length)
        .use_alpha(false);
    resizer.resize_typed(source, target, &options).expect("an axis stays inside its source");
}

/// Resized parts of a picture's width and height.
fn axes(frame: &Frame, width: u32, height: u32) -> (Axis, Axis) {
    let axis = |len: u32| {
        let square = match frame.fit {
            Fit::Pad(_) => width.max(height),
            Fit::Stretch => len,
        };
        Axis::new(len, (square - len) / 2, square, frame.side, frame.filter.support())
    };
    (axis(width), axis(height))
}

/// Filter type of the resizer for a filter.
const fn kernel(filter: Filter) -> FilterType {
    match filter {
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Lanczos => FilterType::Lanczos3,
    }
}

/// Resized part of one axis of the padded square.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    /// Pixels of the result that the picture touches.
    touched: Range<u32>,
    /// Padding kept for the filter to read before the picture, and after it; none beyond the square.
    before: u32,
    after: u32,
    /// Start and length of `touched`, in source pixels after the margin was added.
    start: f64,
    length: f64,
}

impl Axis {
    /// Creates the axis of a picture `len` long at `offset` in a square of `square`, resized to `side`.
    fn new(len: u32, offset: u32, square: u32, side: u32, support: f64) -> Self {
        if len == square {
            return Self { touched: 0..side, before: 0, after: 0, start: 0.0, length: f64::from(len) };
        }
        let scale = f64::from(square) / f64::from(side);
        let reach = support * scale.max(1.0);
        let (first, last) = (f64::from(offset), f64::from(offset + len));
        // Pixel i of the result is centred on (i + 0.5) * scale and reads `reach` to both sides.
        let low = ((first - reach) / scale - 0.5).floor().max(0.0);
        let high = ((last + reach) / scale + 0.5).ceil().min(f64::from(side));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and side")]
        let touched = low as u32..high as u32;
        // The outermost touched pixels read at most twice the reach beyond the picture, and no pixel reads more.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few source pixels")]
        let margin = (2.0 * (reach + scale)).ceil() as u32 + 1;
        let (before, after) = (margin.min(offset), margin.min(square - offset - len));
        // If the picture's own margin reaches the square's edge, rounding must not lead beyond it.
        let start = (low * scale - first + f64::from(before)).max(0.0);
        let length = ((high - low) * scale).min(f64::from(before + len + after) - start);
        Self { touched, before, after, start, length }
    }

    /// An axis that is not resized.
    fn whole(len: u32) -> Self {
        Self { touched: 0..len, before: 0, after: 0, start: 0.0, length: f64::from(len) }
    }

    /// Number of pixels of the result that it touches.
    const fn count(&self) -> u32 {
        self.touched.end - self.touched.start
    }
}

#[cfg(test)]
mod tests;
