//! PNG, WebP and GIF, by the `image` crate.

use std::io::Cursor;

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageResult};

use super::format::Format;
use super::{Decoded, Limits, RGB, admit, header, memory, orientation};
use crate::failure::Failure;

pub(super) fn decode(format: Format, bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    match format {
        Format::Png => png(bytes, limits),
        Format::WebP => webp(bytes, limits),
        Format::Gif => read(format, GifDecoder::new(Cursor::new(header::gif(bytes))), limits),
        Format::Jpeg | Format::Bmp | Format::Tiff | Format::Jxl | Format::Avif | Format::Heic => {
            Err(format.broken("it has a decoder of its own"))
        }
    }
}

/// What follows the pixels can say how to turn them: a file without its end is refused even if they are there.
fn png(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    // Profiles, which are left alone, are unpacked before the size is known.
    let header = PngDecoder::with_limits(Cursor::new(bytes), allow(memory(0, 0)));
    let decoded = read(Format::Png, header, limits)?;
    if !chunks(bytes).any(|(kind, _)| kind == b"IEND") {
        return Err(Format::Png.broken("it has no end"));
    }
    Ok(Decoded { orientation: png_orientation(bytes, decoded.orientation), ..decoded })
}

/// As for PNG.
fn webp(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let decoded = read(Format::WebP, WebPDecoder::new(Cursor::new(header::webp(bytes))), limits)?;
    if is_whole(bytes) { Ok(decoded) } else { Err(Format::WebP.broken("it ends before its header says")) }
}

/// Reads a picture whose header was read.
pub(super) fn read<D: ImageDecoder>(
    format: Format,
    decoder: ImageResult<D>,
    limits: &mut Limits<'_>,
) -> Result<Decoded, Failure> {
    let refused = |error| refused(format, error);
    let mut decoder = decoder.map_err(refused)?;
    let (width, height) = decoder.dimensions();
    // As stored, and opaque.
    let bytes_per_pixel = u64::from(decoder.color_type().bytes_per_pixel()) + RGB;
    admit(format, (width, height), bytes_per_pixel, limits)?;
    decoder.set_limits(allow(memory(width, height))).map_err(refused)?;
    let orientation = orientation(&mut decoder);
    let image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    Ok(Decoded { image, orientation })
}

/// How to turn a picture; metadata that can't be read leave it as it is.
pub(super) fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    match decoder.orientation() {
        Ok(orientation) if orientation != Orientation::NoTransforms => orientation,
        _ => {
            let exif = decoder.exif_metadata().ok().flatten();
            let xmp = decoder.xmp_metadata().ok().flatten();
            orientation::stated(exif.as_deref(), xmp.as_deref())
        }
    }
}

/// Whether a WebP has as many bytes as it says.
fn is_whole(bytes: &[u8]) -> bool {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok()).map_or(u32::MAX, u32::from_le_bytes);
    size as usize + 8 <= bytes.len()
}

/// How to turn a PNG: what its decoder found, else what follows the pixels, where the decoder stops reading.
fn png_orientation(bytes: &[u8], found: Orientation) -> Orientation {
    if found != Orientation::NoTransforms {
        return found;
    }
    orientation::stated(chunks(bytes).find_map(|(kind, data)| (kind == b"eXIf").then_some(data)), None)
}

/// The chunks of a PNG that are all there: kind and content of each.
fn chunks(png: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = png.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let ([a, b, c, d, kind @ ..], body) = rest.split_first_chunk::<8>()?;
        let (data, after) = body.split_at_checked(u32::from_be_bytes([*a, *b, *c, *d]) as usize)?;
        rest = after.get(4..)?; // Past the checksum.
        Some((kind.as_slice(), data))
    })
}

fn allow(bytes: u64) -> image::Limits {
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

fn refused(format: Format, error: ImageError) -> Failure {
    match error {
        ImageError::Limits(limit) => format.too_large(limit),
        // Its text would name the format again.
        ImageError::Decoding(error) => format.broken(std::error::Error::source(&error).unwrap_or(&error)),
        error => format.broken(error),
    }
}
