//! From a picture of any size to one square row of the model's input, as the models were trained: most of them centred on
//! a white square and resized with Pillow's antialiased bicubic.
//!
//! The padded square never exists. What is computed is what Pillow computes on it: resizing runs along the width first
//! and the height second, each pass to 8 bits, and along a padded axis only the part whose filter reaches the picture is
//! resized, from the picture with a margin of padding as wide as the filter. The rest of the row is padding.
//!
//! Reference: `prepare_image` of the WD taggers' demo (pad, then `Image.BICUBIC`), and Pillow's `Resample.c`.

mod axis;

use fast_image_resize::images::{TypedCroppedImageMut, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageViewMut, ResizeAlg, ResizeOptions, Resizer};

use axis::Axis;

/// Bytes per pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// Pixels of a strip of the first pass: 384 KiB.
const STRIP: usize = 1 << 17;

/// Pixels that are kept between pictures of what the first pass made: enough for photos of 40 megapixels.
const KEPT: usize = 1 << 22;

/// The square a model looks at, and how pictures are made to fill it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Width and height in pixels.
    pub side: u32,
    /// How a picture that is no square becomes one.
    pub fit: Fit,
    /// How it is resized.
    pub filter: Filter,
}

impl Frame {
    /// Whether a picture of this size, reduced from a larger one, still has all the detail that shows in the frame: at least
    /// twice as many pixels along each side, so that the last and largest step of resizing is the reference's.
    #[must_use]
    pub fn is_enough(&self, width: u32, height: u32) -> bool {
        let decisive = match self.fit {
            Fit::Pad(_) => width.max(height),
            Fit::Stretch => width.min(height),
        };
        decisive >= self.side.saturating_mul(2)
    }

    /// Bytes that fitting a picture of this size takes besides it and the row, at most, whichever way up it is: the picture
    /// as wide as the row, with what the filter reads of the padding above and below.
    #[must_use]
    pub fn work_bytes(&self, width: u32, height: u32) -> u64 {
        let [short, long] = [width.min(height), width.max(height)].map(u64::from);
        let lines = match self.fit {
            Fit::Stretch => long,
            // The longer a picture is than the square's other side, the narrower it becomes.
            Fit::Pad(_) => short,
        };
        // The filter reaches a few pixels of the coarser side.
        let margin = 16 * (long / u64::from(self.side.max(1)) + 2);
        (lines + margin) * u64::from(self.side) * CHANNELS as u64
    }

    /// What of a picture's width and height is resized.
    fn axes(&self, width: u32, height: u32) -> (Axis, Axis) {
        let axis = |len: u32| {
            let square = match self.fit {
                Fit::Pad(_) => width.max(height),
                Fit::Stretch => len,
            };
            Axis::new(len, (square - len) / 2, square, self.side, self.filter.support())
        };
        (axis(width), axis(height))
    }

    /// Bytes of one row of the model's input.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.side as usize * self.side as usize * CHANNELS
    }
}

/// How a picture that is no square becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Centred on a square of this colour (RGB); an odd pixel of padding goes right or below.
    Pad([u8; CHANNELS]),
    /// Stretched.
    Stretch,
}

/// Pillow's antialiasing filters of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// a = -0.5.
    #[default]
    Bicubic,
    /// A triangle.
    Bilinear,
    /// Of three lobes.
    Lanczos,
}

impl Filter {
    /// The filter of this name, in lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bicubic, Self::Bilinear, Self::Lanczos].into_iter().find(|filter| filter.as_str() == name)
    }

    /// The name it is known by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bicubic => "bicubic",
            Self::Bilinear => "bilinear",
            Self::Lanczos => "lanczos",
        }
    }

    /// How far it reaches on each side, in pixels of the coarser side.
    const fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }

    const fn kernel(self) -> FilterType {
        match self {
            Self::Bicubic => FilterType::CatmullRom,
            Self::Bilinear => FilterType::Bilinear,
            Self::Lanczos => FilterType::Lanczos3,
        }
    }
}

/// Fits pictures to a frame; keeps its buffers between pictures.
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

impl Fitter {
    /// For this frame.
    #[must_use]
    pub fn new(frame: Frame) -> Self {
        let padding = match frame.fit {
            Fit::Pad(colour) => colour,
            Fit::Stretch => [0; CHANNELS],
        };
        let (margined, columns) = (Vec::new(), Vec::new());
        Self { frame, padding: U8x3::new(padding), resizer: Resizer::new(), margined, columns }
    }

    /// The frame pictures are fitted to.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// The picture as one row of the model's input: RGB, `side * side * 3` bytes.
    pub fn fit(&mut self, picture: &Picture<'_>) -> Box<[u8]> {
        let (across, down) = self.frame.axes(picture.width, picture.height);
        self.resize_width(picture, &across, &down);
        let row = self.resize_height(picture.height, &across, &down);
        self.columns.truncate(KEPT);
        self.columns.shrink_to(KEPT);
        row
    }

