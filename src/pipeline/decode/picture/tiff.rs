//! TIFF. The `tiff` crate unpacks samples, but supports neither palettes nor planes of tiles, so their colours are
//! interpreted here. The crate reads the first directory rewritten, as one of grey pixels of so many samples.

mod directory;
mod kind;
mod samples;

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use tiff::TiffError;
use tiff::decoder::{Decoder, DecodingResult};

use super::format::Format;
use super::{Decoded, Limits, RGB, check, memory, orientation, take_room};
use crate::failure::Failure;
use directory::{Directory, LONG, SHORT};
use kind::{Colours, Kind};

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let directory = Directory::first(bytes).ok_or_else(|| refused("its directory is cut or damaged"))?;
    let kind = Kind::of(&directory, bytes).map_err(refused)?;
    if !has_all_pixels(&directory, bytes.len() as u64) {
        return Err(refused("it is cut: it lacks pixels"));
    }
    let size = (kind.width, kind.height);
    let pixels = check(Format::Tiff, size, limits)?;
    // Pixels as stored, as bytes, as RGBA and opaque, and the file with another directory.
    let each = (kind.samples as u64 * kind.bits).div_ceil(8) + kind.samples as u64 + 4 + RGB;
    take_room(pixels * each + 2 * bytes.len() as u64, size, limits)?;
    let stored = if kind.planar { planes(&directory, &kind, bytes)? } else { chunky(&directory, &kind, bytes)? };
    let image = match (kind.colours, kind.samples) {
        (Colours::Rgb, 3) => RgbImage::from_raw(size.0, size.1, stored).map(DynamicImage::from),
        (Colours::Grey { inverted: false }, 1) => GrayImage::from_raw(size.0, size.1, stored).map(DynamicImage::from),
        _ => {
            let rgba = samples::to_rgba(&kind, &directory, &stored);
            RgbaImage::from_raw(size.0, size.1, rgba).map(DynamicImage::from)
        }
    };
    let image = image.ok_or_else(|| refused("it lacks pixels"))?;
    Ok(Decoded { image, orientation: turned(&directory) })
}

/// Returns `true` if every strip and tile ends within the file. Behind it a directory is appended, which is not pixels.
fn has_all_pixels(directory: &Directory<'_>, length: u64) -> bool {
    let ends_within = |(at, bytes): (u64, u64)| at.checked_add(bytes).is_some_and(|end| end <= length);
    [(kind::STRIP_OFFSETS, kind::STRIP_LENGTHS), (kind::TILE_OFFSETS, kind::TILE_LENGTHS)].into_iter().all(
        |(offsets, lengths)| directory.numbers(offsets).into_iter().zip(directory.numbers(lengths)).all(ends_within),
    )
}

/// Samples of all pixels, eight bits each.
fn chunky(directory: &Directory<'_>, kind: &Kind, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut file = prepared(directory, bytes);
    grey(directory, directory, kind, kind.samples).append_to(&mut file);
    read(&file, kind, kind.samples)
}

/// As [`chunky`], for a picture whose samples are stored apart.
fn planes(directory: &Directory<'_>, kind: &Kind, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let file = prepared(directory, bytes);
    let pixels = kind.width as usize * kind.height as usize;
    let used = kind.samples.min(kind.colours.count() + 1);
    let mut all = vec![0; pixels * kind.samples];
    for plane in 0..used {
        let mut one = Directory::first(bytes).ok_or_else(|| refused("its directory is damaged"))?;
        for tag in [kind::STRIP_OFFSETS, kind::STRIP_LENGTHS, kind::TILE_OFFSETS, kind::TILE_LENGTHS] {
            let values = directory.numbers(tag);
            let each = values.len() / kind.samples;
            if each > 0 {
                one.set(tag, LONG, &values[plane * each..(plane + 1) * each]);
            }
        }
        let mut file = file.clone();
        grey(&one, directory, kind, 1).append_to(&mut file);
        let samples = read(&file, kind, 1)?;
        for (pixel, sample) in all.chunks_exact_mut(kind.samples).zip(samples) {
            pixel[plane] = sample;
        }
    }
    Ok(all)
}

