//! Conversion of an image file to one row of a model's input, on one thread.

use super::fit::Fitter;
use super::picture::{self, Reserve, Settings};
use crate::failure::Failure;
use crate::model::frame::Frame;

/// Bytes of a JPEG's pixels that are kept for the next one: those of most photos, which then need not be cleared or
/// requested from the system. 12 MiB.
const KEPT: usize = 12 << 20;

/// Makes rows for one model. Keeps its buffers between images.
pub(crate) struct Decoder {
    settings: Settings,
    fitter: Fitter,
    spare: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder for models with this frame.
    pub(crate) fn new(settings: Settings, frame: Frame) -> Self {
        Self { settings, fitter: Fitter::new(frame), spare: Vec::new() }
    }

    /// Frame of its rows.
    pub(crate) const fn frame(&self) -> Frame {
        self.fitter.frame()
    }

    /// Returns `true` if it decodes with these settings for this frame.
    pub(super) fn is_for(&self, settings: &Settings, frame: Frame) -> bool {
        self.settings == *settings && self.frame() == frame
    }

    /// Returns the row of an image: RGB, `side * side * 3` bytes. `reserve` is called before its pixels are allocated.
    ///
    /// # Errors
    /// As [`picture::decode`].
    pub(crate) fn row(&mut self, bytes: &[u8], reserve: Reserve<'_>) -> Result<Box<[u8]>, Failure> {
        #[cfg(debug_assertions)]
        super::test_picture::obey(bytes);
        let pixels = picture::decode(bytes, &self.settings, &self.fitter.frame(), &mut self.spare, reserve)?;
        let row = self.fitter.fit(&pixels.as_picture());
        // The other decoders bring buffers of their own.
        self.spare = if picture::is_jpeg(bytes) { pixels.into_buffer() } else { Vec::new() };
        self.spare.truncate(KEPT);
        self.spare.shrink_to(KEPT);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use turbojpeg::{Image, PixelFormat, Subsamp};

    use super::*;
    use crate::model::frame::{Filter, Fit};

    fn decoder() -> Decoder {
        let settings = Settings { max_pixels: 100_000_000, ignore_orientation: false };
        Decoder::new(settings, Frame { side: 448, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic })
    }

    fn row(decoder: &mut Decoder, bytes: &[u8]) -> Box<[u8]> {
        decoder.row(bytes, &mut |_| Ok(())).expect("a row")
    }

    fn jpeg(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
        let pixels = colour.repeat(width * height);
        let image = Image { pixels: &*pixels, width, pitch: 3 * width, height, format: PixelFormat::RGB };
        turbojpeg::compress(image, 90, Subsamp::Sub2x2).expect("it fits").to_vec()
    }

    #[test]
    fn a_row_shows_nothing_of_the_image_before() {
        let (large, small) = (jpeg(640, 480, [200, 0, 0]), jpeg(30, 200, [0, 0, 200]));
        let mut used = decoder();
        for image in [&large, &small, &large] {
            assert_eq!(row(&mut used, image), row(&mut decoder(), image));
            assert!(!used.spare.is_empty(), "its pixels are kept");
        }
    }

    #[test]
    fn what_is_kept_between_images_is_bounded() {
        let mut used = decoder();
        // Too slim to be decoded at a reduced size.
        row(&mut used, &jpeg(890, 1790, [9; 3]));
        assert!(used.spare.capacity() >= 890 * 1790 * 3);
        used.spare = vec![0; 2 * KEPT];
        row(&mut used, &jpeg(8, 8, [9; 3]));
        assert!(used.spare.capacity() <= KEPT);
    }
}