    /// First pass: into `columns`, which has the margin of the second pass above and below.
    fn resize_width(&mut self, picture: &Picture<'_>, across: &Axis, down: &Axis) {
        let width = across.count();
        let lines = |count: u32| (count * width) as usize;
        let (above, inside, below) = (lines(down.before), lines(picture.height), lines(down.after));
        // What an earlier picture left is written over, not cleared first.
        self.columns.resize(above + inside + below, self.padding);
        self.columns[..above].fill(self.padding);
        self.columns[above + inside..].fill(self.padding);
        let columns = &mut self.columns[above..][..inside];
        if across.before + across.after == 0 {
            let mut target = TypedImage::from_pixels_slice(width, picture.height, columns).expect("sized above");
            let whole = Axis::whole(picture.height);
            return resize(&mut self.resizer, self.frame.filter, &picture.pixels, &mut target, across, &whole);
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
            let mut target = TypedImage::from_pixels_slice(width, height, target).expect("height lines of it");
            resize(&mut self.resizer, self.frame.filter, &source, &mut target, across, &Axis::whole(height));
        }
    }

    /// Second pass: into the touched part of a row that is padding elsewhere.
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
        .resize_alg(ResizeAlg::Convolution(filter.kernel()))
        .crop(across.start, down.start, across.length, down.length)
        .use_alpha(false);
    resizer.resize_typed(source, target, &options).expect("an axis stays inside its source");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(width: u32, height: u32, rgb: &[u8], side: u32) -> Box<[u8]> {
        fit_with(Filter::Bicubic, width, height, rgb, side)
    }

    fn fit_with(filter: Filter, width: u32, height: u32, rgb: &[u8], side: u32) -> Box<[u8]> {
        let frame = Frame { side, fit: Fit::Pad([255; 3]), filter };
        Fitter::new(frame).fit(&Picture::new(width, height, rgb).expect("a picture"))
    }

    /// Pads for real, then fits the square.
    fn padded(filter: Filter, width: u32, height: u32, picture: &[u8], side: u32) -> Box<[u8]> {
        let square = width.max(height);
        let mut rgb = vec![255; (square * square) as usize * CHANNELS];
        let (left, top) = ((square - width) / 2, (square - height) / 2);
        for (y, line) in picture.chunks_exact(width as usize * CHANNELS).enumerate() {
            let at = ((top as usize + y) * square as usize + left as usize) * CHANNELS;
            rgb[at..at + line.len()].copy_from_slice(line);
        }
        fit_with(filter, square, square, &rgb, side)
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
            for filter in [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos] {
                let fitted = fit_with(filter, width, height, &rgb, side);
                let reference = padded(filter, width, height, &rgb, side);
                let worst = fitted.iter().zip(&reference).map(|(a, b)| a.abs_diff(*b)).max();
                prop_assert!(worst <= Some(2), "{filter:?}: {worst:?}");
            }
        }
    }

    #[test]
    fn a_picture_of_the_models_size_is_left_alone() {
        let rgb = noise(32 * 32 * CHANNELS, 1);
        assert_eq!(&*fit(32, 32, &rgb, 32), rgb.as_slice());
    }

    #[test]
    fn a_stretched_picture_fills_the_frame() {
        let frame = Frame { side: 8, fit: Fit::Stretch, filter: Filter::Bilinear };
        let rgb = [7; 30 * 5 * CHANNELS];
        let fitted = Fitter::new(frame).fit(&Picture::new(30, 5, &rgb).expect("a picture"));
        assert_eq!(&*fitted, &[7; 8 * 8 * CHANNELS]);
    }

    proptest! {
        /// Room is taken for what fitting allocates.
        #[test]
        fn takes_the_memory_it_says(width in 1u32..3000, height in 1u32..3000, side in 1u32..600, pad: bool) {
            let fit = if pad { Fit::Pad([255; 3]) } else { Fit::Stretch };
            let frame = Frame { side, fit, filter: Filter::Lanczos };
            let (across, down) = frame.axes(width, height);
            let columns = u64::from(across.count()) * u64::from(down.before + height + down.after) * CHANNELS as u64;
            prop_assert!(columns <= frame.work_bytes(width, height), "{columns}");
        }
    }

    #[test]
    fn what_is_kept_between_pictures_is_bounded() {
        let frame = Frame { side: 448, fit: Fit::Stretch, filter: Filter::Bicubic };
        let mut fitter = Fitter::new(frame);
        fitter.fit(&Picture::new(1, 65_535, &vec![7; 65_535 * CHANNELS]).expect("a picture"));
        assert!(fitter.columns.capacity() <= KEPT);
    }

    #[test]
    fn extreme_shapes_fit() {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (2, 3)] {
            let rgb = vec![7; (width * height) as usize * CHANNELS];
            assert_eq!(fit(width, height, &rgb, 48).len(), 48 * 48 * CHANNELS);
        }
    }
}
