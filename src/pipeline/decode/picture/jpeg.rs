//! JPEG, by libjpeg-turbo, with which Pillow decodes too, so the pixels are the same.
//!
//! libjpeg makes a picture of any remainder of a file, grey for missing data, and only warns. Warnings of missing or
//! wrong samples refuse the file; those of unusual headers do not.

mod libjpeg;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::format::Format;
use super::{Decoded, Frame, Limits, RGB, check, opaque, orientation, take_room};
use crate::failure::Failure;
use libjpeg::{Decoder, Header, Warnings};

/// Maximum scans of a progressive JPEG. Encoders write about ten, and each costs a pass over the whole picture.
const MAX_SCANS: u16 = 100;

/// Maximum channels of a decoded picture: inks have four.
const CHANNELS: u64 = 4;

/// Possible sizes of a reduced picture, in eighths of a side. 5, 6 and 7 are left out: their transforms have no SIMD and
/// take longer than the whole one, by more than resizing then saves.
const REDUCED: [u8; 4] = [1, 2, 3, 4];

/// Maximum bytes between the last scan and the end marker that count as stray. A decoder that lost its place in damaged
/// data leaves more: of 4,800 files damaged in every way, those that left any left more than 16.
const MAX_STRAY: u32 = 16;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let mut decoder = Decoder::new(bytes, MAX_SCANS).map_err(broken)?;
    let header = decoder.header().map_err(broken)?;
    let stored = check(Format::Jpeg, (header.width, header.height), limits)?;
    // Coefficients have 16 bits.
    let coefficients = if header.buffered { stored * 2 * CHANNELS } else { 0 };
    let (width, height) = decoder.scale(eighths(&header, limits.frame)).map_err(broken)?;
    let pixels = u64::from(width) * u64::from(height);
    take_room(pixels * (CHANNELS + RGB) + coefficients, (width, height), limits)?;
    let samples = samples(&mut decoder, bytes, (width, height), header.inks, limits.spare)?;
    // Inverted, marked or not: every program has come to write them so, and Pillow reads them so.
    let rgb = if header.inks { opaque::from_cmyk(&samples, |light| 255 - light) } else { samples };
    let image = RgbImage::from_raw(width, height, rgb).expect("sized by the decoder");
    Ok(Decoded { image: DynamicImage::ImageRgb8(image), orientation: orientation(bytes) })
}

/// Size of the decoded picture in eighths of the stored one: the smallest that is enough for the frame. The transform back
/// from frequencies then makes fewer pixels of each block of 8 by 8.
fn eighths(header: &Header, frame: &Frame) -> u8 {
    let side = |length: u32, eighths: u8| {
        u32::try_from((u64::from(length) * u64::from(eighths)).div_ceil(8)).unwrap_or(u32::MAX)
    };
    let enough = |&eighths: &u8| frame.is_enough(side(header.width, eighths), side(header.height, eighths));
    REDUCED.into_iter().find(enough).unwrap_or(8)
}

fn samples(
    decoder: &mut Decoder<'_>,
    bytes: &[u8],
    (width, height): (u32, u32),
    inks: bool,
    spare: &mut Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let channels = if inks { 4 } else { 3 };
    let length = width as usize * height as usize * channels;
    let mut pixels = std::mem::take(spare);
    if pixels.capacity() < length {
        pixels = vec![0; length];
    }
    // Overwrites an earlier picture instead of clearing it first.
    pixels.resize(length, 0);
    let warnings = decoder.decode(&mut pixels).map_err(broken)?;
    damage(&warnings, bytes).map_or(Ok(pixels), |damage| Err(broken(damage.unwrap_or_else(|| decoder.message()))))
}

/// Returns damage to the samples, if any, with a description of it if libjpeg reports none.
#[expect(clippy::option_option, reason = "whether there is damage, and what is known of it")]
fn damage(warnings: &Warnings, bytes: &[u8]) -> Option<Option<String>> {
    if warnings.damage {
        return Some(None);
    }
    // If all samples came before the file ended, only its end marker is missing.
    if warnings.no_end && (!warnings.complete || is_lossless(bytes)) {
        return Some(Some("it ends before its image data do".to_owned()));
    }
    (warnings.stray > MAX_STRAY).then(|| {
        Some(format!(
            "its image data are damaged: {} bytes of them are left when the image is complete",
            warnings.stray
        ))
    })
}

/// Returns `true` if its coding is one whose decoder reports no missing data.
fn is_lossless(bytes: &[u8]) -> bool {
    segments(bytes).any(|(marker, _)| matches!(marker, 0xc3 | 0xcb))
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Format::Jpeg.broken(error)
}

/// Orientation from the metadata before the first scan.
fn orientation(bytes: &[u8]) -> Orientation {
    let first = |route: &[u8]| {
        segments(bytes).find_map(|(marker, data)| (marker == 0xe1).then(|| data.strip_prefix(route)).flatten())
    };
    orientation::stated(first(b"Exif\0\0"), first(b"http://ns.adobe.com/xap/1.0/\0"))
}

/// Marker segments before the first scan: marker and content of each.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        // Markers may be preceded by any number of fill bytes, and decoders skip stray ones.
        while let [0xff, 0xff, ..] | [0..=0xfe, ..] = rest {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, ..] = *rest else { return None };
        let data = rest.get(4..2 + usize::from(u16::from_be_bytes([high, low])))?;
        rest = &rest[4 + data.len()..];
        // A scan's entropy-coded data follow its header.
        (marker != 0xda).then_some((marker, data))
    })
}
