//! From samples of any colours to RGBA, as Pillow and libtiff make it.

use super::super::opaque;
use super::directory::Directory;
use super::kind::{self, Colours, Extra, Kind};

/// Samples of fewer than eight bits, one byte each: indices as they are, greys widened.
pub(super) fn unpacked(packed: &[u8], kind: &Kind) -> Vec<u8> {
    let (width, bits) = (kind.width as usize, usize::try_from(kind.bits).unwrap_or(1));
    let most = u8::try_from((1_u32 << bits) - 1).unwrap_or(u8::MAX);
    let widen = if kind.colours == Colours::Palette { 1 } else { u8::MAX / most };
    let rows = packed.chunks_exact((width * bits).div_ceil(8));
    rows.flat_map(|row| {
        (0..width).map(move |x| {
            let bit = x * bits;
            (row[bit / 8] >> (8 - bits - bit % 8) & most) * widen
        })
    })
    .collect()
}

/// Of a value from 0 to 1.
pub(super) fn of_float(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is clamped, and of no number 0 is made"
    )]
    let sample = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    sample
}

/// RGBA of all pixels.
pub(super) fn to_rgba(kind: &Kind, directory: &Directory<'_>, samples: &[u8]) -> Vec<u8> {
    let count = kind.colours.count();
    let palette = palette(directory, kind);
    let mut rgba = Vec::with_capacity(samples.len() / kind.samples * 4);
    for pixel in samples.chunks_exact(kind.samples) {
        let rgb = match kind.colours {
            Colours::Grey { inverted: false } => [pixel[0]; 3],
            Colours::Grey { inverted: true } => [255 - pixel[0]; 3],
            Colours::Rgb => [pixel[0], pixel[1], pixel[2]],
            Colours::Palette => palette.get(usize::from(pixel[0])).copied().unwrap_or_default(),
            Colours::Cmyk => opaque::of_inks([pixel[0], pixel[1], pixel[2], pixel[3]]),
            Colours::YCbCr => of_ycbcr([pixel[0], pixel[1], pixel[2]]),
            Colours::Lab => of_lab([pixel[0], pixel[1], pixel[2]]),
        };
        let (rgb, alpha) = match kind.extra {
            Extra::Nothing => (rgb, u8::MAX),
            Extra::Alpha => (rgb, pixel[count]),
            Extra::Premultiplied => (rgb.map(|colour| divided(colour, pixel[count])), pixel[count]),
        };
        rgba.extend(rgb);
        rgba.push(alpha);
    }
    rgba
}

/// All reds, then all greens, then all blues, of 16 bits.
fn palette(directory: &Directory<'_>, kind: &Kind) -> Vec<[u8; 3]> {
    if kind.colours != Colours::Palette {
        return Vec::new();
    }
    let colours = directory.numbers(kind::COLOURS);
    // Some writers store eight bits.
    let shift = if colours.iter().all(|&colour| colour < 256) { 0 } else { 8 };
    let count = colours.len() / 3;
    let sample = |at: usize| u8::try_from(colours[at] >> shift).unwrap_or(u8::MAX);
    (0..count).map(|index| [sample(index), sample(count + index), sample(2 * count + index)]).collect()
}

/// A colour that was multiplied by its alpha, as Pillow cuts it off.
fn divided(colour: u8, alpha: u8) -> u8 {
    let divided = (u32::from(colour) * 255).checked_div(u32::from(alpha));
    divided.map_or(0, |colour| u8::try_from(colour).unwrap_or(u8::MAX))
}

/// From CIE 1976 L*a*b* under D50, as profiles have it, to sRGB: ISO 11664-4, and the matrix of IEC 61966-2-1 adapted to D50 by
/// Bradford's transform. Pillow's colour management rounds to eight bits on its way, up to nine levels off in the dark.
fn of_lab([lightness, a, b]: [u8; 3]) -> [u8; 3] {
    const WHITE: [f32; 3] = [0.9642, 1.0, 0.8249];
    const TO_RGB: [[f32; 3]; 3] =
        [[3.133_856, -1.616_867, -0.490_615], [-0.978_768, 1.916_142, 0.033_454], [0.071_945, -0.228_991, 1.405_243]];
    let signed = |sample: u8| f32::from(sample.cast_signed());
    let middle = (f32::from(lightness) * 100.0 / 255.0 + 16.0) / 116.0;
    let roots = [middle + signed(a) / 500.0, middle, middle - signed(b) / 200.0];
    let cubed = |root: f32| if root > 6.0 / 29.0 { root.powi(3) } else { 108.0 / 841.0 * (root - 4.0 / 29.0) };
    let light = std::array::from_fn::<f32, 3, _>(|at| cubed(roots[at]) * WHITE[at]);
    TO_RGB.map(|row| {
        let linear = row.iter().zip(light).map(|(factor, light)| factor * light).sum::<f32>().clamp(0.0, 1.0);
        of_float(if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 })
    })
}

/// By JFIF's formulas, in 16 bits of fraction, as libjpeg computes them.
fn of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let round = |product: i32| (product + 0x8000) >> 16;
    let clamp = |value: i32| u8::try_from(value.clamp(0, 255)).unwrap_or(u8::MAX);
    [
        clamp(y + round(91_881 * cr)),
        clamp(y + ((-22_554 * cb - 46_802 * cr + 0x8000) >> 16)),
        clamp(y + round(116_130 * cb)),
    ]
}
