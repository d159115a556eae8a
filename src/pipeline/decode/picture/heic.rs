//! HEIC, by libheif and libde265, which Pillow's plugin decodes with too. Cropping, turning and mirroring are part of the
//! picture in its container and always applied, by libheif; EXIF repeats them and is not asked.

use std::sync::LazyLock;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage, RgbaImage};
use libheif_rs::{
    ColorSpace, DecodingOptions, HeifContext, HeifError, HeifErrorCode, HeifErrorSubCode, Image, ImageHandle, LibHeif,
    RgbChroma, SecurityLimits,
};

use super::format::Format;
use super::{Decoded, Limits, MAX_SIDE, admit};
use crate::failure::Failure;

/// libheif with its decoders registered, once for the process.
static LIBRARY: LazyLock<LibHeif> = LazyLock::new(LibHeif::new);

/// Memory before the size is known: boxes and tables, a grid's list of tiles among them.
const TABLES: u64 = 64 << 20;

/// libde265's planes and libheif's copy of them in 16 bits, the same turned, RGBA in 16 and in 8 bits.
const BYTES_PER_PIXEL: u64 = 6 + 6 + 6 + 8 + 4;

/// Further pixels of a side that are coded and cropped off: a grid's last tile, up to the largest in use.
const OVERHANG: u64 = 1024;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let mut context = HeifContext::new().map_err(refused)?;
    context.set_max_decoding_threads(0); // There is a thread for every core already.
    allow(&mut context, TABLES, u64::from(MAX_SIDE) * u64::from(MAX_SIDE))?;
    context.read_bytes(bytes).map_err(refused)?;
    let picture = context.primary_image_handle().map_err(refused)?;
    let (width, height) = coded_size(&picture);
    admit(Format::Heic, (width, height), BYTES_PER_PIXEL, limits)?;
    let coded = (u64::from(width) + OVERHANG) * (u64::from(height) + OVERHANG);
    allow(&mut context, TABLES + coded * BYTES_PER_PIXEL, coded)?;
    let image = pixels(&picture)?;
    Ok(Decoded { image, orientation: Orientation::NoTransforms })
}

/// The size before cropping, which decoding takes room for; or the one shown, if that is larger.
fn coded_size(picture: &ImageHandle) -> (u32, u32) {
    let side = |pixels: i32| u32::try_from(pixels).unwrap_or(0);
    let coded = (side(picture.ispe_width()), side(picture.ispe_height()));
    let shown = (picture.width(), picture.height());
    let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    if pixels(coded) > pixels(shown) { coded } else { shown }
}

fn allow(context: &mut HeifContext<'_>, memory: u64, pixels: u64) -> Result<(), Failure> {
    let mut allowed = SecurityLimits::new();
    allowed.set_max_total_memory(memory);
    allowed.set_max_memory_block_size(memory);
    allowed.set_max_image_size_pixels(pixels);
    context.set_security_limits(&allowed).map_err(refused)
}

fn pixels(picture: &ImageHandle) -> Result<DynamicImage, Failure> {
    let mut options = DecodingOptions::new().ok_or_else(|| Format::Heic.broken("out of memory"))?;
    options.set_convert_hdr_to_8bit(true);
    // Damage that the decoder notices is a warning otherwise.
    options.set_strict_decoding(true);
    options.set_num_library_threads(1);
    options.set_num_codec_threads(1);
    let transparent = picture.has_alpha_channel();
    let chroma = if transparent { RgbChroma::Rgba } else { RgbChroma::Rgb };
    let image = LIBRARY.decode(picture, ColorSpace::Rgb(chroma), Some(options)).map_err(refused)?;
    let samples = samples(&image, if transparent { 4 } else { 3 })?;
    let (width, height) = (image.width(), image.height());
    let pixels = if transparent {
        RgbaImage::from_raw(width, height, samples).map(|image| straight(image, picture.is_premultiplied_alpha()))
    } else {
        RgbImage::from_raw(width, height, samples).map(DynamicImage::from)
    };
    pixels.ok_or_else(|| Format::Heic.broken("it has no pixels"))
}

/// Rows of an image without the bytes between them.
fn samples(image: &Image, channels: usize) -> Result<Vec<u8>, Failure> {
    let plane = image.planes().interleaved.ok_or_else(|| Format::Heic.broken("it has no pixels"))?;
    let (row, height) = (plane.width as usize * channels, plane.height as usize);
    let mut samples = Vec::with_capacity(row * height);
    for line in plane.data.chunks(plane.stride.max(1)).take(height) {
        samples.extend_from_slice(line.get(..row).unwrap_or_default());
    }
    Ok(samples)
}

/// A transparent image on white, where its colours were multiplied with their opacity, else as it is.
fn straight(image: RgbaImage, premultiplied: bool) -> DynamicImage {
    if !premultiplied {
        return image.into();
    }
    let on_white = |colour: u8, alpha: u8| colour.saturating_add(255 - alpha);
    let (width, height) = image.dimensions();
    let opaque = image.pixels().flat_map(|pixel| [0, 1, 2].map(|channel| on_white(pixel[channel], pixel[3])));
    RgbImage::from_raw(width, height, opaque.collect()).unwrap_or_default().into()
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn refused(error: HeifError) -> Failure {
    let message = error.message.trim_end_matches('.');
    match (error.code, error.sub_code) {
        (HeifErrorCode::MemoryAllocationError, _) | (_, HeifErrorSubCode::SecurityLimitExceeded) => {
            Format::Heic.too_large(message)
        }
        _ => Format::Heic.broken(message),
    }
}
