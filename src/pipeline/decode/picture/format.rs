//! Which format a file has, told by its first bytes and never by its name; what is no image that is read here is named as
//! well as it can be.

use std::fmt;

use crate::failure::{Code, Failure};

/// How far into a text its kind is looked for, past comments and declarations.
const TEXT_HEAD: usize = 1024;

/// Bytes of a file that tell its kind.
pub(crate) const HEAD: usize = 64;

/// Kind of a file that is nothing known.
const NO_IMAGE: &str = "no image by its content";

/// Lengths of BMP's headers behind the file header: OS/2 1.x, OS/2 2.x short and whole, Windows 3, its two extensions by
/// Adobe, 4 and 5.
pub(super) const BMP_HEADERS: [usize; 8] = [BMP_CORE, 16, 40, 52, 56, 64, 108, 124];

/// Length of OS/2 1.x's, with sides of 16 bits and palette entries of three bytes.
pub(super) const BMP_CORE: usize = 12;

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Jxl,
    Avif,
    Heic,
}

impl Format {
    /// Every format this build reads.
    const READ: &[Self] = &[
        Self::Jpeg,
        Self::Png,
        Self::WebP,
        Self::Gif,
        Self::Bmp,
        Self::Tiff,
        #[cfg(feature = "jxl")]
        Self::Jxl,
        #[cfg(feature = "avif")]
        Self::Avif,
        #[cfg(feature = "heic")]
        Self::Heic,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Jxl => "JPEG XL",
            Self::Avif => "AVIF",
            Self::Heic => "HEIC",
        }
    }

    /// The feature of the build that reads it, of those that not every build has.
    const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Jxl => Some("jxl"),
            Self::Avif => Some("avif"),
            Self::Heic => Some("heic"),
            _ => None,
        }
    }

    /// Name in a build that does not read it.
    const fn unread(self) -> &'static str {
        match self {
            Self::Jxl => "JPEG XL, which builds with --features jxl read",
            Self::Avif => "AVIF, which builds with --features avif read",
            Self::Heic => "HEIC, which builds with --features heic read",
            _ => self.name(),
        }
    }

    /// A file of this format that can't be decoded.
    pub(super) fn broken(self, error: impl fmt::Display) -> Failure {
        let article = if self == Self::Avif { "an" } else { "a" };
        undecodable(format!("{article} {self} file that can't be decoded: {error}"))
    }

    /// A file of this format whose decoder needs more memory than an image of its size should.
    pub(super) fn too_large(self, error: impl fmt::Display) -> Failure {
        Failure::new(Code::ImageTooLarge, format!("decoding this {self} file takes too much memory: {error}"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The format of a file.
///
/// # Errors
/// `image_undecodable`, saying what the bytes are instead.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, Failure> {
    let formats = Format::READ.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
    match image_format(bytes) {
        Some(format) if Format::READ.contains(&format) => Ok(format),
        Some(format) => Err(undecodable(format!(
            "{format} is not read by this build, which reads {formats}. The container image reads it, and so does a build \
             with `--features {}`",
            format.feature().unwrap_or_default()
        ))),
        None => Err(undecodable(match other(bytes) {
            Some(what) => format!("{what}, and what is read here is {formats}"),
            None => format!(
                "no image format that is read here ({formats}): {} bytes that start {}",
                bytes.len(),
                hex::encode(&bytes[..bytes.len().min(16)])
            ),
        })),
    }
}

/// The name of a file's format, told from so many of its first bytes as [`HEAD`].
///
/// # Errors
/// A name for what it is instead.
pub(super) fn kind(bytes: &[u8]) -> Result<&'static str, &'static str> {
    match image_format(bytes) {
        // Two letters or bytes that other files begin with too.
        Some(Format::Bmp) if !is_whole_bmp(bytes) => Err(NO_IMAGE),
        Some(format) if Format::READ.contains(&format) => Ok(format.name()),
        Some(format) => Err(format.unread()),
        None => Err(other(bytes).unwrap_or(NO_IMAGE)),
    }
}

fn undecodable(message: String) -> Failure {
    Failure::new(Code::ImageUndecodable, message)
}

fn image_format(bytes: &[u8]) -> Option<Format> {
    Some(match bytes {
        [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
        [b'B', b'M', ..] => Format::Bmp,
        _ if is_bare_bmp(bytes) => Format::Bmp,
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Format::Tiff,
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Format::Jxl,
        _ if brands(bytes).any(|brand| matches!(brand, b"avif" | b"avis")) => Format::Avif,
        _ if brands(bytes).copied().any(is_heic) => Format::Heic,
        _ => return None,
    })
}

/// Returns `true` if bytes have the file header of a BMP and the beginning of another header behind it.
fn is_whole_bmp(bytes: &[u8]) -> bool {
    let length = bytes.get(14..).and_then(<[u8]>::first_chunk).map(|length| u32::from_le_bytes(*length));
    bytes.starts_with(b"BM") && length.is_some_and(|length| BMP_HEADERS.contains(&(length as usize)))
}

/// Returns `true` if bytes are the headers and pixels of a BMP without its file header, as clipboards have it.
fn is_bare_bmp(bytes: &[u8]) -> bool {
    let at = match bytes {
        [12, 0, 0, 0, ..] => 8,
        [40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => 12,
        _ => return false,
    };
    // Its planes and the bits of a pixel.
    matches!(bytes.get(at..at + 4), Some([1, 0, 1 | 4 | 8 | 16 | 24 | 32, 0]))
}

/// The brands of an ISO media file, the family of AVIF, HEIC and MP4: none if it is no such file.
fn brands(bytes: &[u8]) -> impl Iterator<Item = &[u8; 4]> {
    let size = match bytes {
        [a, b, c, d, b'f', b't', b'y', b'p', ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    };
    let (brands, _) = bytes[..size.min(bytes.len())].as_chunks();
    // The box's size and name, the main brand, its version, the other brands.
    brands.iter().skip(2)
}

/// Returns `true` for the brands of pictures in HEVC, and for those of pictures of any coding, which are hardly ever another.
fn is_heic(brand: [u8; 4]) -> bool {
    matches!(&brand, b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1")
}

/// What a file is that is no image read here.
fn other(bytes: &[u8]) -> Option<&'static str> {
    if brands(bytes).any(|brand| brand == b"crx ") {
        return Some("a camera's raw file (CR3): convert it first");
    }
    if brands(bytes).next().is_some() {
        return Some("an MP4 or QuickTime video");
    }
    Some(match bytes {
        [] => "an empty file",
        [b'%', b'P', b'D', b'F', b'-', ..] => "a PDF document",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document (PSD)",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "a Matroska or WebM video",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => "an AVI video",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => "a JPEG 2000 picture",
        [0, 0, 1 | 2, 0, ..] => "an icon or a cursor (ICO)",
        [b'I', b'I', b'U', 0, ..] | [b'I', b'I', b'R', b'O' | b'S', ..] => "a camera's raw file: convert it first",
        [b'F', b'U', b'J', b'I', b'F', b'I', b'L', b'M', ..] => "a camera's raw file (RAF): convert it first",
        [b'P', b'K', 3, 4, ..] | [0x1f, 0x8b, ..] => "an archive",
        [b'{' | b'[', ..] => "JSON",
        _ => return text(&bytes[..bytes.len().min(TEXT_HEAD)]),
    })
}

fn text(head: &[u8]) -> Option<&'static str> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let start = head.trim_start_matches('\u{feff}').trim_start();
    if !start.starts_with('<') {
        return None;
    }
    Some(if start.starts_with("<!doctype html") || start.contains("<html") {
        "an HTML page, as servers send in place of an image"
    } else if start.contains("<svg") {
        "an SVG drawing"
    } else {
        "an XML document, as servers send for errors"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        let failure = sniff(bytes).expect_err("no image");
        assert_eq!(failure.code, Code::ImageUndecodable);
        failure.message
    }

    #[test]
    fn says_what_a_file_is_that_is_no_image() {
        for (bytes, what) in [
            (&b"<!DOCTYPE html>\n<html><body>404"[..], "HTML"),
            (b"\xef\xbb\xbf  <html lang=en>", "HTML"),
            (b"<?xml version='1.0'?><!-- a --><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"<svg width='1'/>", "SVG"),
            (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML"),
            (b"%PDF-1.7", "PDF"),
            (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "MP4"),
            (b"\x1a\x45\xdf\xa3", "WebM"),
            (b"", "empty"),
            (b"hello, there, this is no image", "30 bytes that start 68656c6c6f"),
        ] {
            assert!(message(bytes).contains(what), "{}", message(bytes));
        }
    }

    #[test]
    fn every_refusal_says_what_would_be_read() {
        for bytes in [&b"<html>"[..], b"", b"nothing"] {
            assert!(message(bytes).contains("JPEG, PNG, WebP, GIF, BMP, TIFF"), "{}", message(bytes));
        }
    }

    #[test]
    fn formats_are_told_from_their_family_by_brand() {
        assert_eq!(image_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"), Some(Format::Avif));
        assert_eq!(image_format(b"\0\0\0\x14ftypavis\0\0\0\0avis"), Some(Format::Avif));
        assert_eq!(image_format(b"\0\0\0\x14ftypheic\0\0\0\0avif"), Some(Format::Avif));
        assert_eq!(image_format(b"\0\0\0\x14ftypheic\0\0\0\0heic"), Some(Format::Heic));
        assert_eq!(image_format(b"\0\0\0\x14ftypmif1\0\0\0\0mif1"), Some(Format::Heic));
        assert_eq!(image_format(b"\0\0\0\x08ftyp"), None);
        assert_eq!(image_format(b"\xff\xff\xff\xffftypavif"), Some(Format::Avif));
    }

    #[test]
    fn a_format_that_this_build_leaves_out_names_how_to_get_it() {
        for (bytes, format) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], Format::Heic),
            (b"\0\0\0\x14ftypavif\0\0\0\0avif", Format::Avif),
            (b"\xff\x0a", Format::Jxl),
        ] {
            if Format::READ.contains(&format) {
                assert_eq!(sniff(bytes).ok(), Some(format));
                continue;
            }
            let (message, feature) = (message(bytes), format.feature().expect("a feature"));
            assert!(message.starts_with(format.name()), "{message}");
            assert!(
                message.contains(&format!("--features {feature}")) && message.contains("container image"),
                "{message}"
            );
        }
    }
}
