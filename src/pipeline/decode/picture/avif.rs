//! AVIF, by libavif and dav1d, with which Pillow decodes too. No safe binding sets libavif's limits, so its C interface is
//! used here, and nowhere else.

#![expect(unsafe_code, reason = "libavif has no safe binding that sets its limits")]

use std::ffi::CStr;
use std::ptr::NonNull;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage, RgbaImage};
use libavif_sys as sys;

use super::format::Format;
use super::{Decoded, Limits, MAX_SIDE, admit, orientation};
use crate::failure::Failure;

/// Planes of 16 bits with alpha, and RGBA.
const BYTES_PER_PIXEL: u64 = 8 + 4 + 3;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let mut decoder = Decoder::new(bytes)?;
    let image = decoder.image();
    let (width, height, orientation) = (image.width, image.height, orientation(image));
    admit(Format::Avif, (width, height), BYTES_PER_PIXEL, limits)?;
    // A coded frame may be larger than the header says; libavif compares only after decoding.
    decoder.limit(width, height);
    decoder.next_image()?;
    Ok(Decoded { image: decoder.pixels()?, orientation })
}

/// Owner of libavif's decoder, whose header was read.
struct Decoder<'a> {
    decoder: NonNull<sys::avifDecoder>,
    /// Input of the decoder: libavif keeps the pointer.
    _bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Failure> {
        // SAFETY: no arguments; null is checked.
        let decoder = NonNull::new(unsafe { sys::avifDecoderCreate() }).ok_or_else(|| broken("out of memory"))?;
        let mut this = Self { decoder, _bytes: bytes };
        // SAFETY: `decoder` is live and not shared.
        let settings = unsafe { this.decoder.as_mut() };
        settings.codecChoice = sys::AVIF_CODEC_CHOICE_DAV1D;
        settings.maxThreads = 1; // There is a thread for every core already.
        settings.imageDimensionLimit = MAX_SIDE;
        settings.imageCountLimit = 1 << 16;
        // As in Pillow, because files of older encoders do not meet later requirements of the standard.
        settings.strictFlags &= !(sys::AVIF_STRICT_PIXI_REQUIRED | sys::AVIF_STRICT_CLAP_VALID);
        // SAFETY: `bytes` outlives the decoder, by the lifetime of `Self`.
        check(unsafe { sys::avifDecoderSetIOMemory(this.decoder.as_ptr(), bytes.as_ptr(), bytes.len()) })?;
        // SAFETY: the decoder is live and has its input.
        check(unsafe { sys::avifDecoderParse(this.decoder.as_ptr()) })?;
        Ok(this)
    }

    fn limit(&mut self, width: u32, height: u32) {
        // SAFETY: `decoder` is live and not shared.
        unsafe { self.decoder.as_mut() }.imageSizeLimit = width.saturating_mul(height).min(LARGEST);
    }

    fn next_image(&mut self) -> Result<(), Failure> {
        // SAFETY: the decoder is live and its header was read.
        check(unsafe { sys::avifDecoderNextImage(self.decoder.as_ptr()) })
    }

    fn image(&self) -> &sys::avifImage {
        // SAFETY: once its header was read a decoder has an image, its own, and changes it only in `next_image`.
        unsafe { &*self.decoder.as_ref().image }
    }

    /// Returns the pixels of the decoded image.
    fn pixels(&self) -> Result<DynamicImage, Failure> {
        let image = self.image();
        let (width, height) = (image.width, image.height);
        let mut rgb = sys::avifRGBImage::default();
        // SAFETY: both live.
        unsafe { sys::avifRGBImageSetDefaults(&raw mut rgb, image) };
        let transparent = !image.alphaPlane.is_null();
        let channels: u32 = if transparent { 4 } else { 3 };
        rgb.format = if transparent { sys::AVIF_RGB_FORMAT_RGBA } else { sys::AVIF_RGB_FORMAT_RGB };
        rgb.depth = 8;
        rgb.rowBytes = width * channels;
        let mut samples = vec![0; width as usize * height as usize * channels as usize];
        rgb.pixels = samples.as_mut_ptr();
        // SAFETY: `samples` has `rowBytes` for each row of `image`, whose size `rgb` has taken on.
        check(unsafe { sys::avifImageYUVToRGB(image, &raw mut rgb) })?;
        let pixels = if transparent {
            RgbaImage::from_raw(width, height, samples).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, samples).map(DynamicImage::from)
        };
        pixels.ok_or_else(|| broken("it has no pixels"))
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: live until here, and destroyed once.
        unsafe { sys::avifDecoderDestroy(self.decoder.as_ptr()) };
    }
}

/// Maximum size limit of libavif, which refuses a larger one as no limit at all.
const LARGEST: u32 = 16_384 * 16_384;

/// Rotation and mirroring of the container, which take precedence over EXIF.
fn orientation(image: &sys::avifImage) -> Orientation {
    let is = |flag: sys::avifTransformFlag| image.transformFlags & flag != 0;
    let turns = if is(sys::AVIF_TRANSFORM_IROT) { image.irot.angle % 4 } else { 0 };
    let mirror = is(sys::AVIF_TRANSFORM_IMIR).then_some(image.imir.axis);
    // First turned anticlockwise, then mirrored: axis 0 swaps top and bottom, 1 left and right.
    let exif = match (turns, mirror) {
        (0, None) => return orientation::stated(metadata(&image.exif), metadata(&image.xmp)),
        (1, None) => 8,
        (2, None) => 3,
        (_, None) => 6,
        (0, Some(0)) | (2, Some(1..)) => 4,
        (0, Some(_)) | (2, Some(0)) => 2,
        (1, Some(0)) | (3, Some(1..)) => 5,
        (_, Some(_)) => 7,
    };
    Orientation::from_exif(exif).unwrap_or(Orientation::NoTransforms)
}

fn metadata(data: &sys::avifRWData) -> Option<&[u8]> {
    // SAFETY: libavif's own allocation of `size` bytes, null when empty, alive as long as its image.
    (!data.data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.data, data.size) })
}

fn check(result: sys::avifResult) -> Result<(), Failure> {
    if result == sys::AVIF_RESULT_OK {
        return Ok(());
    }
    // SAFETY: a static text for every number.
    let text = unsafe { CStr::from_ptr(sys::avifResultToString(result)) };
    Err(broken(text.to_string_lossy()))
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Format::Avif.broken(error)
}