/// Returns the file with all bits in the usual order.
fn prepared(directory: &Directory<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if directory.number(kind::FILL_ORDER) == Some(2) && directory.number(kind::COMPRESSION) != Some(7) {
        for (offsets, lengths) in [(kind::STRIP_OFFSETS, kind::STRIP_LENGTHS), (kind::TILE_OFFSETS, kind::TILE_LENGTHS)]
        {
            for (at, length) in directory.numbers(offsets).into_iter().zip(directory.numbers(lengths)) {
                let range = |at: u64, length: u64| {
                    let start = usize::try_from(at).ok()?;
                    Some(start..start.checked_add(usize::try_from(length).ok()?)?)
                };
                if let Some(strip) = range(at, length).and_then(|range| file.get_mut(range)) {
                    for byte in strip.iter_mut() {
                        *byte = byte.reverse_bits();
                    }
                }
            }
        }
    }
    file
}

/// Directory of a picture of grey pixels with so many samples, which the decoder unpacks and leaves as they are.
fn grey<'a>(chunks: &Directory<'_>, directory: &Directory<'a>, kind: &Kind, samples: usize) -> Directory<'a> {
    let mut grey =
        directory.only(&[kind::WIDTH, kind::HEIGHT, kind::COMPRESSION, kind::ROWS_PER_STRIP, 317, 322, 323, 347]);
    for tag in [kind::STRIP_OFFSETS, kind::STRIP_LENGTHS, kind::TILE_OFFSETS, kind::TILE_LENGTHS] {
        let values = chunks.numbers(tag);
        if !values.is_empty() {
            grey.set(tag, LONG, &values);
        }
    }
    let samples_of = |value: u64| vec![value; samples];
    grey.set(kind::BITS, SHORT, &samples_of(kind.bits));
    grey.set(kind::SAMPLE_FORMAT, SHORT, &samples_of(if kind.float { 3 } else { 1 }));
    grey.set(kind::SAMPLES, SHORT, &[samples as u64]);
    grey.set(kind::PHOTOMETRIC, SHORT, &[1]);
    if samples > 1 {
        grey.set(kind::EXTRA_SAMPLES, SHORT, &vec![0; samples - 1]);
    }
    if directory.number(kind::ROWS_PER_STRIP).is_none() && grey.number(kind::STRIP_OFFSETS).is_some() {
        grey.set(kind::ROWS_PER_STRIP, LONG, &[u64::from(kind.height)]);
    }
    grey
}

/// Unpacks samples to eight bits each.
fn read(file: &[u8], kind: &Kind, count: usize) -> Result<Vec<u8>, Failure> {
    let memory = usize::try_from(memory(kind.width, kind.height)).unwrap_or(usize::MAX);
    let mut limits = tiff::decoder::Limits::default();
    limits.decoding_buffer_size = memory;
    limits.intermediate_buffer_size = memory;
    let mut decoder = Decoder::new(Cursor::new(file)).map_err(broken)?.with_limits(limits);
    let stored = decoder.read_image().map_err(broken)?;
    let samples = match stored {
        DecodingResult::U8(packed) if kind.bits < 8 => samples::unpacked(&packed, kind),
        DecodingResult::U8(bytes) => bytes,
        DecodingResult::U16(wide) => wide.into_iter().map(super::opaque::high).collect(),
        DecodingResult::F32(values) => values.into_iter().map(samples::of_float).collect(),
        _ => return Err(refused("its samples are of a kind that is not read")),
    };
    if samples.len() != kind.width as usize * kind.height as usize * count {
        return Err(refused("it lacks pixels"));
    }
    Ok(samples)
}

fn turned(directory: &Directory<'_>) -> Orientation {
    let stated =
        directory.number(kind::ORIENTATION).and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?));
    stated.unwrap_or_else(|| orientation::stated(None, directory.bytes(kind::XMP)))
}

fn broken(error: TiffError) -> Failure {
    match error {
        TiffError::LimitsExceeded => Format::Tiff.too_large(error),
        error => refused(error),
    }
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Format::Tiff.broken(error)
}
