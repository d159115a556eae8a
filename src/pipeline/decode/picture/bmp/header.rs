//! Headers of BMP, of Windows and OS/2, of every length, and the treatment of impossible values.

use super::super::format::{BMP_CORE as CORE, BMP_HEADERS as LENGTHS};

/// Length of the file header.
const FILE: usize = 14;

/// Maximum entries kept of a palette, as many as a byte can name.
const MAX_COLOURS: usize = 256;

/// Properties known before the pixels.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) top_down: bool,
    /// Bits per pixel.
    pub(super) bits: usize,
    pub(super) coding: Coding,
    /// RGB.
    pub(super) palette: Vec<[u8; 3]>,
    /// Offset of the pixels.
    pub(super) start: usize,
}

/// Storage format of pixels.
pub(super) enum Coding {
    /// Indices of the palette, packed.
    Indices,
    /// Indices in runs, of four bits or of eight.
    Runs { nibbles: bool },
    /// Red, green, blue and alpha, by the bits that each has of a pixel.
    Masks([Mask; 4]),
}

/// Bits of a pixel that form one sample.
#[derive(Clone, Copy)]
pub(super) struct Mask(u32);

impl Mask {
    /// Returns the sample of a pixel, widened or cut to eight bits, or `none` if there is no such sample.
    pub(super) fn sample(self, pixel: u32, none: u8) -> u8 {
        if self.0 == 0 {
            return none;
        }
        let shift = self.0.trailing_zeros();
        let (value, most) = ((pixel & self.0) >> shift, self.0 >> shift);
        if most == 0xff {
            return value.to_le_bytes()[0];
        }
        // Cut off, as Pillow does.
        u8::try_from(u64::from(value) * 255 / u64::from(most)).unwrap_or(u8::MAX)
    }
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let at = if bytes.starts_with(b"BM") { FILE } else { 0 };
        let start = if at == 0 { 0 } else { u32_at(bytes, 10).ok_or_else(cut)? as usize };
        let length = u32_at(bytes, at).ok_or_else(cut)? as usize;
        if !LENGTHS.contains(&length) {
            return Err(format!("its header has {length} bytes, and no kind of BMP has such a header"));
        }
        let header = bytes.get(at..at + length).ok_or_else(cut)?;
        let number = |at| u32_at(header, at).unwrap_or(0);
        let short = |at| u16_at(header, at).unwrap_or(0);
        let (width, height, bits, compression, colours) = if length == CORE {
            (u32::from(short(4)), i64::from(short(6)), short(10), 0, 0)
        } else {
            (number(4), i64::from(number(8).cast_signed()), short(14), number(16), number(32) as usize)
        };
        let mut end = at + length;
        let coding = coding(compression, bits, length, |index| {
            if length >= 52 {
                return Ok(number(40 + 4 * index));
            }
            end += 4;
            u32_at(bytes, end - 4).ok_or_else(cut)
        })?;
        let mut this = Self {
            width,
            height: u32::try_from(height.unsigned_abs()).unwrap_or(u32::MAX),
            top_down: height < 0,
            bits: usize::from(bits),
            coding,
            palette: Vec::new(),
            start,
        };
        this.read_palette(bytes, end, if length == CORE { 3 } else { 4 }, colours);
        Ok(this)
    }

    /// Reads the palette, and finds the start of pixels whose offset is missing or lies in the headers.
    fn read_palette(&mut self, bytes: &[u8], headers_end: usize, size: usize, colours: usize) {
        let colours = match (self.bits, colours) {
            (9.., colours) => colours, // For screens of few colours.
            (bits, 0) => 1 << bits,
            (_, colours) => colours,
        };
        let indexed = self.bits <= 8;
        let palette_end = headers_end.saturating_add(colours.saturating_mul(size));
        if self.start < headers_end || (indexed && self.start == headers_end) {
            self.start = palette_end;
        }
        if indexed {
            let end = palette_end.min(self.start).min(bytes.len());
            let entries = bytes.get(headers_end..end).unwrap_or_default().chunks_exact(size);
            self.palette = entries.take(MAX_COLOURS).map(|entry| [entry[2], entry[1], entry[0]]).collect();
        }
    }
}

/// Returns the storage format of pixels. `mask` reads the mask of a sample.
fn coding(
    compression: u32,
    bits: u16,
    length: usize,
    mut mask: impl FnMut(usize) -> Result<u32, String>,
) -> Result<Coding, String> {
    let masks = |red, green, blue, alpha| Ok(Coding::Masks([Mask(red), Mask(green), Mask(blue), Mask(alpha)]));
    match (compression, bits) {
        (0, 1 | 2 | 4 | 8) => Ok(Coding::Indices),
        (0, 16) => masks(0x7c00, 0x3e0, 0x1f, 0),
        (0, 24 | 32) => masks(0xff_0000, 0xff00, 0xff, 0),
        (1, 8) => Ok(Coding::Runs { nibbles: false }),
        (2, 4) => Ok(Coding::Runs { nibbles: true }),
        // In OS/2's headers, 3 and 4 are Huffman coding and runs of 24 bits.
        (3 | 4, _) if length == 16 || length == 64 => Err("its coding is one of OS/2 that is not read here".into()),
        (3 | 6, 16 | 24 | 32) => {
            let (red, green, blue) = (mask(0)?, mask(1)?, mask(2)?);
            let alpha = if length >= 56 || compression == 6 { mask(3)? } else { 0 };
            masks(red, green, blue, alpha)
        }
        (4, _) => Err("its pixels are a JPEG, as printers get them".into()),
        (5, _) => Err("its pixels are a PNG, as printers get them".into()),
        _ => Err(format!("it has {bits} bits a pixel in compression {compression}, and no BMP has")),
    }
}

fn cut() -> String {
    "it ends in its header".into()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_few_bits_are_widened_and_cut_off() {
        assert_eq!(Mask(0xf800).sample(0xffff, 0), 255);
        assert_eq!(Mask(0x7e0).sample(1 << 5, 0), 4);
        assert_eq!(Mask(0x3ff0_0000).sample(0x1ff0_0000, 0), 127);
        assert_eq!(Mask(0).sample(7, 9), 9);
    }
}
