//! Orientation of a picture, from EXIF, otherwise from XMP, as Pillow reads them.

use image::metadata::Orientation;

/// Name of the XMP attribute or element.
const XMP_NAME: &[u8] = b"tiff:Orientation";

/// Orientation in a file's metadata, if any: an EXIF block with or without its `Exif` prefix, or XMP as text.
pub(super) fn stated(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let exif = exif.and_then(|exif| Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)));
    exif.or_else(|| xmp.and_then(of_xmp)).unwrap_or(Orientation::NoTransforms)
}

/// Orientation from `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn of_xmp(xmp: &[u8]) -> Option<Orientation> {
    let at = xmp.windows(XMP_NAME.len()).position(|window| window == XMP_NAME)?;
    let ([b'=', b'"' | b'\'', value, ..] | [b'>', value, ..]) = &xmp[at + XMP_NAME.len()..] else { return None };
    Orientation::from_exif(value.checked_sub(b'0')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIF_3: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0";

    #[test]
    fn exif_goes_before_xmp() {
        let xmp = Some(&b"<x tiff:Orientation=\"6\"/>"[..]);
        assert_eq!(stated(Some(EXIF_3), xmp), Orientation::Rotate180);
        assert_eq!(stated(Some(&[b"Exif\0\0", EXIF_3].concat()), None), Orientation::Rotate180);
        assert_eq!(stated(None, xmp), Orientation::Rotate90);
        assert_eq!(stated(None, Some(b"<tiff:Orientation>8</tiff:Orientation>")), Orientation::Rotate270);
    }

    #[test]
    fn what_makes_no_sense_is_upright() {
        for xmp in
            [&b"tiff:Orientation"[..], b"tiff:Orientation=\"", b"tiff:Orientation=\"9\"", b"tiff:Orientation=\"-\""]
        {
            assert_eq!(stated(Some(b"Exif\0\0II"), Some(xmp)), Orientation::NoTransforms);
        }
    }
}
