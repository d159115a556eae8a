//! From an image file to one row of a model's input, on one thread.

use super::fit::{Fitter, Frame};
use super::picture::{self, Reserve, Settings};
use crate::failure::Failure;

/// Bytes of pixels that are kept for the next image: those of most photos, which need not be cleared then, nor asked of the
/// system. 12 MiB.
const KEPT: usize = 12 << 20;

/// Makes rows for one model; keeps its buffers between images.
pub(crate) struct Decoder {
    settings: Settings,
    fitter: Fitter,
    spare: Vec<u8>,
}

impl Decoder {
    /// For models that look at this frame.
    pub(crate) fn new(settings: Settings, frame: Frame) -> Self {
        Self { settings, fitter: Fitter::new(frame), spare: Vec::new() }
    }

    /// What its rows are made for.
    pub(crate) const fn frame(&self) -> Frame {
        self.fitter.frame()
    }

    /// The row of an image: RGB, `side * side * 3` bytes. `reserve` is called before its pixels are allocated.
    ///
    /// # Errors
    /// As [`picture::decode`].
    pub(crate) fn row(&mut self, bytes: &[u8], reserve: Reserve<'_>) -> Result<Box<[u8]>, Failure> {
        let pixels = picture::decode(bytes, &self.settings, &self.fitter.frame(), &mut self.spare, reserve)?;
        let row = self.fitter.fit(&pixels.as_picture());
        self.spare = pixels.into_buffer();
        self.spare.truncate(KEPT);
        self.spare.shrink_to(KEPT);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::decode::fit::{Filter, Fit};

    #[test]
    fn a_row_shows_nothing_of_the_image_before() {
        let file =
            |name: &str| std::fs::read(format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a sample");
        let (large, small) = (file("photo-flower.jpg"), file("orange-sunset.jpg"));
        let settings = Settings { max_pixels: 100_000_000, ignore_orientation: false };
        let frame = Frame { side: 448, fit: Fit::Pad([255; 3]), filter: Filter::Bicubic };
        let mut used = Decoder::new(settings.clone(), frame);
        used.row(&large, &mut |_| Ok(())).expect("a row");
        assert!(!used.spare.is_empty(), "its pixels are kept");
        let row = used.row(&small, &mut |_| Ok(())).expect("a row");
        assert_eq!(row, Decoder::new(settings, frame).row(&small, &mut |_| Ok(())).expect("a row"));
    }
}
