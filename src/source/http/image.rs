//! What an image of a request is: a file, base64, a data URI, or a place in a store.

use super::body::Given;
use crate::failure::{Code, Failure};
use crate::pipeline::decode::picture;
use crate::store::inline::Inline;
use crate::store::location::Location;

/// Characters a location has at most: longer than an object's key can be.
const LONGEST_LOCATION: usize = 4096;

/// An image as the pipeline takes it: as a job would name it, or where it is.
#[derive(Debug)]
pub(super) enum Image {
    Named(String),
    Brought(Location),
}

/// Tells what was given. Text that is base64 is an image; a key that could be base64 too is written with its store. Of text
/// that could be a key, the alphabet of URLs and blanks are base64 where an image comes of them.
pub(super) fn image(given: Given) -> Result<Image, Failure> {
    let text = match given {
        Given::File(bytes) => return Ok(Image::Brought(Location::Here(bytes))),
        Given::Text(text) => text,
        Given::Nothing(reason) => return Err(Failure::new(Code::BadJob, reason)),
    };
    if text.trim().is_empty() {
        return Err(Failure::new(Code::BadJob, "the image is empty"));
    }
    let is_named = text.starts_with("data:") || text.contains("://");
    // What may be large is decoded where there is room for it.
    if is_named || (text.len() <= LONGEST_LOCATION && !is_base64(&text)) {
        return Ok(Image::Named(text));
    }
    Ok(Image::Brought(Location::Inline(Inline::base64(text))))
}

/// Returns `true` if a short text is base64, and no key.
fn is_base64(text: &str) -> bool {
    let Ok(bytes) = Inline::base64(text.to_owned()).decode(u64::MAX) else { return false };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\n' | b'\r');
    text.trim().bytes().all(is_plain) || picture::kind(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The location, or the image's bytes.
    fn read(text: &str) -> Result<Result<String, bytes::Bytes>, Code> {
        let image = image(Given::Text(text.into())).and_then(|image| match image {
            Image::Named(location) => Ok(Ok(location)),
            Image::Brought(Location::Inline(inline)) => inline.decode(u64::MAX).map(Err),
            other @ Image::Brought(_) => panic!("{other:?}"),
        });
        image.map_err(|failure| failure.code)
    }

    #[test]
    fn base64_is_an_image_and_anything_else_a_location() {
        for text in ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8=\n"] {
            assert_eq!(read(text), Ok(Err("hello".into())), "{text}");
        }
        for text in ["iVBORw0KGgo-", "iVBORw0KGgo_"] {
            assert!(read(text).is_ok_and(|image| image.is_err()), "{text}: the head of a PNG");
        }
        for text in [
            "cats/my-cat_1",
            "cats/my cat",
            "cats/a.png",
            "s3://b/aGVsbG8=",
            "data:image/png;base64,aGVsbG8=",
            "http://host/a",
            "a b.png",
        ] {
            assert_eq!(read(text), Ok(Ok(text.into())), "{text}");
        }
        for text in ["", " \n", &"*".repeat(5000)] {
            assert_eq!(read(text), Err(Code::BadJob));
        }
    }
}
