//! JPEG XL, by `jxl-oxide`. A picture's orientation is part of its coded form and always applied, so EXIF is ignored.

use image::metadata::Orientation;
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use jxl_oxide::{AllocTracker, InitializeResult, JxlImage, JxlThreadPool};

use super::format::Format;
use super::{Decoded, Limits, admit};
use crate::failure::Failure;

/// Bytes that are read before the size must be known, unless a colour profile or a preview is in between.
const HEAD: usize = 64 << 10;

/// Memory before the size is known, for tables.
const TABLES: usize = 64 << 20;

/// Memory per pixel: everything is computed in floating point, in a few layers.
const BYTES_PER_PIXEL: u64 = 64;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let memory = AllocTracker::with_limit(TABLES);
    let (mut image, rest) = header(bytes, memory.clone())?;
    let (width, height) = (image.width(), image.height());
    admit(Format::Jxl, (width, height), BYTES_PER_PIXEL, limits)?;
    let more = u64::from(width) * u64::from(height) * BYTES_PER_PIXEL;
    memory.expand_limit(usize::try_from(more).unwrap_or(usize::MAX));
    image.feed_bytes(rest).map_err(broken)?;
    // An incomplete frame could be rendered too.
    if image.num_loaded_keyframes() == 0 {
        return Err(broken("it ends before its image does"));
    }
    if image.pixel_format().has_black() {
        return Err(broken("its colours are inks"));
    }
    Ok(Decoded { image: pixels(&image)?, orientation: Orientation::NoTransforms })
}

/// Reads the image as far as its header. Returns the remaining bytes too.
fn header(bytes: &[u8], memory: AllocTracker) -> Result<(JxlImage, &[u8]), Failure> {
    // On this thread alone, because there is one for every core already.
    let mut started = JxlImage::builder().pool(JxlThreadPool::none()).alloc_tracker(memory).build_uninit();
    let (mut fed, mut upto) = (0, 0);
    while upto < bytes.len() {
        upto = bytes.len().min(upto + HEAD);
        fed += started.feed_bytes(&bytes[fed..upto]).map_err(broken)?;
        match started.try_init().map_err(broken)? {
            InitializeResult::Initialized(image) => return Ok((image, &bytes[fed..])),
            InitializeResult::NeedMoreData(more) => started = more,
        }
    }
    Err(broken("it ends before its header does"))
}

fn pixels(image: &JxlImage) -> Result<DynamicImage, Failure> {
    let render = image.render_frame(0).map_err(broken)?;
    let mut stream = render.stream();
    let (width, height, channels) = (stream.width(), stream.height(), stream.channels());
    let mut samples = vec![0_u8; width as usize * height as usize * channels as usize];
    stream.write_to_buffer(&mut samples);
    let pixels = match channels {
        1 => GrayImage::from_raw(width, height, samples).map(DynamicImage::from),
        2 => GrayAlphaImage::from_raw(width, height, samples).map(DynamicImage::from),
        3 => RgbImage::from_raw(width, height, samples).map(DynamicImage::from),
        4 => RgbaImage::from_raw(width, height, samples).map(DynamicImage::from),
        _ => None,
    };
    pixels.ok_or_else(|| broken(format_args!("it has {channels} channels")))
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Format::Jxl.broken(error)
}
