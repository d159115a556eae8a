//! TIFF, by the `image` crate; what it makes of CMYK is not what Pillow makes of it, and that is read from `tiff` itself.

use std::io::Cursor;

use image::codecs::tiff::TiffDecoder;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, RgbImage};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::{TiffError, TiffResult};

use super::format::Format;
use super::{Decoded, Limits, RGB, admit, memory, opaque, raster};
use crate::failure::Failure;

pub(super) fn decode(bytes: &[u8], limits: &mut Limits<'_>) -> Result<Decoded, Failure> {
    let decoder = TiffDecoder::new(Cursor::new(bytes));
    match decoder {
        Ok(mut decoder) if is_cmyk(&decoder) => {
            let (width, height) = decoder.dimensions();
            admit(Format::Tiff, (width, height), 8 + 4 + RGB, limits)?;
            let samples = cmyk_samples(bytes, memory(width, height)).map_err(broken)?;
            let image = RgbImage::from_raw(width, height, opaque::from_cmyk(&samples, |ink| ink))
                .ok_or_else(|| Format::Tiff.broken("its planes are stored apart"))?;
            let orientation = raster::orientation(&mut decoder);
            Ok(Decoded { image: DynamicImage::ImageRgb8(image), orientation })
        }
        decoder => raster::read(Format::Tiff, decoder, limits),
    }
}

fn is_cmyk(decoder: &impl ImageDecoder) -> bool {
    matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16)
}

fn cmyk_samples(bytes: &[u8], memory: u64) -> TiffResult<Vec<u8>> {
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let mut limits = tiff::decoder::Limits::default();
    limits.decoding_buffer_size = memory;
    limits.intermediate_buffer_size = memory;
    match Decoder::new(Cursor::new(bytes))?.with_limits(limits).read_image()? {
        DecodingResult::U8(samples) => Ok(samples),
        DecodingResult::U16(samples) => Ok(samples.into_iter().map(opaque::high).collect()),
        _ => Err(TiffError::IntSizeError),
    }
}

fn broken(error: TiffError) -> Failure {
    match error {
        TiffError::LimitsExceeded => Format::Tiff.too_large(error),
        error => Format::Tiff.broken(error),
    }
}
