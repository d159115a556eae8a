//! JPEG, by libjpeg-turbo: what Pillow decodes with, so the pixels are the same.
//!
//! libjpeg makes a picture of whatever is left of a file, grey where data are missing, and only warns. Its
//! `TurboJPEG` interface reports a warning as an error once all is decoded, and every one of them is a refusal here.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor};

use super::format::Format;
use super::{Decoded, Frame, Limits, RGB, check, opaque, orientation, take_room};
use crate::failure::Failure;

/// Scans a progressive JPEG may have; encoders write about ten, and each costs a pass over the whole picture.
const MAX_SCANS: u32 = 100;

/// Of a decoded picture, at most: inks have four.
const CHANNELS: u64 = 4;

/// How many pixels of 8 along a side a reduced picture may have. 5, 6 and 7 are left out: their transforms have no SIMD and
/// take longer than the whole one, by more than resizing then saves.
const REDUCED: [usize; 4] = [1, 2, 3, 4];

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let mut decompressor = Decompressor::new().map_err(broken)?;
    decompressor.set_scan_limit(MAX_SCANS).map_err(broken)?;
    let header = decompressor.read_header(bytes).map_err(broken)?;
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let stored = check(Format::Jpeg, (side(header.width), side(header.height)), limits)?;
    // All scans of a progressive picture are kept, as 16-bit coefficients.
    let coefficients = if header.is_progressive { stored * 2 * CHANNELS } else { 0 };
    let scale = scale(&header, limits.frame);
    if !header.is_lossless {
        decompressor.set_scaling_factor(scale).map_err(broken)?;
    }
    let header = header.scaled(scale);
    let pixels = header.width as u64 * header.height as u64;
    let shape = (side(header.width), side(header.height));
    take_room(pixels * (CHANNELS + RGB) + coefficients, shape, limits)?;
    let rgb = match header.colorspace {
        Colorspace::CMYK | Colorspace::YCCK => {
            // Inverted whether the file says so or not, as every program has come to write them and Pillow reads them.
            let inks = samples(&mut decompressor, bytes, &header, PixelFormat::CMYK, limits.spare)?;
            opaque::from_cmyk(&inks, |light| 255 - light)
        }
        _ => samples(&mut decompressor, bytes, &header, PixelFormat::RGB, limits.spare)?,
    };
    let image = RgbImage::from_raw(shape.0, shape.1, rgb).expect("sized by the header");
    Ok(Decoded { image: DynamicImage::ImageRgb8(image), orientation: orientation(bytes) })
}

/// How much smaller than stored the picture is decoded: as much as leaves enough for the frame. The transform back from
/// frequencies then makes fewer pixels of each block of 8 by 8.
fn scale(header: &DecompressHeader, frame: &Frame) -> ScalingFactor {
    let eighths = REDUCED.map(|eighths| ScalingFactor::new(eighths, 8));
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let enough = |scale: &ScalingFactor| {
        !header.is_lossless && frame.is_enough(side(scale.scale(header.width)), side(scale.scale(header.height)))
    };
    eighths.into_iter().find(enough).unwrap_or(ScalingFactor::ONE)
}

fn samples(
    decompressor: &mut Decompressor,
    bytes: &[u8],
    header: &DecompressHeader,
    format: PixelFormat,
    spare: &mut Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let pitch = header.width * format.size();
    let length = pitch * header.height;
    let mut pixels = std::mem::take(spare);
    if pixels.capacity() < length {
        pixels = vec![0; length];
    }
    // What is left of an earlier picture is written over, not cleared first.
    pixels.resize(length, 0);
    let image = Image { pixels: &mut *pixels, width: header.width, pitch, height: header.height, format };
    decompressor.decompress(bytes, image).map_err(broken)?;
    Ok(pixels)
}

fn broken(error: turbojpeg::Error) -> Failure {
    match error {
        turbojpeg::Error::TurboJpegError(message) => Format::Jpeg.broken(message),
        error => Format::Jpeg.broken(error),
    }
}

/// What the metadata before the first scan say.
fn orientation(bytes: &[u8]) -> Orientation {
    let first = |route: &[u8]| {
        segments(bytes).find_map(|(marker, data)| (marker == 0xe1).then(|| data.strip_prefix(route)).flatten())
    };
    orientation::stated(first(b"Exif\0\0"), first(b"http://ns.adobe.com/xap/1.0/\0"))
}

/// The marker segments before the first scan: marker and content of each.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        // Markers may be preceded by any number of fill bytes.
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, ..] = *rest else { return None };
        let data = rest.get(4..2 + usize::from(u16::from_be_bytes([high, low])))?;
        rest = &rest[4 + data.len()..];
        // A scan's entropy-coded data follow its header.
        (marker != 0xda).then_some((marker, data))
    })
}
