//! Conversion of any samples to 8-bit RGB, as Pillow converts: 16-bit samples keep their high byte, and transparency is
//! composited on white as `alpha_composite` rounds it.

use image::{DynamicImage, RgbImage};

/// Composites the image on white.
pub(super) fn on_white(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let rgb = match image {
        DynamicImage::ImageRgb8(image) => return image,
        DynamicImage::ImageLuma8(image) => flatten(image.as_raw(), |&[grey]: &[u8; 1]| [grey; 3]),
        DynamicImage::ImageLumaA8(image) => flatten(image.as_raw(), |&[grey, alpha]| over_white([grey; 3], alpha)),
        DynamicImage::ImageRgba8(image) => flatten(image.as_raw(), |&[r, g, b, alpha]| over_white([r, g, b], alpha)),
        DynamicImage::ImageLuma16(image) => flatten(image.as_raw(), |&[grey]: &[u16; 1]| [high(grey); 3]),
        DynamicImage::ImageLumaA16(image) => {
            flatten(image.as_raw(), |&[grey, alpha]| over_white([high(grey); 3], high(alpha)))
        }
        DynamicImage::ImageRgb16(image) => flatten(image.as_raw(), |rgb: &[u16; 3]| rgb.map(high)),
        DynamicImage::ImageRgba16(image) => {
            flatten(image.as_raw(), |&[r, g, b, alpha]| over_white([r, g, b].map(high), high(alpha)))
        }
        // The remaining kinds are floating point; `image` rounds their values.
        other => flatten(other.into_rgba8().as_raw(), |&[r, g, b, alpha]| over_white([r, g, b], alpha)),
    };
    RgbImage::from_raw(width, height, rgb).expect("three bytes for every pixel")
}

/// RGB of CMYK as Pillow computes it. JPEG stores the light that an ink leaves, TIFF the amount of ink: `ink` returns the
/// ink of a sample.
pub(super) fn from_cmyk(cmyk: &[u8], ink: impl Fn(u8) -> u8) -> Vec<u8> {
    flatten(cmyk, |inks: &[u8; 4]| of_inks(inks.map(&ink)))
}

/// RGB of one pixel's inks.
pub(super) fn of_inks([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| clamp(light - div255(u32::from(ink) * light)))
}

fn flatten<const CHANNELS: usize, Sample>(samples: &[Sample], rgb: impl Fn(&[Sample; CHANNELS]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks();
    pixels.iter().flat_map(rgb).collect()
}

fn over_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    rgb.map(|colour| clamp(div255(u32::from(colour) * alpha + 255 * (255 - alpha))))
}

/// Divides by 255 and rounds, for products of two bytes.
const fn div255(product: u32) -> u32 {
    let rounded = product + 128;
    (rounded + (rounded >> 8)) >> 8
}

fn clamp(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

pub(super) fn high(sample: u16) -> u8 {
    sample.to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use image::{GrayAlphaImage, ImageBuffer, Luma, RgbaImage};

    use super::*;

    #[test]
    fn transparency_shows_white() {
        let image = RgbaImage::from_raw(2, 1, vec![10, 20, 30, 0, 10, 20, 30, 128]).expect("two pixels");
        assert_eq!(on_white(image.into()).into_raw(), [255, 255, 255, 132, 137, 142]);
        let image = GrayAlphaImage::from_raw(2, 1, vec![7, 255, 7, 0]).expect("two pixels");
        assert_eq!(on_white(image.into()).into_raw(), [7, 7, 7, 255, 255, 255]);
    }

    #[test]
    fn sixteen_bits_keep_their_high_byte() {
        let image = ImageBuffer::<Luma<u16>, _>::from_raw(3, 1, vec![0x00ff, 0x80ff, 0xffff]).expect("three pixels");
        assert_eq!(on_white(image.into()).into_raw(), [0, 0, 0, 128, 128, 128, 255, 255, 255]);
    }

    #[test]
    fn inks_darken_as_in_pillow() {
        // Image.new("CMYK", (1, 1), (10, 20, 30, 40)).convert("RGB"), and the corners.
        assert_eq!(from_cmyk(&[10, 20, 30, 40], |ink| ink), [207, 198, 190]);
        assert_eq!(from_cmyk(&[0, 0, 0, 0, 9, 9, 9, 255], |ink| ink), [255, 255, 255, 0, 0, 0]);
        assert_eq!(from_cmyk(&[245, 235, 225, 215], |light| 255 - light), [207, 198, 190]);
    }
}
