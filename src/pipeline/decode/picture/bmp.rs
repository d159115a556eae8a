//! BMP, with or without its file header, read as Pillow and Chromium read it: if a header is wrong, the layout of the
//! pixels is taken from the rest of it.

mod header;
mod run_length;

use image::metadata::Orientation;
use image::{DynamicImage, RgbaImage};

use super::format::Format;
use super::{Decoded, Limits, RGB, admit};
use crate::failure::Failure;
use header::{Coding, Header, Mask};

/// Bytes per pixel: RGBA, the index that run-length coding makes first, and the opaque picture.
const BYTES_PER_PIXEL: u64 = 4 + 1 + RGB;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let header = Header::read(bytes).map_err(broken)?;
    admit(Format::Bmp, (header.width, header.height), BYTES_PER_PIXEL, limits)?;
    let rgba = match header.coding {
        Coding::Indices => indexed(&header, &unpacked(&header, bytes)?),
        Coding::Runs { nibbles } => {
            let data = bytes.get(header.start..).unwrap_or_default();
            let indices = run_length::decode(data, nibbles, header.width as usize, header.height as usize);
            let mut indices = indices.ok_or_else(cut_short)?;
            if !header.top_down {
                indices = indices.rchunks_exact(header.width as usize).flatten().copied().collect();
            }
            indexed(&header, &indices)
        }
        Coding::Masks(masks) => masked(&header, &masks, bytes)?,
    };
    let image = RgbaImage::from_raw(header.width, header.height, rgba).expect("four bytes for every pixel");
    Ok(Decoded { image: DynamicImage::ImageRgba8(image), orientation: Orientation::NoTransforms })
}

/// Stored rows, the topmost first.
fn rows<'a>(header: &Header, bytes: &'a [u8]) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, Failure> {
    let (width, height) = (header.width as usize, header.height as usize);
    let used = (width * header.bits).div_ceil(8);
    let stride = used.next_multiple_of(4);
    let data = bytes.get(header.start..).unwrap_or_default();
    // The padding of the last row may be missing.
    if data.len() < stride * (height - 1) + used {
        return Err(cut_short());
    }
    let top_down = header.top_down;
    Ok((0..height).map(move |row| {
        let start = stride * if top_down { row } else { height - 1 - row };
        &data[start..start + used]
    }))
}

/// Indices of pixels of 1, 2, 4 or 8 bits, one byte each.
fn unpacked(header: &Header, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let (width, bits) = (header.width as usize, header.bits);
    let mut indices = Vec::with_capacity(width * header.height as usize);
    let mask = u8::try_from((1_u32 << bits) - 1).unwrap_or(u8::MAX);
    for row in rows(header, bytes)? {
        indices.extend((0..width).map(|x| {
            let bit = x * bits;
            row[bit / 8] >> (8 - bits - bit % 8) & mask
        }));
    }
    Ok(indices)
}

/// Colours of the palette; an index beyond it is black.
fn indexed(header: &Header, indices: &[u8]) -> Vec<u8> {
    let colour = |&index: &u8| {
        let [red, green, blue] = header.palette.get(usize::from(index)).copied().unwrap_or_default();
        [red, green, blue, u8::MAX]
    };
    indices.iter().flat_map(colour).collect()
}

fn masked(header: &Header, masks: &[Mask; 4], bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut rgba = Vec::with_capacity(header.width as usize * header.height as usize * 4);
    let size = header.bits / 8;
    for row in rows(header, bytes)? {
        for pixel in row.chunks_exact(size) {
            let mut value = [0; 4];
            value[..size].copy_from_slice(pixel);
            let value = u32::from_le_bytes(value);
            let [red, green, blue, alpha] = masks;
            rgba.extend([
                red.sample(value, 0),
                green.sample(value, 0),
                blue.sample(value, 0),
                alpha.sample(value, u8::MAX),
            ]);
        }
    }
    Ok(rgba)
}

fn cut_short() -> Failure {
    broken("it ends before its pixels do")
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Format::Bmp.broken(error)
}
