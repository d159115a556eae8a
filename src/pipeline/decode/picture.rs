//! From the bytes of an image file to upright, opaque RGB pixels.
//!
//! The format is told by content, limits are checked on the header before any pixel is allocated, the EXIF orientation
//! is applied, transparency is composited on white, and of an animation the first frame is taken. A file that ends early
//! is refused rather than tagged on what is missing.

use std::io::Cursor;

use image::error::{LimitError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::fit::Picture;
use crate::failure::{Code, Failure};
use crate::model::hex;

/// The longest side that is read: more than any JPEG or GIF can have, little enough to resize in good time.
const MAX_SIDE: u32 = 65_535;

/// What is refused, and what is looked at.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pixels an image may have.
    pub max_pixels: u64,
    /// Take pixels as they are stored, whatever EXIF says of how to turn them.
    pub ignore_orientation: bool,
}

/// Decoded pixels.
pub struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Pixels {
    /// As the resizer takes them.
    ///
    /// # Panics
    /// Never: decoded pictures have as many bytes as their size says.
    #[must_use]
    pub fn as_picture(&self) -> Picture<'_> {
        Picture::new(self.width, self.height, &self.rgb).expect("a decoded picture has width * height pixels")
    }
}

/// Decodes an image.
///
/// # Errors
/// `image_undecodable`, naming the format sniffed, or `image_too_large`.
pub fn decode(bytes: &[u8], settings: &Settings) -> Result<Pixels, Failure> {
    let format = sniff(bytes)?;
    let broken = |error: ImageError| undecodable(format, &error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, settings.max_pixels)?;
    // What the size allows, with room for 16-bit RGBA and the decoder's own tables; a lying header gets no more.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(settings.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    decoder.set_limits(limits).map_err(broken)?;
    let orientation = if settings.ignore_orientation {
        Orientation::NoTransforms
    } else {
        decoder.orientation().unwrap_or(Orientation::NoTransforms)
    };
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Failure::new(Code::ImageUndecodable, "a JPEG file that ends before its image does"));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    Ok(Pixels { width, height, rgb: opaque(image) })
}

fn sniff(bytes: &[u8]) -> Result<ImageFormat, Failure> {
    let format = image::guess_format(bytes).ok().filter(ImageFormat::reading_enabled);
    format.ok_or_else(|| {
        let head = hex(&bytes[..bytes.len().min(16)]);
        Failure::new(
            Code::ImageUndecodable,
            format!(
                "no image format that is read here (JPEG, PNG, WebP, GIF, BMP, TIFF): {} bytes that start {head}",
                bytes.len()
            ),
        )
    })
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), Failure> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > max_pixels {
        return Err(Failure::new(
            Code::ImageTooLarge,
            format!(
                "the image is {width}x{height}, {pixels} pixels, over the limit of {max_pixels} (--max-image-pixels)"
            ),
        ));
    }
    if width.max(height) > MAX_SIDE {
        return Err(Failure::new(
            Code::ImageTooLarge,
            format!("the image is {width}x{height}, and no side may be over {MAX_SIDE} pixels"),
        ));
    }
    if pixels == 0 {
        return Err(Failure::new(Code::ImageUndecodable, format!("the image is {width}x{height}: it has no pixels")));
    }
    Ok(())
}

fn undecodable(format: ImageFormat, error: &ImageError) -> Failure {
    let code = match error {
        ImageError::Limits(LimitError { .. }) if is_memory(error) => Code::ImageTooLarge,
        _ => Code::ImageUndecodable,
    };
    Failure::new(code, format!("a {} file that can't be decoded: {error}", format.to_mime_type()))
}

fn is_memory(error: &ImageError) -> bool {
    matches!(error, ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory))
}

/// Whether the last scan of a JPEG is closed by an end-of-image marker; the decoder fills what is missing with grey.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // From the end, where the marker is in whole files; one that is followed by a scan is a thumbnail's.
    let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]);
    end.is_some_and(|end| !bytes[end..].windows(2).any(|pair| pair == [0xff, 0xda]))
}

/// RGB, with transparency composited on white as Pillow's `alpha_composite` rounds it.
fn opaque(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let rgba = image.into_rgba8().into_raw();
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
    for pixel in rgba.chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        rgb.extend(pixel[..3].iter().map(|&colour| over_white(u32::from(colour), alpha)));
    }
    rgb
}

fn over_white(colour: u32, alpha: u32) -> u8 {
    let weighted = colour * alpha + 255 * (255 - alpha) + 128;
    // At most 255: the weights add up to 255.
    u8::try_from((weighted + (weighted >> 8)) >> 8).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    const SETTINGS: Settings = Settings { max_pixels: 10_000, ignore_orientation: false };

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("it encodes");
        bytes.into_inner()
    }

    fn code(bytes: &[u8]) -> Option<Code> {
        decode(bytes, &SETTINGS).err().map(|failure| failure.code)
    }

    fn sample() -> DynamicImage {
        RgbImage::from_fn(40, 30, |x, y| Rgb([x, y, 25].map(|value| u8::try_from(value * 4).unwrap_or(255)))).into()
    }

    #[test]
    fn reads_every_format_by_content() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
        for format in [Bmp, Gif, Jpeg, Png, Tiff, WebP] {
            let pixels = decode(&encoded(&sample(), format), &SETTINGS).expect("it decodes");
            assert_eq!((pixels.width, pixels.height, pixels.rgb.len()), (40, 30, 3600), "{format:?}");
        }
    }

    #[test]
    fn transparency_shows_white() {
        let image = RgbaImage::from_fn(2, 1, |x, _| Rgba([10, 20, 30, if x == 0 { 0 } else { 128 }]));
        let pixels = decode(&encoded(&image.into(), ImageFormat::Png), &SETTINGS).expect("it decodes");
        assert_eq!(pixels.rgb, [255, 255, 255, 132, 137, 142]);
    }

    #[test]
    fn refuses_what_is_too_large_before_decoding_it() {
        let image = encoded(&RgbImage::new(200, 51).into(), ImageFormat::Png);
        assert_eq!(code(&image[..64]), Some(Code::ImageTooLarge));
    }

    #[test]
    fn refuses_files_cut_short_at_any_point() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
            let whole = encoded(&sample(), format);
            let pixels = decode(&whole, &SETTINGS).expect("a whole file").rgb;
            let mut refused = 0;
            for cut in 0..whole.len() {
                match decode(&whole[..cut], &SETTINGS) {
                    Err(failure) => {
                        assert_eq!(failure.code, Code::ImageUndecodable, "{format:?} cut at {cut}: {failure}");
                        refused += 1;
                    }
                    // What follows the last pixel may be missing.
                    Ok(decoded) => assert!(decoded.rgb == pixels, "{format:?} cut at {cut} has other pixels"),
                }
            }
            assert!(refused > whole.len() * 9 / 10, "{format:?}: only {refused} of {} cuts refused", whole.len());
        }
    }

    #[test]
    fn refuses_what_is_no_image() {
        for bytes in
            [&b"<!doctype html><html>"[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", b"\x89PNG\r\n\x1a\n"]
        {
            assert_eq!(code(bytes), Some(Code::ImageUndecodable));
        }
    }
}
