//! Correction of headers that claim missing parts, as other programs leave them, before the decoder reads them. libwebp and
//! Pillow do the same while they read.

use std::borrow::Cow;

/// Flags of WebP's extended header that announce a chunk of EXIF, XMP or alpha, or an animation.
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;
const ALPHA: u8 = 0x10;
const ANIMATION: u8 = 0x02;

/// Returns a WebP whose extended header announces no missing chunk.
pub(super) fn webp(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (Some(b"VP8X"), Some(&flags)) = (bytes.get(12..16), bytes.get(20)) else { return bytes.into() };
    let has = |kind: &[u8; 4]| chunks(bytes).any(|chunk| chunk == kind);
    let mut there = flags;
    for (flag, kind) in [(EXIF, b"EXIF"), (XMP, b"XMP ")] {
        if flags & flag != 0 && !has(kind) {
            there &= !flag;
        }
    }
    // Lossless pictures and the frames of animations store their alpha elsewhere.
    if flags & ALPHA != 0 && flags & ANIMATION == 0 && !has(b"ALPH") && has(b"VP8 ") {
        there &= !ALPHA;
    }
    if there == flags {
        return bytes.into();
    }
    let mut bytes = bytes.to_vec();
    bytes[20] = there;
    bytes.into()
}

/// Kinds of a WebP's chunks.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let ([kind @ .., a, b, c, d], body) = rest.split_first_chunk::<8>()?;
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        rest = body.get(length.checked_next_multiple_of(2)?..).unwrap_or_default();
        Some(kind.as_slice())
    })
}

/// Returns a GIF whose screen has room for its first frame, and that has a table of colours: greys if it had none.
pub(super) fn gif(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(frame) = first_frame(bytes) else { return bytes.into() };
    let (Some(screen), Some(descriptor)) = (bytes.get(..13), bytes.get(frame..frame + 10)) else { return bytes.into() };
    let side = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let needed = |offset: usize, length: usize| side(descriptor, offset).saturating_add(side(descriptor, length));
    let (width, height) = (side(screen, 6).max(needed(1, 5)), side(screen, 8).max(needed(3, 7)));
    let has_colours = screen[10] & 0x80 != 0 || descriptor[9] & 0x80 != 0;
    if has_colours && (width, height) == (side(screen, 6), side(screen, 8)) {
        return bytes.into();
    }
    let mut whole = bytes[..6].to_vec();
    whole.extend([width.to_le_bytes(), height.to_le_bytes()].as_flattened());
    whole.push(screen[10] | if has_colours { 0 } else { 0x87 });
    whole.extend(&screen[11..]);
    if !has_colours {
        whole.extend((0..=u8::MAX).flat_map(|grey| [grey; 3]));
    }
    whole.extend(&bytes[13..]);
    whole.into()
}

/// Offset of the first frame's descriptor.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(10)?;
    let mut at = 13 + if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    loop {
        match bytes.get(at)? {
            0x2c => return Some(at),
            // An extension: its label, and blocks until an empty one.
            0x21 => {
                at += 2;
                while let length @ 1.. = *bytes.get(at)? {
                    at += 1 + usize::from(length);
                }
                at += 1;
            }
            _ => return None,
        }
    }
}
