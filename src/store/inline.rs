//! An image inside a job or a request, as text.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::too_large;
use crate::failure::{Code, Failure};

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Image as a data URI, `data:<media type>;base64,<data>`, or as base64 alone.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    /// Media type such as `image/png`, if given. The format is detected from the bytes.
    pub media_type: String,
    base64: String,
}

impl Inline {
    /// Image from base64 alone.
    #[must_use]
    pub(crate) const fn base64(base64: String) -> Self {
        Self { media_type: String::new(), base64 }
    }

    /// Image from a data URI. Reuses the memory of `text`.
    ///
    /// # Errors
    /// `bad_job` if it is not a data URI, or its data is not base64.
    pub(super) fn data_uri(mut text: String) -> Result<Self, Failure> {
        let media_type = text.split_once(',').and_then(|(head, _)| {
            let (parameters, last) = head.strip_prefix("data:")?.rsplit_once(';')?;
            let media_type = parameters.split(';').next().unwrap_or_default().trim();
            last.trim().eq_ignore_ascii_case("base64").then(|| (head.len(), media_type.to_owned()))
        });
        let Some((head, media_type)) = media_type else {
            let reason = "field `image`: a data URI must read data:<type>;base64,<data>";
            return Err(Failure::new(Code::BadJob, reason));
        };
        text.drain(..=head);
        Ok(Self { media_type, base64: text })
    }

    /// Maximum size of the image in bytes.
    #[must_use]
    pub(crate) const fn size(&self) -> u64 {
        self.base64.len().div_ceil(4) as u64 * 3
    }

    /// Decodes the image, up to `limit` bytes. Accepts missing padding, line breaks, the URL alphabet, and percent- or
    /// form-encoded base64.
    ///
    /// # Errors
    /// `image_too_large` (before anything is decoded); `bad_job` if the data is not base64.
    pub(crate) fn decode(self, limit: u64) -> Result<Bytes, Failure> {
        let base64 = plain(self.base64.into_bytes());
        let size = base64.len() as u64 / 4 * 3;
        if size > limit.saturating_add(2) {
            return Err(too_large(size, limit));
        }
        let bytes = BASE64
            .decode(base64)
            .map_err(|error| Failure::new(Code::BadJob, format!("field `image`: its base64 is broken: {error}")))?;
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64, limit));
        }
        Ok(bytes.into())
    }
}

/// Converts base64 to the standard alphabet, without escapes and whitespace.
fn plain(mut base64: Vec<u8>) -> Vec<u8> {
    if base64.contains(&b'%') {
        base64 = percent_encoding::percent_decode(&base64).collect();
    }
    while base64.last().is_some_and(u8::is_ascii_whitespace) {
        base64.pop();
    }
    let start = base64.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    base64.drain(..start);
    let pluses = blanks_are_pluses(&base64);
    base64.retain_mut(|byte| {
        match *byte {
            b' ' if pluses => *byte = b'+',
            b'-' => *byte = b'+',
            b'_' => *byte = b'/',
            _ => {}
        }
        !byte.is_ascii_whitespace()
    });
    base64
}

/// Returns `true` if blanks stand for `+`, which form decoding turns into a blank, and not for line breaks.
fn blanks_are_pluses(base64: &[u8]) -> bool {
    #[expect(clippy::naive_bytecount, reason = "it is read once, and decoding takes longer")]
    let blanks = base64.iter().filter(|&&byte| byte == b' ').count();
    if blanks == 0 {
        return false;
    }
    let length = base64.iter().filter(|byte| **byte == b' ' || !byte.is_ascii_whitespace()).count();
    match (length.is_multiple_of(4), (length - blanks).is_multiple_of(4)) {
        (true, false) => true,
        (false, true) => false,
        _ => {
            // Lines have one length, a multiple of four.
            let mut lines = base64.split(|&byte| byte == b' ').map(<[u8]>::len);
            let first = lines.next().unwrap_or(0);
            let mut rest = lines.collect::<Vec<_>>();
            let last = rest.pop().unwrap_or(0);
            !(first > 0 && first.is_multiple_of(4) && last <= first && rest.iter().all(|&line| line == first))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Inline, Code> {
        Inline::data_uri(text.to_owned()).map_err(|failure| failure.code)
    }

    #[test]
    fn a_data_uri_brings_its_bytes_within_the_limit() {
        let uri = parse("data:image/png;base64,aGVsbG8=").expect("a data URI");
        assert_eq!((uri.media_type.as_str(), uri.size()), ("image/png", 6));
        assert_eq!(uri.clone().decode(5).expect("five bytes"), "hello");
        assert_eq!(uri.decode(4).expect_err("too many").code, Code::ImageTooLarge);
        for malformed in ["data:", "data:image/png,hi", "data:image/png;base64", "data:base64,aGk="] {
            assert_eq!(parse(malformed).expect_err("malformed"), Code::BadJob, "{malformed}");
        }
        let broken = parse("data:image/png;base64,???").expect("a data URI");
        assert_eq!(broken.decode(100).expect_err("not base64").code, Code::BadJob);
    }

    #[test]
    fn data_uris_are_read_as_clients_write_them() {
        for (text, media_type) in [
            ("data:application/octet-stream;base64,aGVsbG8=", "application/octet-stream"),
            ("data:;base64,aGVsbG8=", ""),
            ("data:image/png;name=a.png;charset=utf-8;base64,aGVsbG8=", "image/png"),
            ("data:image/png;BASE64,aGVsbG8%3D", "image/png"),
            ("data:image/png;base64,aGVs%0AbG8%3d", "image/png"),
        ] {
            let uri = parse(text).expect(text);
            assert_eq!(uri.media_type, media_type);
            assert_eq!(uri.decode(5).expect(text), "hello", "{text}");
        }
    }

    #[test]
    fn base64_is_read_in_either_alphabet_and_with_pluses_that_became_blanks() {
        let bytes = [0xff, 0xef, 0xbe, 0xfb, 0xef, 0xbe, 0xff];
        for text in [
            "/+++++++/w==",
            "_-------_w==",
            "_-------_w",
            "/       /w==",
            "/+++ ++++/w==",
            " /+++\n++++/w==\n",
            "/%2b%2b%2b%2b%2b%2b%2b/w==",
        ] {
            assert_eq!(Inline::base64(text.into()).decode(7).expect(text), bytes[..], "{text:?}");
        }
        for text in ["aGVsbG8 IQ==", "aGVs bG8h"] {
            assert!(Inline::base64(text.into()).decode(9).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn base64_is_read_with_and_without_padding_and_lines() {
        for text in ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8=\r\n"] {
            for inline in [Inline::base64(text.into()), parse(&format!("data:image/png;base64,{text}")).expect("one")] {
                assert!(inline.size() >= 5, "{text:?}");
                assert_eq!(inline.decode(5).expect("five bytes"), "hello", "{text:?}");
            }
        }
    }
}
