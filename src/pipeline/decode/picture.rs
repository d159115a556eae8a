//! From the bytes of an image file to upright, opaque RGB pixels, the same that Pillow makes of it.
//!
//! The format is told by content, limits are checked on the header before any pixel is allocated, the EXIF orientation
//! is applied, transparency is composited on white, and of an animation the first frame is taken; colour profiles are
//! left alone. A file that is corrupt or ends early is refused rather than tagged on what is missing.

#[cfg(feature = "avif")]
mod avif;
mod bmp;
mod format;
mod header;
#[cfg(feature = "heic")]
mod heic;
mod jpeg;
#[cfg(feature = "jxl")]
mod jxl;
mod opaque;
mod orientation;
mod raster;
mod tiff;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod parity;

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::fit::Picture;
use crate::failure::{Code, Failure};
use crate::model::frame::Frame;
use format::Format;
pub(crate) use format::HEAD;

/// The longest side that is read: more than any JPEG or GIF can have, little enough to resize in good time.
const MAX_SIDE: u32 = 65_535;

/// Bytes of an opaque pixel.
const RGB: u64 = 3;

/// What is refused, and what is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pixels an image may have.
    pub max_pixels: u64,
    /// Take pixels as they are stored, whatever EXIF says of how to turn them.
    pub ignore_orientation: bool,
}

/// Takes room for so many bytes, before they are allocated; waits for it, or refuses what will never fit.
pub type Reserve<'a> = &'a mut dyn FnMut(u64) -> Result<(), Failure>;

/// What an image must keep to.
struct Limits<'a> {
    settings: &'a Settings,
    frame: &'a Frame,
    /// What an earlier image's pixels were in.
    spare: &'a mut Vec<u8>,
    reserve: Reserve<'a>,
}

/// Decoded pixels.
pub struct Pixels(RgbImage);

impl Pixels {
    /// As the resizer takes them.
    ///
    /// # Panics
    /// Never: decoded pictures have as many bytes as their size says, and some.
    #[must_use]
    pub fn as_picture(&self) -> Picture<'_> {
        let (width, height) = self.0.dimensions();
        Picture::new(width, height, self.0.as_raw()).expect("a decoded picture has width * height pixels")
    }

    /// What they are in.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.0.into_raw()
    }
}

/// What a format's decoder makes of a file.
struct Decoded {
    image: DynamicImage,
    /// How to turn the image upright.
    orientation: Orientation,
}

/// Decodes an image with all the detail that shows in `frame`: a format that can be decoded at a reduced size is, where that
/// is enough. `reserve` is called once its size is known, with the most bytes decoding it takes. `spare` may hold anything; its
/// room is used where that saves time.
///
/// # Errors
/// `image_undecodable`, naming the format sniffed, or `image_too_large`.
pub fn decode(
    bytes: &[u8],
    settings: &Settings,
    frame: &Frame,
    spare: &mut Vec<u8>,
    reserve: Reserve<'_>,
) -> Result<Pixels, Failure> {
    let format = format::sniff(bytes)?;
    let mut limits = Limits { settings, frame, spare, reserve };
    // The decoders keep nothing that a panic could leave half done, and one file that makes one panic always will.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, &mut limits)));
    let Decoded { image, orientation } =
        decoded.unwrap_or_else(|_| Err(format.broken("its decoder panics over it")))?;
    let mut image = DynamicImage::ImageRgb8(opaque::on_white(image));
    if !settings.ignore_orientation {
        image.apply_orientation(orientation);
    }
    Ok(Pixels(image.into_rgb8()))
}

/// The name of a file's format, by its first bytes.
///
/// # Errors
/// Name of a format that this build does not read.
pub(crate) fn kind(bytes: &[u8]) -> Result<&'static str, &'static str> {
    format::kind(bytes)
}

/// Whether it is a JPEG, whose decoder uses the room that is spare.
pub(crate) fn is_jpeg(bytes: &[u8]) -> bool {
    matches!(format::sniff(bytes), Ok(Format::Jpeg))
}

fn decode_as(format: Format, bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
        Format::Tiff => tiff::decode(bytes, limits),
        #[cfg(feature = "jxl")]
        Format::Jxl => jxl::decode(bytes, limits),
        #[cfg(feature = "avif")]
        Format::Avif => avif::decode(bytes, limits),
        #[cfg(feature = "heic")]
        Format::Heic => heic::decode(bytes, limits),
        _ => raster::decode(format, bytes, limits),
    }
}

/// Refuses a size that a header tells, or takes room for it, before anything of that size is allocated.
fn admit(
    format: Format,
    (width, height): (u32, u32),
    bytes_per_pixel: u64,
    limits: &mut Limits<'_>,
) -> Result<(), Failure> {
    let pixels = check(format, (width, height), limits)?;
    take_room(pixels.saturating_mul(bytes_per_pixel), (width, height), limits)
}

/// Refuses a size that a header tells, or gives its pixels.
fn check(format: Format, (width, height): (u32, u32), limits: &Limits<'_>) -> Result<u64, Failure> {
    let pixels = u64::from(width) * u64::from(height);
    let max_pixels = limits.settings.max_pixels;
    if pixels > max_pixels {
        return Err(Failure::new(
            Code::ImageTooLarge,
            format!(
                "the image is {width}x{height}, {pixels} pixels, over the limit of {max_pixels} (--max-image-pixels)"
            ),
        ));
    }
    if width.max(height) > MAX_SIDE {
        return Err(Failure::new(
            Code::ImageTooLarge,
            format!("the image is {width}x{height}, and no side may be over {MAX_SIDE} pixels"),
        ));
    }
    if pixels == 0 {
        return Err(format.broken(format_args!("it is {width}x{height} and has no pixels")));
    }
    Ok(pixels)
}

/// Takes room for decoding, for turning a picture of this size upright, which takes another one, and for fitting it.
fn take_room(decoding: u64, (width, height): (u32, u32), limits: &mut Limits<'_>) -> Result<(), Failure> {
    let pixels = u64::from(width) * u64::from(height);
    let turned = if limits.settings.ignore_orientation { 0 } else { RGB };
    let fitting = limits.frame.work_bytes(width, height);
    (limits.reserve)(decoding.saturating_add(pixels.saturating_mul(turned)).saturating_add(fitting))
}

/// Bytes a decoder may allocate for a picture of this size: 16-bit RGBA twice, and its own tables.
fn memory(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height) * 16 + (32 << 20)
}
