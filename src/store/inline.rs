//! An image inside a job or a request, as text.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use super::too_large;
use crate::failure::{Code, Failure};

/// With or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A data URI, `data:<media type>;base64,<data>`, or its data alone.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    /// Such as `image/png`, where it was said; what the image really is, its bytes tell.
    pub media_type: String,
    base64: String,
}

impl Inline {
    /// Of base64 alone.
    #[must_use]
    pub(crate) const fn base64(base64: String) -> Self {
        Self { media_type: String::new(), base64 }
    }

    /// Of a data URI, in the memory that it has.
    ///
    /// # Errors
    /// `bad_job` where it is none, or none of an image.
    pub(super) fn data_uri(mut text: String) -> Result<Self, Failure> {
        let head = text.split_once(',').and_then(|(head, _)| head.strip_prefix("data:")?.strip_suffix(";base64"));
        let Some(media_type) = head.filter(|media_type| media_type.starts_with("image/")).map(str::to_owned) else {
            let reason = "field `image`: a data URI must read data:image/<type>;base64,<data>";
            return Err(Failure::new(Code::BadJob, reason));
        };
        text.drain(..="data:;base64".len() + media_type.len());
        Ok(Self { media_type, base64: text })
    }

    /// Bytes the image has at most.
    #[must_use]
    pub(crate) const fn size(&self) -> u64 {
        self.base64.len().div_ceil(4) as u64 * 3
    }

    /// The image's bytes, at most `limit` of them. Padding may be missing, and lines broken.
    ///
    /// # Errors
    /// `image_too_large`, known before anything is decoded; `bad_job` where the data is not base64.
    pub(crate) fn decode(self, limit: u64) -> Result<Bytes, Failure> {
        let mut base64 = self.base64.into_bytes();
        base64.retain(|byte| !byte.is_ascii_whitespace());
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
        for malformed in ["data:", "data:text/html;base64,aGk=", "data:image/png,hi", "data:image/png;base64"] {
            assert_eq!(parse(malformed).expect_err("malformed"), Code::BadJob, "{malformed}");
        }
        let broken = parse("data:image/png;base64,???").expect("a data URI");
        assert_eq!(broken.decode(100).expect_err("not base64").code, Code::BadJob);
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
